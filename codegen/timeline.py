"""Local memory over time: where every buffer lies and from when, so that transfers run ahead of their use.

Time counts slots, one for each item (a tile of an operation). A buffer takes a rectangle of addresses and slots. First
everything is placed for just the slots it cannot do without; then each load, in the order in which they are needed,
is moved to the earliest slot from which its bytes are free, which may be many items ahead of its use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.layout import round_up


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
    """Blocks placed so far, found by slot."""

    def __init__(self, slots: int, chip: Chip) -> None:
        self.chip = chip
        self.alive: list[list[Block]] = [[] for _ in range(slots)]

    def _overlapping(self, first: int, last: int) -> Iterable[Block]:
        seen: dict[int, Block] = {id(b): b for slot in self.alive[first : last + 1] for b in slot}
        return seen.values()

    def _ranges(self, block: Block, others: Iterable[Block]) -> list[tuple[int, int, Block]]:
        """Address ranges that others take from a block, widened to banks for those it is kept apart from."""
        bank = self.chip.bank_bytes
        found = []
        for other in others:
            low, high = other.offset, other.end
            if any(other is a for a in block.apart):
                low, high = low // bank * bank, round_up(high, bank)
            found.append((low, high, other))
        return found

    def _candidates(self, block: Block, ranges: Sequence[tuple[int, int, Block]]) -> list[int]:
        """Offsets worth trying: where ranges end, and the banks after those the block had better stay away from."""
        bank, align = self.chip.bank_bytes, self.chip.vector_bytes
        starts = {0, *(round_up(high, align) for _, high, _ in ranges)}
        shunned = {a.offset // bank for a in block.away if a.offset >= 0}
        if shunned:
            starts |= {round_up(s + 1, bank) for s in starts if s // bank in shunned}
        limit = self.chip.lane_bytes - block.bytes
        return sorted((s for s in starts if s <= limit), key=lambda s: (s // bank in shunned, s))

    def place(self, block: Block) -> bool:
        """Puts a block at the first free offset for all its slots; False when there is none."""
        ranges = self._ranges(block, self._overlapping(block.first, block.last))
        for start in self._candidates(block, ranges):
            end = start + block.bytes
            if all(end <= low or start >= high for low, high, _ in ranges):
                block.offset = start
                self._insert(block)
                return True
        return False

    def advance(self, block: Block, earliest: int) -> None:
        """Moves a placed load to the offset from which it can begin soonest, not before slot `earliest`."""
        self._remove(block)
        needed, floor = block.first, max(earliest, 0)
        ranges = self._ranges(block, self._overlapping(floor, block.last))
        best = (needed, block.offset)
        for start in self._candidates(block, ranges):
            end, first = start + block.bytes, floor
            for low, high, other in ranges:
                if end <= low or start >= high:
                    continue
                if other.last >= needed:
                    first = needed + 1
                    break
                first = max(first, other.last + 1)
            if first < best[0]:
                best = (first, start)
                if first == floor:
                    break
        block.first, block.offset = best
        self._insert(block)

    def _insert(self, block: Block) -> None:
        for slot in self.alive[block.first : block.last + 1]:
            slot.append(block)

    def _remove(self, block: Block) -> None:
        for slot in self.alive[block.first : block.last + 1]:
            slot[:] = [b for b in slot if b is not block]

    def peak(self) -> int:
        """The highest address in use at any time."""
        return max((b.end for slot in self.alive for b in slot), default=0)

    def lower_bound(self) -> int:
        """The largest number of bytes alive in one slot: no placement of these lifetimes takes less."""
        return max((sum(b.bytes for b in slot) for slot in self.alive), default=0)


def pack(blocks: Sequence[Block], slots: int, chip: Chip) -> tuple[Timeline, Block | None]:
    """A timeline with all blocks placed, large and long ones first, or the first block that found no room."""
    timeline = Timeline(slots, chip)
    for block in blocks:
        block.bytes = round_up(max(block.bytes, 1), chip.vector_bytes)
    for block in sorted(blocks, key=lambda b: (-(b.last - b.first > 0), -b.bytes, b.first)):
        if not timeline.place(block):
            return timeline, block
    return timeline, None
