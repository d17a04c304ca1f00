"""What an emitter sees of an operation: shapes, types, constants and attributes, no IR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir import dialect
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of, uniform_of
from tpu_deploy.ir.weights import Array


@dataclass(frozen=True)
class Tensor:
    """Shape and storage type of a value; `constant` holds its elements when it is a weight.

    `scales` are those of its channels, in a shape that broadcasts over it, where they have scales of their own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float = 1.0
    zero_point: int = 0
    constant: Array | None = None
    scales: Array | None = None


@dataclass(frozen=True)
class OperationView:
    """One TPU operation: `operands` by position, and by the names its dialect row gives them."""

    kind: str
    operands: tuple[Tensor, ...]
    names: Mapping[str, int]
    result: Tensor
    attributes: Mapping[str, Any]

    def operand(self, name: str) -> Tensor:
        """The operand the dialect row calls `name`."""
        return self.operands[self.names[name]]

    def constant(self, name: str) -> Array:
        """The elements of the constant operand `name`."""
        array = self.operand(name).constant
        assert array is not None, f"{self.kind}: {name} is not a constant"
        return array


def _tensor(network: Network, value: SSAValue) -> Tensor:
    uniform = uniform_of(value)
    shape, constant = shape_of(value), network.weight(value)
    if uniform is None:
        return Tensor(name_of(value), shape, dtype_of(value), constant=constant)
    scales = uniform.scales_over(len(shape)) if uniform.is_per_axis else None
    return Tensor(name_of(value), shape, dtype_of(value), uniform.scale, uniform.zero_point, constant, scales)


def view(network: Network, op: Operation) -> OperationView:
    """The view of an operation of a TPU network."""
    row = dialect.row_of(op)
    names = {} if row.operands[0].startswith("*") else {n.rstrip("?"): k for k, n in enumerate(row.operands)}
    operands = tuple(_tensor(network, v) for v in op.operands)
    return OperationView(op.name, operands, names, _tensor(network, op.results[0]), dialect.attributes_of(op))
