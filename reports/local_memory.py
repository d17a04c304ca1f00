"""Local memory over time: which bytes hold something that is still read, since when, and what wrote them.

All lanes are looked at together: a byte of the map is that offset in any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.compile import Compiled
from tpu_deploy.codegen.isa.addresses import LANE_BYTES
from tpu_deploy.codegen.places import VECTOR
from tpu_deploy.codegen.regions import Access, Block
from tpu_deploy.reports.executed import Executed
from tpu_deploy.reports.traffic import FILLS, WITHIN, Moved, purpose

RESULTS = "results"
"""What the TIU computes."""

CLASSES = ("coefficients", "inputs", "intermediates", RESULTS, WITHIN, FILLS)
"""What lies in local memory, by what wrote it."""

UNITS = LANE_BYTES // VECTOR

Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LocalBlock:
    """Bytes [offset, end) of every lane that hold something in cycles [since, until).

    `name` is what lies there, `kind` one of CLASSES.
    """

    name: str
    kind: str
    offset: int
    end: int
    since: int
    until: int


@dataclass(frozen=True)
class LocalMemory:
    """What lies in local memory when. `is_planned` says that the blocks are the planner's own, else they are found
    from what commands read and write: a block begins with the command that writes it and ends with its last reader.

    `peak` is the highest address in use, `lower_bound` the most bytes in use at once: no placement takes less.
    """

    blocks: tuple[LocalBlock, ...]
    peak: int
    lower_bound: int
    capacity: int
    is_planned: bool


@dataclass(frozen=True)
class Held:
    """Units [first, last] that command `writer` wrote and that were read until cycle `until`."""

    writer: int
    first: int
    last: int
    since: int
    until: int


@dataclass
class Tracer:
    """Follows commands in their order and notes who wrote what each of them reads."""

    held: list[Held] = field(default_factory=list)
    sources: list[tuple[int, ...]] = field(default_factory=list)
    """For each command the commands that wrote what it reads."""
    _owner: Numbers = field(default_factory=lambda: np.full(UNITS, -1, np.int64))
    _since: Numbers = field(default_factory=lambda: np.zeros(UNITS, np.int64))
    _until: Numbers = field(default_factory=lambda: np.zeros(UNITS, np.int64))
    _lanes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(UNITS, np.uint64))

    def run(self, commands: Sequence[Executed]) -> None:
        """Follows all commands."""
        for index, each in enumerate(commands):
            read = _units(each.reads)
            owners = np.unique(self._owner[read])
            self.sources.append(tuple(int(owner) for owner in owners if owner >= 0))
            self._until[read] = np.maximum(self._until[read], each.end)
            for block in _local(each.writes):
                self._write(index, each, block, read)
        self._give_up(np.flatnonzero(self._owner >= 0))

    def _write(self, index: int, each: Executed, block: Block, read: Bits) -> None:
        """What a command reads and writes stays the same tensor, as does what it writes in lanes that are free."""
        first, last, inner = _span(block)
        part = slice(first, last)
        written = np.ones(last - first, np.bool_) if inner is None else inner
        owner, lanes, mask = self._owner[part], self._lanes[part], np.uint64(block.lanes)
        stays = (owner == index) | ((owner >= 0) & (read[part] | ((lanes & mask) == 0)))
        fresh = written & ~stays
        self._give_up(np.flatnonzero(fresh & (owner >= 0)) + first)
        owner[fresh], lanes[fresh] = index, 0
        self._since[part][fresh] = each.start
        lanes[written] |= mask
        self._until[part][written] = np.maximum(np.where(fresh, 0, self._until[part])[written], each.end)

    def _give_up(self, units: Numbers) -> None:
        """Notes what units held until now, neighbours of one writer together."""
        if not len(units):
            return
        owners = self._owner[units]
        breaks = np.flatnonzero((np.diff(units) != 1) | (np.diff(owners) != 0)) + 1
        for part in np.split(units, breaks):
            until, since = int(self._until[part].max()), int(self._since[part].min())
            self.held.append(Held(int(self._owner[part[0]]), int(part[0]), int(part[-1]), since, until))


_MOST_RUNS = 1 << 17
"""Runs that are looked at one by one; a block of more has no gaps worth seeing."""


def _local(accesses: Sequence[Access]) -> Iterator[Block]:
    return (block for access in accesses for block in access.blocks if block.memory == "local")


@lru_cache(maxsize=1 << 14)
def _span(block: Block) -> tuple[int, int, Bits | None]:
    """The units [first, last) a block reaches over, and which of them it touches; None: all."""
    first, last = min(block.start // VECTOR, UNITS), min((block.end - 1) // VECTOR + 1, UNITS)
    if not block.loops or block.runs > _MOST_RUNS:
        return first, last, None
    starts = np.minimum(block.starts() // VECTOR - first, last - first)
    ends = np.minimum((block.starts() + block.run - 1) // VECTOR + 1 - first, last - first)
    steps = np.bincount(starts, minlength=last - first + 1) - np.bincount(ends, minlength=last - first + 1)
    touched = np.cumsum(steps[:-1]) > 0
    return first, last, None if touched.all() else touched


def _units(accesses: Sequence[Access]) -> Bits:
    touched = np.zeros(UNITS, np.bool_)
    for block in _local(accesses):
        first, last, inner = _span(block)
        if inner is None:
            touched[first:last] = True
        else:
            touched[first:last] |= inner
    return touched


def kind_of(each: Executed, moved: Moved | None) -> str:
    """What a command leaves in local memory."""
    return RESULTS if each.command.engine == "TIU" else purpose(each, moved)


def traced(
    commands: Sequence[Executed], tracer: Tracer, moved: Mapping[int, Moved], names: Sequence[str]
) -> LocalMemory:
    """Local memory as a traced run shows it; `names` are those of the commands that wrote what lies there."""
    blocks = tuple(
        LocalBlock(
            names[each.writer],
            kind_of(commands[each.writer], moved.get(each.writer)),
            each.first * VECTOR,
            (each.last + 1) * VECTOR,
            each.since,
            each.until,
        )
        for each in sorted(tracer.held, key=lambda h: (h.since, h.first))
    )
    peak = max((block.end for block in blocks), default=0)
    return LocalMemory(blocks, peak, _most_at_once(blocks), LANE_BYTES, False)


def _most_at_once(blocks: Sequence[LocalBlock]) -> int:
    """The most bytes in use in one cycle."""
    changes = [(b.since, b.end - b.offset) for b in blocks] + [(b.until, b.offset - b.end) for b in blocks]
    in_use = most = 0
    for _, change in sorted(changes):
        in_use += change
        most = max(most, in_use)
    return most


def planned(compiled: Compiled, commands: Mapping[int, Executed], moved: Mapping[int, Moved]) -> LocalMemory:
    """Local memory as the planner laid it out; commands and what they move by their place in program order."""
    ends = np.array([commands[k].end for k in range(len(compiled.commands))], np.int64)
    starts = np.array([commands[k].start for k in range(len(compiled.commands))], np.int64)
    ranges = [(k, r.start, r.stop) for k, c in enumerate(compiled.commands) for r in (*c.reads, *c.writes)]
    index, low, high = np.array(ranges, np.int64).reshape(-1, 3).T
    blocks = []
    for block in compiled.blocks:
        some = slice(*np.searchsorted(index, (block.first, block.last + 1)))
        touching = index[some][(low[some] < block.offset + block.bytes) & (high[some] > block.offset)]
        touching = np.union1d(touching, (block.first, block.last))
        kind = kind_of(commands[block.first], moved.get(block.first))
        since, until = int(starts[touching].min()), int(ends[touching].max())
        name = f"{block.operation}: {block.buffer}"
        blocks.append(LocalBlock(name, kind, block.offset, block.offset + block.bytes, since, until))
    use = compiled.memory
    return LocalMemory(tuple(blocks), use.local_peak, use.local_lower_bound, LANE_BYTES, True)
