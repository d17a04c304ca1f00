"""Which commands must stay behind which, whatever else their order: all that meet in local or global memory.

A legal order is taken as the meaning. The TIU keeps its order; what the DMA engine does may move as far as this allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.dependencies import GRANULE

Ids = npt.NDArray[np.int64]

_ITEMSIZE = (1, 2, 4, 2, 4, 2, 1, 1)
"""Bytes of an element by the code of its type."""


_EVERYTHING = 1 << 40


@dataclass(frozen=True)
class Precedence:
    """Commands by their place among those of their engine, counted from 0.

    `tiu_before[k]` is how many commands of the TIU must have run before the DMA engine's command k; `dma_before[k]` are
    the DMA engine's that must; `dma_needed[t]` are those that must have run before the TIU's command t.
    """

    tiu_before: list[int]
    dma_before: list[list[int]]
    dma_needed: list[list[int]]


def precedence(commands: Sequence[PlannedCommand], chip: Chip) -> Precedence:
    """What must stay in the order it has in a legal order of commands."""
    local, far = _LocalTouches(chip), _GlobalTouches(len(commands))
    found = Precedence([], [], [])
    tiu = dma = 0
    for command in commands:
        reads, writes = [_granules(r) for r in command.reads], [_granules(r) for r in command.writes]
        if command.engine == "TIU":
            found.dma_needed.append(local.tiu(tiu, reads, writes))
            tiu += 1
        else:
            before, earlier = local.dma(dma, reads, writes)
            found.tiu_before.append(before)
            found.dma_before.append(sorted({*earlier, *far.dma(dma, command)}))
            dma += 1
    return found


def _granules(part: LocalRange) -> slice:
    return slice(part.start // GRANULE, -(-part.stop // GRANULE))


def _distinct(ids: Ids) -> list[int]:
    """The numbers above 0 that occur, most runs of equal ones being long."""
    if not len(ids):
        return []
    steps = np.flatnonzero(ids[1:] != ids[:-1])
    found = {int(ids[0]), *(int(k) for k in ids[1:][steps])}
    found.discard(0)
    return sorted(found)


class _LocalTouches:
    """Who touched each granule of local memory last; numbers count from 1, 0 is nobody."""

    def __init__(self, chip: Chip) -> None:
        size = chip.lane_bytes // GRANULE
        self.tiu_wrote, self.tiu_touched, self.dma_wrote, self.dma_touched = (np.zeros(size, np.int64) for _ in "1234")

    def tiu(self, number: int, reads: Sequence[slice], writes: Sequence[slice]) -> list[int]:
        """Notes a command of the TIU; the commands of the DMA engine it follows."""
        found: set[int] = set()
        for part in reads:
            found.update(_distinct(self.dma_wrote[part]))
            self.tiu_touched[part] = number + 1
        for part in writes:
            found.update(_distinct(self.dma_touched[part]))
            self.tiu_touched[part] = self.tiu_wrote[part] = number + 1
        return [k - 1 for k in sorted(found)]

    def dma(self, number: int, reads: Sequence[slice], writes: Sequence[slice]) -> tuple[int, list[int]]:
        """Notes a command of the DMA engine: how many of the TIU's, and which of its own, it follows.

        Two that read the same keep their order too, so that who writes there next need only follow the last.
        """
        before = 0
        found: set[int] = set()
        for part in reads:
            before = max(before, int(self.tiu_wrote[part].max(initial=0)))
        for part in writes:
            before = max(before, int(self.tiu_touched[part].max(initial=0)))
        for part in (*reads, *writes):
            found.update(_distinct(self.dma_touched[part]))
            self.dma_touched[part] = number + 1
        for part in writes:
            self.dma_wrote[part] = number + 1
        return before, [k - 1 for k in found]


class _GlobalTouches:
    """The bytes of global memory that commands of the DMA engine read and write."""

    def __init__(self, most: int) -> None:
        self.reads, self.writes = _Spans(most), _Spans(most)

    def dma(self, number: int, command: PlannedCommand) -> list[int]:
        """Notes a command; those it follows because one of them writes what the other touches."""
        read, written = _span(command, "src"), _span(command, "dst")
        found: list[int] = []
        if read is not None:
            found += self.writes.meeting(*read)
        if written is not None:
            found += [*self.writes.meeting(*written), *self.reads.meeting(*written)]
            self.writes.add(number, *written)
        if read is not None:
            self.reads.add(number, *read)
        return found


class _Spans:
    """Spans of bytes [start, stop) of the context memory, each of a command."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self.numbers, self.starts, self.stops = (np.zeros(most, np.int64) for _ in "123")

    def add(self, number: int, start: int, stop: int) -> None:
        """Notes a span."""
        self.numbers[self.count], self.starts[self.count], self.stops[self.count] = number, start, stop
        self.count += 1

    def meeting(self, start: int, stop: int) -> list[int]:
        """The commands whose spans overlap this one."""
        known = slice(0, self.count)
        return [int(k) for k in self.numbers[known][(self.starts[known] < stop) & (self.stops[known] > start)]]


def _span(command: PlannedCommand, side: str) -> tuple[int, int] | None:
    """The first and behind the last byte of context memory that one side of a command may touch."""
    address: Address | None = command.addresses.get(side)
    if address is None or address.space is not Space.CONTEXT:
        return None
    if command.instruction != "DMA_tensor":
        return 0, _EVERYTHING
    fields = command.fields
    shape = "dst" if fields.get("fill_constant_en") else "src"
    elements = 1 + sum(
        (fields.get(f"{shape}_{k}size", 1) - 1) * fields.get(f"{side}_{k}stride", 1 if k == "w" else 0) for k in "nchw"
    )
    return address.offset, address.offset + elements * _ITEMSIZE[fields.get("src_data_format", 0)]
