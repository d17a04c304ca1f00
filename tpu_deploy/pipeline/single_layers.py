"""The layers of a quantized network, each to be executed alone: what lies between tensors the float network has too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, dtype_of, name_of, uniform_of
from tpu_deploy.numbers import widened

Array = npt.NDArray[Any]

CASTS = frozenset({"tpu.Quantize", "tpu.Dequantize", "tpu.Cast"})
"""Operations that only change how a tensor is stored."""


@dataclass(frozen=True)
class Stored:
    """A value of the quantized network that holds the tensor `tensor` of the float network."""

    tensor: str
    value: SSAValue

    @property
    def name(self) -> str:
        """The name of the value."""
        return name_of(self.value)

    def cut(self, reals: Array) -> Array | None:
        """Real values cut to what the value's type holds; None where that cuts nothing."""
        low, high = self._ends(reals.ndim)
        if not reals.size or (low.size == 1 and low <= reals.min() and reals.max() <= high):
            return None
        return np.clip(reals, low, high)

    def _ends(self, rank: int) -> tuple[Array, Array]:
        """The smallest and largest value it holds, float32, in shapes that broadcast over a tensor of `rank` axes."""
        kind = uniform_of(self.value)
        if kind is None:
            most = np.finfo(np.float16).max if dtype_of(self.value) == np.float16 else np.inf
            return np.array(-most, np.float32), np.array(most, np.float32)
        ends, scales = np.iinfo(kind.dtype), kind.scales_over(rank)
        low, high = (np.asarray(scales * (end - kind.zero_point), np.float32) for end in (ends.min, ends.max))
        return low, high

    def store(self, reals: Array) -> Array:
        """Real values as the value holds them."""
        kind = uniform_of(self.value)
        with np.errstate(over="ignore"):
            if kind is None:
                return reals.astype(dtype_of(self.value), copy=False)
            return kind.quantize(reals)

    def load(self, stored: Array) -> Array:
        """What the value holds as float32."""
        kind = uniform_of(self.value)
        return widened(stored) if kind is None else kind.dequantize(stored)


@dataclass(frozen=True)
class SingleLayer:
    """What makes the tensor `result` from the tensors before it.

    `operands` are stored as the layers before leave them, `read` (by tensor) as this layer computes with them: where
    they differ, the layer casts them itself. `operations` of the quantized network are in order.
    """

    result: Stored
    operands: tuple[Stored, ...]
    read: dict[str, Stored]
    operations: tuple[Operation, ...]

    @property
    def quantizes(self) -> bool:
        """Whether the layer itself casts an operand."""
        return any(self.read[each.tensor].value is not each.value for each in self.operands)

    def has(self, *names: str) -> bool:
        """Whether one of its operations has one of these names."""
        return any(op.name in names for op in self.operations)


def single_layers(network: Network, tensors: Iterable[str]) -> dict[str, SingleLayer]:
    """The layers of a TPU `network` by the name of their result, in order; `tensors` are those of the float network."""
    known = set(tensors)
    held_in = holders(network, known)
    order = {id(op): index for index, op in enumerate(network.operations)}
    layers = {}
    for op in network.operations:
        value = op.results[0]
        if name_of(value) in known:
            layers[name_of(value)] = _layer(network, value, held_in, order)
    return layers


def holders(network: Network, tensors: Iterable[str]) -> dict[SSAValue, str]:
    """The tensor that each value holds, of those that hold one: a tensor that is returned is held in two types."""
    known = set(tensors)
    found = {value: name_of(value) for value in network.values() if name_of(value) in known}
    for op in network.operations:
        if op.name in CASTS and name_of(op) in known and op.operands[0] not in found:
            found[op.operands[0]] = name_of(op)
    return found


def _layer(network: Network, value: SSAValue, held_in: dict[SSAValue, str], order: dict[int, int]) -> SingleLayer:
    own = name_of(value)
    operands: dict[str, Stored] = {}
    read: dict[str, Stored] = {}
    inside: dict[int, Operation] = {}
    front = [value]
    while front:
        owner = front.pop().owner
        assert isinstance(owner, Operation)
        if id(owner) in inside:
            continue
        inside[id(owner)] = owner
        for operand in owner.operands:
            held = held_in.get(operand, own)
            if network.weight(operand) is not None:
                continue
            if held == own:
                front.append(operand)
                continue
            operands[held] = Stored(held, operand)
            read[held] = Stored(held, owner.results[0] if owner.name in CASTS else operand)
    operations = sorted(inside.values(), key=lambda op: order[id(op)])
    return SingleLayer(Stored(own, value), tuple(operands.values()), read, tuple(operations))
