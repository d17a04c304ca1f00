"""The table of kernels: TPU operation to the function that prepares its execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of, uniform_of
from tpu_deploy.runtime.reference.workers import Workers

Array = npt.NDArray[Any]

Kernel = Callable[[Sequence[Array]], Array]
"""Operand arrays (C-contiguous, never written to) to the result (C-contiguous; may share memory with an operand)."""


@dataclass(frozen=True)
class Site:
    """One operation with what a kernel wants to know of it."""

    op: Operation
    network: Network
    workers: Workers

    @property
    def name(self) -> str:
        """The name of the result."""
        return name_of(self.op)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Python values of the attributes, defaults filled in."""
        return attributes_of(self.op)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return shape_of(self.op.results[0])

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """What memory holds for the result."""
        return dtype_of(self.op.results[0])

    @property
    def scales(self) -> npt.NDArray[np.float64]:
        """The scales of the quantized result, in a shape that broadcasts over it: one, or one a channel."""
        kind = uniform_of(self.op.results[0])
        assert kind is not None, f"{self.name} is not quantized"
        return kind.scales_over(len(self.shape))

    @cached_property
    def zero_point(self) -> int:
        """The zero point of the result, 0 when it is not quantized."""
        kind = uniform_of(self.op.results[0])
        return 0 if kind is None else kind.zero_point

    def operand_shape(self, index: int) -> tuple[int, ...]:
        """The shape of an operand."""
        return shape_of(self.op.operands[index])

    def operand_dtype(self, index: int) -> np.dtype[Any]:
        """What memory holds for an operand."""
        return dtype_of(self.op.operands[index])

    def operand_scales(self, index: int) -> npt.NDArray[np.float64]:
        """The scales of a quantized operand, as `scales`."""
        kind = uniform_of(self.op.operands[index])
        assert kind is not None, f"an operand of {self.name} is not quantized"
        return kind.scales_over(len(self.operand_shape(index)))

    def operand_zero_point(self, index: int) -> int:
        """The zero point of an operand, 0 for a weight or a float."""
        kind = uniform_of(self.op.operands[index])
        return 0 if kind is None else kind.zero_point

    def operand_range(self, index: int) -> tuple[int, int]:
        """Least and greatest stored integer of an operand, less its zero point."""
        limits, zero = np.iinfo(self.operand_dtype(index)), self.operand_zero_point(index)
        return int(limits.min) - zero, int(limits.max) - zero

    def weight(self, index: int) -> Array:
        """The array of an operand that must be a weight."""
        array = self.network.weight(self.op.operands[index])
        if array is None:
            raise ValueError(f"{self.name}: operand {index} of {self.op.name} must be a weight")
        return array


Builder = Callable[[Site], Kernel]

BUILDERS: dict[str, Builder] = {}
"""What prepares the kernel of each operation; filled by the family files."""


def kernel(name: str) -> Callable[[Builder], Builder]:
    """Registers the decorated builder for the operation `name`. Registering a name twice is an error."""

    def register(builder: Builder) -> Builder:
        if name in BUILDERS:
            raise ValueError(f"{name} has two reference kernels")
        BUILDERS[name] = builder
        return builder

    return register
