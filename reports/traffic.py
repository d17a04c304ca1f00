"""What moves between global and local memory, by what it is: coefficients, inputs, outputs, intermediate tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.bmodel import Stage, TensorInfo
from tpu_deploy.codegen.regions import Access, Block
from tpu_deploy.reports.executed import Executed

COEFFICIENTS, INPUTS, OUTPUTS, INTERMEDIATES = CLASSES = ("coefficients", "inputs", "outputs", "intermediates")
"""What lies in global memory."""

WITHIN, FILLS = "within the chip", "fills"
"""What a transfer is called that leaves global memory alone."""


@dataclass(frozen=True)
class Moved:
    """What a command of the DMA engine moves: the class it reads from global memory and the one it writes there."""

    read: str = ""
    written: str = ""

    @property
    def purpose(self) -> str:
        """One name for it: where it reads and writes global memory, what it writes."""
        return self.written or self.read


@dataclass(frozen=True)
class Traffic:
    """Bytes of one class read from and written to global memory; `least` must move whatever the order of commands.

    A byte that several transfers bring counts once in `least`; intermediate tensors might stay in local memory and
    count there only within a group.
    """

    name: str
    read: int
    written: int
    least: int


def classify(stage: Stage, commands: Sequence[Executed]) -> dict[int, Moved]:
    """What each DMA command that touches global memory moves, by its index.

    The memory of inputs and outputs may hold intermediate tensors too: a byte of an input that has been written over
    is none any more, and only the last write to a byte of an output counts as output.
    """
    classes = _Classes(stage)
    found: dict[int, Moved] = {}
    overwritten = _Flags(stage.inputs, commands)
    for index, each in enumerate(commands):
        read = _first(classes.of(block, overwritten, INPUTS) for block in _global(each.reads))
        for block in _global(each.writes):
            overwritten.set(block)
        if read:
            found[index] = Moved(read)
    final = _Flags(stage.outputs, commands)
    for index in range(len(commands) - 1, -1, -1):
        written = _first(classes.of(block, final, OUTPUTS) for block in _global(commands[index].writes))
        for block in _global(commands[index].writes):
            final.set(block)
        if written:
            found[index] = Moved(found[index].read if index in found else "", written)
    return found


_MOST_BYTES = 1 << 30


def _first(names: Iterator[str]) -> str:
    return next(names, "")


def _global(accesses: Sequence[Access]) -> Iterator[Block]:
    return (block for access in accesses for block in access.blocks if block.memory == "global")


class _Flags:
    """Bytes of some tensors that commands have touched."""

    def __init__(self, tensors: Sequence[TensorInfo], commands: Sequence[Executed]) -> None:
        self.tensors = [(t.device_addr, t.device_addr + t.size) for t in tensors if t.size]
        near = [b for each in commands for b in _global((*each.reads, *each.writes)) if self.meets(b)]
        self._base = min((block.start for block in near), default=0)
        self._touched = np.zeros(max((block.end for block in near), default=0) - self._base, np.bool_)
        self._inside = np.zeros(len(self._touched), np.bool_)
        for start, end in self.tensors:
            self._inside[max(start - self._base, 0) : max(end - self._base, 0)] = True

    def meets(self, block: Block) -> bool:
        """Whether a block of a size that can be looked at reaches into the range of a tensor."""
        near = block.end - block.start <= _MOST_BYTES
        return near and any(block.start < end and start < block.end for start, end in self.tensors)

    def set(self, block: Block) -> None:
        """The bytes of the block are touched."""
        if self.meets(block):
            self._view(self._touched, block)[...] = True

    def has_fresh(self, block: Block) -> bool:
        """Whether the block holds bytes of the tensors that are not touched yet."""
        if not self.meets(block):
            return False
        return bool((self._view(self._inside, block) & ~self._view(self._touched, block)).any())

    def _view(self, flags: npt.NDArray[np.bool_], block: Block) -> npt.NDArray[np.bool_]:
        counts = [*(count for count, _ in block.loops), block.run]
        strides = [*(stride for _, stride in block.loops), 1]
        return np.ndarray(counts, np.bool_, flags, block.start - self._base, strides)


class _Classes:
    """The classes of global memory of a stage."""

    def __init__(self, stage: Stage) -> None:
        held = stage.coefficients
        self._coefficients = (held.address, held.address + len(held.data)) if held is not None else (0, 0)

    def of(self, block: Block, flags: _Flags, name: str) -> str:
        """Coefficients by their address, `name` for fresh bytes of its tensors, else intermediate tensors."""
        first, end = self._coefficients
        if first <= block.start < end:
            return COEFFICIENTS
        return name if flags.has_fresh(block) else INTERMEDIATES


def purpose(each: Executed, moved: Moved | None) -> str:
    """What a command of the DMA engine is there for, in a word or two."""
    if moved is not None:
        return moved.purpose
    return FILLS if each.cost.direction.startswith("constant") else WITHIN


def traffic(commands: Iterable[tuple[Executed, Moved]]) -> tuple[Traffic, ...]:
    """Bytes by class, of the commands that touch global memory."""
    read, written = dict.fromkeys(CLASSES, 0), dict.fromkeys(CLASSES, 0)
    blocks: dict[tuple[str, bool], list[Block]] = {}
    for each, moved in commands:
        for name, total, touched in ((moved.read, read, each.reads), (moved.written, written, each.writes)):
            if name:
                total[name] += each.cost.bytes
                blocks.setdefault((name, total is written), []).extend(_global(touched))
    rows = []
    for name in CLASSES:
        least = min(read[name], distinct(blocks.get((name, False), [])))
        least += min(written[name], distinct(blocks.get((name, True), [])))
        rows.append(Traffic(name, read[name], written[name], least))
    return tuple(rows)


_MOST_RUNS = 1 << 17


def distinct(blocks: Sequence[Block]) -> int:
    """How many different bytes the blocks have; those of very many short runs count from first to last byte."""
    if not blocks:
        return 0
    starts, ends = [], []
    for block in blocks:
        whole = block.runs > _MOST_RUNS
        starts.append(np.array([block.start]) if whole else block.starts())
        ends.append(starts[-1] + (block.end - block.start if whole else block.run))
    return _union(np.concatenate(starts), np.concatenate(ends))


def _union(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> int:
    """The length of the union of intervals."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    reached = np.maximum.accumulate(ends)
    before = np.concatenate(([starts[0]], reached[:-1]))
    return int(np.maximum(reached - np.maximum(starts, before), 0).sum())
