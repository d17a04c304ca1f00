"""Which tensors must share one quantized type: groups found by union-find over the operations that move data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.quant.ranges import Range

MOVEMENTS = frozenset(
    f"top.{name}" for name in ("Reshape", "Permute", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Concat")
)
"""Operations that move elements and compute nothing: they work in any precision and keep the type of what they move."""


class Groups:
    """Disjoint sets of value names; a set is named by whichever member joined it first in the order of the network."""

    def __init__(self, names: Iterable[str]) -> None:
        self._order = {name: i for i, name in enumerate(names)}
        self._parent = {name: name for name in self._order}

    def find(self, name: str) -> str:
        """The member that stands for the set of `name`."""
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, a: str, b: str) -> None:
        """Makes one set of the sets of `a` and `b`."""
        first, second = sorted((self.find(a), self.find(b)), key=self._order.__getitem__)
        self._parent[second] = first

    def sets(self) -> dict[str, list[str]]:
        """Members by the name that stands for them, in the order of the network."""
        found: dict[str, list[str]] = {}
        for name in self._order:
            found.setdefault(self.find(name), []).append(name)
        return found


SIMILAR = math.sqrt(2)
"""Sharing the wider of two scales costs the other readers of the narrower tensor (ratio**2 - 1) times its rounding
noise and saves the joined tensor one rounding: below this ratio it pays."""


def keeps_type(op: Operation) -> bool:
    """Whether the results of `op` must have the quantized type of its operand."""
    if op.name == "top.MaxPool":
        return not attributes_of(op)["do_relu"]
    return op.name in MOVEMENTS and op.name != "top.Concat"


def tied_values(network: Network, precisions: Mapping[str, str], ranges: Mapping[str, Range]) -> Groups:
    """The groups of values that share a type; `ranges` of the values that have one of their own.

    Operands and results of movements and maximum pools are tied. An operand of a Concat is tied to the result when
    nothing but what is tied to the result reads it, or when their ranges are close (SIMILAR); any other operand keeps
    its own type and the lowering requantizes it, so that a wide neighbour does not coarsen what other readers see.
    """
    groups = Groups(name_of(v) for v in network.values())
    quantized = [op for op in network.operations if precisions[name_of(op)] == "INT8"]
    for op in quantized:
        if keeps_type(op):
            for result in op.results:
                groups.join(name_of(op.operands[0]), name_of(result))
    for op in quantized:
        if op.name == "top.Concat" and not attributes_of(op)["do_relu"]:
            _tie_concat(network, groups, op, ranges)
    return groups


def _tie_concat(network: Network, groups: Groups, concat: Operation, ranges: Mapping[str, Range]) -> None:
    values = {name_of(v): v for v in network.values()}
    outputs = {name_of(v) for v in network.outputs}
    for operand in concat.operands:
        if network.weight(operand) is not None:
            continue
        members = groups.sets()
        root, result = groups.find(name_of(operand)), groups.find(name_of(concat))
        group = members[root]
        alone = outputs.isdisjoint(group) and all(_only_reaches(values[m], concat, groups, root) for m in group)
        if alone or _are_similar([ranges[m] for m in [*group, *members[result]] if m in ranges]):
            groups.join(root, result)


def _only_reaches(value: SSAValue, concat: Operation, groups: Groups, root: str) -> bool:
    def leads_there(reader: Operation) -> bool:
        joined = reader.name == "top.Concat" and groups.find(name_of(reader)) == root
        return reader is concat or keeps_type(reader) or joined

    return all(leads_there(use.operation) for use in value.uses)


def _are_similar(ranges: list[Range]) -> bool:
    thresholds = [r.threshold for r in ranges]
    return max(thresholds) <= SIMILAR * min(thresholds) and len({r.low < 0 for r in ranges}) == 1
