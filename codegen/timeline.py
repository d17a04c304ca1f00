"""Local memory over time: where every buffer lies and from when, so that transfers run ahead of their use.

Time counts slots, one for each item (a tile of an operation). A buffer takes a rectangle of addresses and slots. First
everything is placed for just the slots it cannot do without; then each load, in the order in which they are needed,
is moved to the earliest slot from which its bytes are free, which may be many items ahead of its use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.layout import round_up

Numbers = npt.NDArray[np.int64]


@dataclass
class Block:
    """A buffer on the timeline: alive in slots [first, last], both included, at `offset` once placed.

    `apart` are blocks whose banks it may not share; `away` are blocks in whose first bank it had better not begin.
    """

    name: str
    bytes: int
    first: int
    last: int
    apart: list[Block] = field(default_factory=list, repr=False)
    away: list[Block] = field(default_factory=list, repr=False)
    offset: int = -1

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.bytes


class Timeline:
    """Blocks placed so far, as columns of numbers: a block keeps its row."""

    def __init__(self, blocks: int, slots: int, chip: Chip, height: int) -> None:
        self.chip = chip
        self.height = height
        self.slots = slots
        self.blocks: list[Block] = []
        self.row: dict[int, int] = {}
        self.first, self.last, self.low, self.high = (np.zeros(blocks, np.int64) for _ in "1234")

    def _others(self, block: Block, first: int) -> tuple[Numbers, Numbers, Numbers]:
        """What lies in the slots from `first` to a block's last one: address ranges, and their last slots.

        Ranges of blocks it is kept apart from are widened to banks.
        """
        count = len(self.blocks)
        own = self.row.get(id(block))
        meeting = (self.first[:count] <= block.last) & (self.last[:count] >= first)
        if own is not None:
            meeting[own] = False
        low, high, last = self.low[:count][meeting], self.high[:count][meeting], self.last[:count][meeting]
        apart = [self.row[id(b)] for b in block.apart if id(b) in self.row]
        if apart:
            bank = self.chip.bank_bytes
            places = np.cumsum(meeting) - 1
            for row in apart:
                if meeting[row]:
                    k = places[row]
                    low[k], high[k] = low[k] // bank * bank, round_up(int(high[k]), bank)
        return low, high, last

    def _candidates(self, block: Block, high: Numbers) -> Numbers:
        """Offsets worth trying, the best first: where ranges end, and the banks after those to stay away from."""
        bank, align = self.chip.bank_bytes, self.chip.vector_bytes
        starts = np.append(-(-high // align) * align, 0)
        shunned = np.array(sorted({a.offset // bank for a in block.away if a.offset >= 0}), np.int64)
        if len(shunned):
            inside = starts[np.isin(starts // bank, shunned)]
            starts = np.concatenate([starts, (inside // bank + 1) * bank])
        starts = np.unique(starts)
        starts = starts[starts <= self.height - block.bytes]
        if len(shunned):
            clash = np.isin(starts // bank, shunned)
            starts = np.concatenate([starts[~clash], starts[clash]])
        return starts

    def place(self, block: Block) -> bool:
        """Puts a block at the first free offset for all its slots; False when there is none."""
        low, high, _ = self._others(block, block.first)
        starts = self._candidates(block, high)
        taken = ((starts[:, None] < high) & (starts[:, None] + block.bytes > low)).any(axis=1)
        free = starts[~taken]
        if not len(free):
            return False
        block.offset = int(free[0])
        row = len(self.blocks)
        self.blocks.append(block)
        self.row[id(block)] = row
        self.first[row], self.last[row], self.low[row], self.high[row] = (
            block.first,
            block.last,
            block.offset,
            block.end,
        )
        return True

    def advance(self, block: Block, earliest: int) -> None:
        """Moves a placed load to the offset from which it can begin soonest, not before slot `earliest`."""
        needed, floor = block.first, max(earliest, 0)
        low, high, last = self._others(block, floor)
        starts = self._candidates(block, high)
        if not len(starts):
            return
        meeting = (starts[:, None] < high) & (starts[:, None] + block.bytes > low)
        first = np.where(meeting, last + 1, floor).max(axis=1, initial=floor)
        at = int(first.argmin())
        if first[at] < needed:
            block.first, block.offset = int(first[at]), int(starts[at])
            row = self.row[id(block)]
            self.first[row], self.low[row], self.high[row] = block.first, block.offset, block.end

    def peak(self) -> int:
        """The highest address in use at any time."""
        return max((b.end for b in self.blocks), default=0)

    def lower_bound(self) -> int:
        """Bytes that no placement of these lifetimes does without that begins in banks as it should.

        The largest number of bytes alive in one slot, or the banks that blocks alive at once had better begin in.
        """
        change = np.zeros(self.slots + 1, np.int64)
        banks = 0
        for block in self.blocks:
            change[block.first] += block.bytes
            change[block.last + 1] -= block.bytes
            together = _all_away(block)
            banks = max(banks, (len(together) - 1) * self.chip.bank_bytes + min(b.bytes for b in together))
        return max(banks, int(change.cumsum().max()))


def _all_away(block: Block) -> list[Block]:
    """The block and others, alive at once, each of which had better begin in another bank than any other."""
    found = [block]
    for other in block.away:
        if all(_meet(other, each) and any(other is a for a in each.away) for each in found):
            found.append(other)
    return found


def _meet(one: Block, other: Block) -> bool:
    """Whether two blocks are alive in the same slot."""
    return one is not other and one.first <= other.last and other.first <= one.last


def pack(blocks: Sequence[Block], slots: int, chip: Chip, height: int = 0) -> tuple[Timeline, Block | None]:
    """A timeline with all blocks placed, large and long ones first, or the first block that found no room.

    Blocks lie within the first `height` bytes of a lane; 0: anywhere in it.
    """
    timeline = Timeline(len(blocks), slots, chip, height or chip.lane_bytes)
    for block in blocks:
        block.bytes = round_up(max(block.bytes, 1), chip.vector_bytes)
    for block in sorted(blocks, key=lambda b: (-(b.last - b.first > 0), -b.bytes, b.first)):
        if not timeline.place(block):
            return timeline, block
    return timeline, None
