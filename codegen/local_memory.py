"""Addresses in local memory for the buffers of one tile program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import Buffer, Fill, LoadConstant, LoadOperand, Step, StoreResult, TileProgram

from tpu_deploy.chips import Chip


@dataclass(frozen=True)
class Interval:
    """A buffer is alive from action `first` to action `last`, both included."""

    buffer: Buffer
    first: int
    last: int


def intervals(program: TileProgram) -> list[Interval]:
    """When each buffer of a program is alive."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, action in enumerate(program.actions):
        match action:
            case Step():
                touched = [a.buffer for a in (*action.reads, *action.writes)]
            case LoadOperand() | LoadConstant() | Fill() | StoreResult():
                touched = [action.buffer]
        for name in touched:
            first.setdefault(name, index)
            last[name] = index
    return [Interval(b, first[b.name], last[b.name]) for b in program.buffers if b.name in first]


def allocate(
    alive: Sequence[Interval], chip: Chip, start: int, stop: int, fixed: Mapping[str, tuple[int, int]]
) -> dict[str, int] | None:
    """Offsets in [start, stop) for the given intervals, None when they do not fit.

    `fixed` are buffers placed already, (offset, bytes): alive throughout. Buffers that are alive together do not overlap;
    a buffer shares no bank with those it is to be kept apart from, if both are alive together.
    """
    placed: dict[str, tuple[int, int, int, int]] = {n: (o, o + b, -1, 1 << 60) for n, (o, b) in fixed.items()}
    apart = {i.buffer.name: set(i.buffer.apart) for i in alive}
    for item in alive:
        for other in item.buffer.apart:
            apart.setdefault(other, set()).add(item.buffer.name)
    bank = chip.bank_bytes
    for item in sorted(alive, key=lambda i: (-i.buffer.bytes, i.first, i.buffer.name)):
        size = round_up(item.buffer.bytes, chip.vector_bytes)
        blocked = []
        for name, (low, high, first, last) in placed.items():
            if first > item.last or last < item.first:
                continue
            if name in apart[item.buffer.name]:
                low, high = low // bank * bank, round_up(high, bank)
            blocked.append((low, high))
        offset = start
        for low, high in sorted(blocked):
            if offset + size <= low:
                break
            offset = max(offset, round_up(high, item.buffer.align))
        # A buffer kept apart from a later one must not end in the middle of a bank the later one begins in: blocked
        # ranges of the later one are widened to whole banks instead, so nothing is to be done here.
        if offset + size > stop:
            return None
        placed[item.buffer.name] = (offset, offset + size, item.first, item.last)
    return {name: low for name, (low, *_) in placed.items()}
