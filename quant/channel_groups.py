"""Channels that must be scaled by one factor if they are scaled at all: union-find over the channels of all values.

Multiplying a channel by a positive factor where it is made, and dividing by it where it is read, leaves the network's
outputs as they are. Products absorb factors on both sides; additions, pools, ReLUs and movements pass them on, so their
channels are tied; whatever else reads or makes a value fixes its channels at factor 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, name_of, shape_of

Labels = npt.NDArray[np.int64]

FIXED = -1
"""The label of channels that keep factor 1."""

PRODUCTS = frozenset({"top.Conv", "top.MatMul", "top.Scale"})
"""Operations whose weights absorb factors of what they read and of what they make."""

HOMOGENEOUS = frozenset({"top.Relu", "top.LeakyRelu", "top.PRelu", "top.MaxPool", "top.AvgPool", "top.MulConst"})
"""Operations of one tensor that pass a positive factor of a channel on, and keep its place."""


RESHAPES = frozenset({"top.Reshape", "top.Squeeze", "top.Unsqueeze", "top.Permute"})
"""Operations that move every element of one tensor elsewhere."""


@dataclass(frozen=True)
class ChannelGroups:
    """By value: the axis of its channels, and the group of each channel, 0 up to `count`, or FIXED for factor 1.

    A value of fewer than two axes has no channels.
    """

    axes: Mapping[str, int]
    labels: Mapping[str, Labels]
    count: int


def channel_axes(network: Network) -> dict[str, int]:
    """The axis of each value's channels: the last for what matrix products read or make, else the second."""
    products = [op for op in network.operations if op.name == "top.MatMul"]
    last = {name_of(v) for op in products for v in (op.operands[0], op.results[0])}
    others = [op for op in network.operations if op.name not in PRODUCTS]
    for op in [*others, *reversed(others)]:
        shape = shape_of(op.results[0])
        alike = [v for v in _read(network, op) if shape_of(v) == shape]
        names = {name_of(v) for v in [*alike, *op.results]}
        if alike and not last.isdisjoint(names):
            last |= names
    shapes = {name_of(v): shape_of(v) for v in network.values()}
    return {n: len(shape) - 1 if n in last else 1 for n, shape in shapes.items() if len(shape) > 1}


def _read(network: Network, op: Operation) -> list[SSAValue]:
    """The operands that are neither constant nor absent."""
    return [v for v in op.operands if network.weight(v) is None and not is_absent(v)]


def channel_groups(network: Network) -> ChannelGroups:
    """The groups of a canonical TOP network."""
    return _Grouping(network).finish()


class _Grouping:
    """Union-find over one node for each channel of each value; node 0 stands for all that keep factor 1."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._axes = channel_axes(network)
        self._nodes: dict[str, Labels] = {}
        total = 1
        for value in network.values():
            name = name_of(value)
            if name in self._axes:
                size = shape_of(value)[self._axes[name]]
                self._nodes[name] = np.arange(total, total + size)
                total += size
        self._parent = list(range(total))
        for value in [*network.inputs, *network.outputs]:
            self._fix(value)
        for op in network.operations:
            self._visit(op)

    def _find(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def _join(self, a: Labels, b: Labels) -> None:
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            first, second = sorted((self._find(one), self._find(other)))
            self._parent[second] = first

    def _fix(self, value: SSAValue) -> None:
        nodes = self._nodes.get(name_of(value))
        if nodes is not None:
            self._join(nodes, np.zeros_like(nodes))

    def _visit(self, op: Operation) -> None:
        read = _read(self._network, op)
        if op.name in PRODUCTS:
            passed = len(read) == 1 and self._absorbs(op)
        elif op.name in HOMOGENEOUS or (op.name == "top.Clip" and attributes_of(op)["min"] == 0):
            passed = len(read) == 1 and self._tied(read[0], op.results[0])
        elif op.name in ("top.Add", "top.Sub"):
            passed = all(self._tied(v, op.results[0]) for v in read)
        elif op.name == "top.Mul":
            passed = self._follows_one_factor(op, read)
        elif op.name in RESHAPES:
            passed = self._follows_movement(op)
        else:
            passed = op.name == "top.Concat" and self._joins(op, read)
        if not passed:
            for value in [*read, *op.results]:
                self._fix(value)

    def _absorbs(self, op: Operation) -> bool:
        """Whether channels of operand and result lie where the weights of the product run along them."""
        axes = [self._axes.get(name_of(v)) for v in (op.operands[0], op.results[0])]
        if op.name != "top.MatMul":
            return axes == [1, 1]
        attributes, right = attributes_of(op), shape_of(op.operands[1])
        transposed = any(attributes[n] for n in ("left_transpose", "right_transpose", "output_transpose"))
        last = axes == [len(shape_of(v)) - 1 for v in (op.operands[0], op.results[0])]
        return last and not transposed and len(right) > 1 and math.prod(right[:-2]) == 1

    def _tied(self, x: SSAValue, y: SSAValue) -> bool:
        """Ties the channels of two values one to one; False where they do not lie alike."""
        a, b = self._nodes.get(name_of(x)), self._nodes.get(name_of(y))
        if a is None or b is None or len(a) != len(b) or self._axes[name_of(x)] != self._axes[name_of(y)]:
            return False
        self._join(a, b)
        return True

    def _follows_one_factor(self, op: Operation, read: list[SSAValue]) -> bool:
        """Ties the result of a product of tensors to its one operand of the same shape and fixes the others."""
        full = [v for v in read if shape_of(v) == shape_of(op.results[0])]
        if len(full) != 1 or not self._tied(full[0], op.results[0]):
            return False
        for other in read:
            if other is not full[0]:
                self._fix(other)
        return True

    def _follows_movement(self, op: Operation) -> bool:
        """Ties each channel of the result to the one channel of the operand it is made of, if that is so for all."""
        x, y = op.operands[0], op.results[0]
        a, b = self._nodes.get(name_of(x)), self._nodes.get(name_of(y))
        if a is None or b is None:
            return False
        wide = [len(a) if axis == self._axes[name_of(x)] else 1 for axis in range(len(shape_of(x)))]
        source = np.broadcast_to(np.arange(len(a)).reshape(wide), shape_of(x))
        order = attributes_of(op).get("order")
        moved = source.reshape(shape_of(y)) if order is None else source.transpose(order)
        rows = np.moveaxis(moved, self._axes[name_of(y)], 0).reshape(len(b), -1)
        if not (rows == rows[:, :1]).all():
            return False
        self._join(b, a[rows[:, 0]])
        return True

    def _joins(self, op: Operation, read: list[SSAValue]) -> bool:
        """Ties the operands of a Concat to the parts of its result, or to all of it if it runs along another axis."""
        y = op.results[0]
        axis = self._axes.get(name_of(y))
        if axis is None or len(read) != len(op.operands) or any(self._axes.get(name_of(v)) != axis for v in read):
            return False
        along = attributes_of(op)["axis"] % len(shape_of(y)) == axis
        nodes, start = self._nodes[name_of(y)], 0
        for value in read:
            part = self._nodes[name_of(value)]
            self._join(part, nodes[start : start + len(part)] if along else nodes)
            start += len(part)
        return True

    def finish(self) -> ChannelGroups:
        """The groups, counted in the order of the network."""
        roots = np.array([self._find(node) for node in range(len(self._parent))])
        _, numbers = np.unique(roots, return_inverse=True)
        labels = {name: numbers[nodes].astype(np.int64) - 1 for name, nodes in self._nodes.items()}
        return ChannelGroups(self._axes, labels, int(numbers.max()))
