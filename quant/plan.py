"""What quantization decides, as plain data: the type of each tensor and the precision of each operation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.ir.weights import WeightStore
from tpu_deploy.numbers import BFLOAT16

FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
"""The float precisions, spelt as in the vendor's quantize tables, with the dtypes they compute in."""

PRECISIONS = ("INT8", *FLOATS)
"""Precisions an operation can be planned in."""

INTEGER_PRODUCTS = frozenset({"top.Conv", "top.MatMul", "top.Scale"})
"""Operations that, planned in INT8, can give their sums as floats instead of rounding them to 8 bits."""

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
"""The smallest and largest stored integer of each quantized dtype."""


@dataclass(frozen=True)
class TensorQuantization:
    """How a tensor is stored: floats as they are, or integers q that stand for `scale * (q - zero_point)`.

    With `factors` index c of `axis` has the scale `scale * factors[c]`; they lie in (0, 1], and the largest is 1.
    """

    dtype: str
    scale: float = 1.0
    zero_point: int = 0
    factors: tuple[float, ...] = ()
    axis: int = 1

    def __post_init__(self) -> None:
        """Takes factors from any sequence."""
        object.__setattr__(self, "factors", tuple(self.factors))

    @property
    def is_quantized(self) -> bool:
        """Whether integers are stored."""
        return self.dtype in LIMITS

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype of what is stored."""
        return BFLOAT16 if self.dtype == BFLOAT16.name else np.dtype(self.dtype)

    @property
    def low(self) -> float:
        """The smallest real value that can be stored, in the widest channel; minus infinity for floats."""
        return (LIMITS[self.dtype][0] - self.zero_point) * self.scale if self.is_quantized else -np.inf

    @property
    def high(self) -> float:
        """The largest real value that can be stored, in the widest channel; infinity for floats."""
        return (LIMITS[self.dtype][1] - self.zero_point) * self.scale if self.is_quantized else np.inf

    def factors_over(self, rank: int) -> npt.NDArray[np.float64]:
        """The factors in a shape that broadcasts over a tensor of so many axes; ones where there are none."""
        if not self.factors:
            return np.ones((1,) * rank)
        return np.array(self.factors).reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


FLOAT32 = TensorQuantization("float32")

FLOAT_TYPES = {precision: TensorQuantization(dtype) for precision, dtype in FLOATS.items()}
"""The tensor types of the float precisions."""


@dataclass(frozen=True, eq=False)
class ChosenWeights:
    """Integer weights of one operation that were chosen otherwise than by rounding each to nearest.

    `weights` int8 in the layout of the operation's own; the product in reals is
    `sum(x * weights) * scales + bias` per output channel, x in reals, scales and bias float64 (channels). A scale may
    hold a correction of the channel's gain, and a bias one of its mean.
    """

    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        """Whether all three arrays are the same, shapes and bits."""
        if not isinstance(other, ChosenWeights):
            return NotImplemented
        pairs = ((self.weights, other.weights), (self.scales, other.scales), (self.bias, other.bias))
        return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Trial:
    """What one pass brought on samples kept apart: signal to noise in dB without it and with it, and whether it stays.

    Cycles are the chip's for a batch, where they were estimated.
    """

    name: str
    words: str
    before: float
    after: float
    cycles_before: int | None
    cycles_after: int | None
    kept: bool


@dataclass(frozen=True)
class QuantizationPlan:
    """Types by value name, precisions and chosen weights by operation name (the name of its first result).

    A value that is made as a float and that an INT8 operation reads has the quantized type that the cast between them
    takes; any other value has the type it is made in. Weights that `weights` does not name are rounded by
    `weight_method`. `results` names INT8 operations (INTEGER_PRODUCTS) whose sums become floats of that precision.
    `trials` tell how a plan that was tried out came about.
    """

    tensors: Mapping[str, TensorQuantization]
    operations: Mapping[str, str]
    weight_method: str = "mse"
    weights: Mapping[str, ChosenWeights] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()

    def made_in(self, operation: str) -> str:
        """The precision of the result of an operation: a float one, or INT8."""
        return self.results.get(operation, self.operations[operation])

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-able data without the arrays of its weights, which `arrays` holds."""
        return {
            "tensors": {name: asdict(t) for name, t in self.tensors.items()},
            "operations": dict(self.operations),
            "weight_method": self.weight_method,
            "chosen_weights": list(self.weights),
            "results": dict(self.results),
            "trials": [asdict(trial) for trial in self.trials],
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of the chosen weights, each under its operation's name and its own."""
        return {f"{name}.{part}": getattr(w, part) for name, w in self.weights.items() for part in _PARTS}

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> QuantizationPlan:
        """The plan that `to_json` and `arrays` gave."""
        held = arrays or {}
        chosen = {n: ChosenWeights(*(held[f"{n}.{part}"] for part in _PARTS)) for n in data.get("chosen_weights", ())}
        return cls(
            {name: TensorQuantization(**t) for name, t in data["tensors"].items()},
            dict(data["operations"]),
            data["weight_method"],
            chosen,
            dict(data.get("results", {})),
            tuple(Trial(**trial) for trial in data.get("trials", ())),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, and the arrays of chosen weights, if any, to `weights_path(path)` beside it."""
        if self.weights:
            WeightStore(self.arrays()).save(weights_path(path))
        with replacing(path) as stream:
            stream.write(f"{json.dumps(self.to_json(), indent=1)}\n".encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QuantizationPlan:
        """The plan that `save` wrote, bit for bit. Raises BadInput for files that hold none."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            arrays = WeightStore.load(weights_path(path)) if data.get("chosen_weights") else None
            return cls.from_json(data, arrays)
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror or error}); give a quantization plan") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: is no quantization plan ({error}); write it anew") from error


_PARTS = ("weights", "scales", "bias")


def weights_path(path: str | os.PathLike[str]) -> Path:
    """Where the chosen weights of the plan at `path` lie."""
    return Path(path).with_name(f"{Path(path).name}.weights.npz")
