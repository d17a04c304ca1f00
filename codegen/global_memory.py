"""Addresses in global memory: buffers whose lifetimes do not meet share bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.storages import Placement
from tpu_deploy.codegen.works import Compute, Work

ALIGN = 4096
"""Buffers start on this boundary: what the vendor's runtime maps."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer is alive from work `first` to work `last`, both included."""

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


def buffers_of(work: Work) -> list[str]:
    """The buffers a work reads or writes."""
    if isinstance(work, Compute):
        return [s.buffer for s in (*work.operands, work.result) if s is not None]
    return [work.target.buffer, *([work.source.buffer] if hasattr(work, "source") else [])]


def lifetimes(placement: Placement) -> list[Lifetime]:
    """When each buffer is alive. Inputs and outputs are alive throughout, so that a run can be repeated."""
    end = len(placement.works)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, work in enumerate(placement.works):
        for buffer in buffers_of(work):
            first.setdefault(buffer, index)
            last[buffer] = index
    for storage in (*placement.inputs, *placement.outputs):
        first[storage.buffer], last[storage.buffer] = 0, end
    return [Lifetime(b, round_up(max(placement.buffers[b], 1), ALIGN), first[b], last[b]) for b in first]


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
