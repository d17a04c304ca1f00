"""The bytes a command reads and writes, as blocks that can be held against each other exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.gdma_operands import gdma_operands
from tpu_deploy.codegen.isa.addresses import LANES
from tpu_deploy.codegen.isa.encoding import Command
from tpu_deploy.codegen.places import Memory, Place
from tpu_deploy.codegen.tiu_operands import Operands, tiu_operands


@dataclass(frozen=True, slots=True)
class Block:
    """Runs of bytes: in each lane of the bit mask, `run` bytes at `start + sum(i * stride)` for i below each count.

    Outside local memory `lanes` is 1. `loops` holds (count, stride), the widest stride first; `end` is the offset after
    the last byte.
    """

    memory: Memory
    lanes: int
    start: int
    end: int
    loops: tuple[tuple[int, int], ...]
    run: int

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return prod(count for count, _ in self.loops)

    def starts(self) -> npt.NDArray[np.int64]:
        """Where the runs start, in ascending order."""
        found = np.array([self.start], np.int64)
        for count, stride in self.loops:
            found = (found[:, None] + np.arange(count, dtype=np.int64) * stride).ravel()
        return np.sort(found)

    def overlaps(self, other: Block) -> bool:
        """Whether the two have a byte in common."""
        if self.memory != other.memory or not self.lanes & other.lanes:
            return False
        if self.end <= other.start or other.end <= self.start:
            return False
        if not self.loops and not other.loops:
            return True
        ours, theirs = self.starts(), other.starts()
        # the run before and the run after each of ours decide: runs of one block may touch, so compare both
        after = np.searchsorted(theirs, ours, side="left")
        hits_after = (after < len(theirs)) & (theirs[np.minimum(after, len(theirs) - 1)] < ours + self.run)
        hits_before = (after > 0) & (theirs[np.maximum(after - 1, 0)] + other.run > ours)
        return bool((hits_after | hits_before).any())


@dataclass(frozen=True, slots=True)
class Access:
    """One operand of a command: its role, its place and its bytes."""

    role: str
    place: Place
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Accesses:
    """What a command reads and writes."""

    reads: tuple[Access, ...]
    writes: tuple[Access, ...]


def operands_of(command: Command) -> Operands:
    """The places of a command of either engine; raises UnsupportedCommandError."""
    return tiu_operands(command) if command.engine == "TIU" else gdma_operands(command)


def accesses(operands: Operands) -> Accesses:
    """The bytes of all operands."""
    reads, writes = (
        tuple(Access(role, place, tuple(blocks(place))) for role, place in side.items() if place.elements)
        for side in (operands.reads, operands.writes)
    )
    return Accesses(reads, writes)


def blocks(place: Place) -> Iterator[Block]:
    """The bytes of a place; in local memory up to three blocks: the first row of channels, full rows, the last row."""
    n, c, h, w = place.dims
    sn, sc, sh, sw = place.strides
    if place.memory != "local":
        yield _block(place.memory, 1, place.offset, ((n, sn), (c, sc), (h, sh), (w, sw)), place.itemsize)
        return
    for lane, lanes, row, rows in channel_rows(place.lane, c):
        mask = ((1 << lanes) - 1) << lane
        start = place.offset + row * sc
        yield _block("local", mask, start, ((n, sn), (rows, sc), (h, sh), (w, sw)), place.itemsize)


def channel_rows(lane: int, channels: int) -> list[tuple[int, int, int, int]]:
    """How channels from a start lane fall into rows: (first lane, lanes, first row, rows) of each rectangle."""
    if lane + channels <= LANES:
        return [(lane, channels, 0, 1)]
    found, row = [], 0
    if lane:
        found.append((lane, LANES - lane, 0, 1))
        channels, row = channels - (LANES - lane), 1
    full, rest = divmod(channels, LANES)
    if full:
        found.append((0, LANES, row, full))
    if rest:
        found.append((0, rest, row + full, 1))
    return found


def _block(memory: Memory, lanes: int, start: int, loops: Sequence[tuple[int, int]], run: int) -> Block:
    """Merges loops whose steps follow each other without gaps, from the narrowest stride up."""
    end = start + run + sum((count - 1) * stride for count, stride in loops)
    kept: list[tuple[int, int]] = []
    for count, stride in sorted(loops, key=lambda loop: loop[1]):
        if count == 1 or stride == 0:
            continue
        if not kept and stride <= run:
            run += (count - 1) * stride
        elif kept and stride == kept[-1][0] * kept[-1][1]:
            kept[-1] = (kept[-1][0] * count, kept[-1][1])
        else:
            kept.append((count, stride))
    return Block(memory, lanes, start, end, tuple(reversed(kept)), run)


def touch(one: Place, other: Place) -> bool:
    """Whether two places have a byte in common."""
    if one.memory != other.memory or one.end <= other.offset or other.end <= one.offset:
        return False
    return any(a.overlaps(b) for a, b in product(blocks(one), blocks(other)))


def overlap(ours: Sequence[Access], theirs: Sequence[Access]) -> tuple[Access, Access] | None:
    """The first pair of accesses with a byte in common."""
    for mine, other in product(ours, theirs):
        if any(a.overlaps(b) for a, b in product(mine.blocks, other.blocks)):
            return mine, other
    return None
