"""What quantization decides, as plain data: the type of each tensor and the precision of each operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PRECISIONS = ("INT8", "F32")
"""Precisions an operation can be planned in, spelt as in the vendor's quantize tables."""

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
"""The smallest and largest stored integer of each quantized dtype."""


@dataclass(frozen=True)
class TensorQuantization:
    """How a tensor is stored: float32 as it is, or integers q that stand for `scale * (q - zero_point)`."""

    dtype: str
    scale: float = 1.0
    zero_point: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether integers are stored."""
        return self.dtype in LIMITS

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype of what is stored."""
        return np.dtype(self.dtype)

    @property
    def low(self) -> float:
        """The smallest real value that can be stored; minus infinity for float32."""
        return (LIMITS[self.dtype][0] - self.zero_point) * self.scale if self.is_quantized else -np.inf

    @property
    def high(self) -> float:
        """The largest real value that can be stored; infinity for float32."""
        return (LIMITS[self.dtype][1] - self.zero_point) * self.scale if self.is_quantized else np.inf


FLOAT32 = TensorQuantization("float32")


@dataclass(frozen=True)
class QuantizationPlan:
    """Types by value name, precisions by operation name (the name of its first result), and how weights are rounded.

    A value that a float operation makes and an INT8 operation reads has the quantized type that the cast between them
    takes; a value no INT8 operation touches is float32.
    """

    tensors: Mapping[str, TensorQuantization]
    operations: Mapping[str, str]
    weight_method: str = "mse"

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-able data; `from_json` reads it back."""
        return {
            "tensors": {name: asdict(t) for name, t in self.tensors.items()},
            "operations": dict(self.operations),
            "weight_method": self.weight_method,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantizationPlan:
        """The plan that `to_json` wrote."""
        return cls(
            {name: TensorQuantization(**t) for name, t in data["tensors"].items()},
            dict(data["operations"]),
            data["weight_method"],
        )
