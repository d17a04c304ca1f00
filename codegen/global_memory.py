"""Addresses in global memory: buffers whose lifetimes do not meet share bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tpu_deploy.codegen.items import Item
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import LoadOperand
from tpu_deploy.codegen.storages import Placement
from tpu_deploy.codegen.works import Copy, FillMemory

ALIGN = 4096
"""Buffers start on this boundary: what the vendor's runtime maps."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer is alive from item `first` to item `last`, both included."""

    buffer: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class GlobalPlan:
    """Offsets of all buffers from the start of the context memory, its size, and the least size any plan needs."""

    offsets: dict[str, int]
    size: int
    lower_bound: int


def _touched(item: Item) -> list[str]:
    """The buffers of global memory an item reads or writes."""
    work = item.work
    if isinstance(work, Copy):
        return [work.source.buffer, work.target.buffer]
    if isinstance(work, FillMemory):
        return [work.target.buffer]
    assert item.program is not None
    found = [work.result.buffer] if item.stored else []
    for action in item.program.actions:
        if isinstance(action, LoadOperand) and action.buffer not in item.inputs:
            found.append(work.storage(action).buffer)
    return found


def lifetimes(placement: Placement, items: Sequence[Item]) -> list[Lifetime]:
    """When each buffer that is used at all is alive, in items.

    Inputs and outputs are alive throughout, so that a run can be repeated.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, item in enumerate(items):
        for buffer in _touched(item):
            first.setdefault(buffer, index)
            last[buffer] = index
    for storage in (*placement.inputs, *placement.outputs):
        first[storage.buffer], last[storage.buffer] = 0, len(items)
    used = [b for b in first if b not in placement.constants]
    return [Lifetime(b, round_up(max(placement.buffers[b], 1), ALIGN), first[b], last[b]) for b in used]


def assign(alive: Iterable[Lifetime]) -> GlobalPlan:
    """Best fit, largest buffers first."""
    placed: list[tuple[Lifetime, int]] = []
    for item in sorted(alive, key=lambda t: (-t.size, t.first, t.buffer)):
        taken = sorted((o, o + t.size) for t, o in placed if t.first <= item.last and item.first <= t.last)
        offset, best, best_gap = 0, None, None
        for start, stop in taken:
            gap = start - offset
            if gap >= item.size and (best_gap is None or gap < best_gap):
                best, best_gap = offset, gap
            offset = max(offset, stop)
        placed.append((item, offset if best is None else best))
    size = max((o + t.size for t, o in placed), default=0)
    steps = {t.first for t, _ in placed}
    bound = max((sum(t.size for t, _ in placed if t.first <= k <= t.last) for k in steps), default=0)
    return GlobalPlan({t.buffer: o for t, o in placed}, size, bound)
