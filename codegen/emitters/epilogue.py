"""What becomes of sums of products: the constants that go with them, and the instructions that make the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.emitters.packing import Bytes
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Access, Action, Buffer, Step, joined


@dataclass(frozen=True)
class Held:
    """Where an epilogue's constants lie: at the start of a buffer, those of so many channel groups."""

    buffer: str
    slots: int


class Epilogue(Protocol):
    """How the sums of a convolution or matrix product become its result, channel by channel."""

    @property
    def sums(self) -> np.dtype[Any]:
        """The type of the sums that one instruction writes."""
        ...

    @property
    def parts(self) -> np.dtype[Any]:
        """The type of sums added up over several instructions."""
        ...

    @property
    def is_direct(self) -> bool:
        """Whether the sums are the result."""
        ...

    def constant_bytes(self, slots: int) -> int:
        """Bytes of a lane that the constants of so many channel groups take, a multiple of a vector."""
        ...

    def pack(self, first: int, last: int) -> Bytes:
        """The constants of output channels [first, last), a row a lane."""
        ...

    def prepare(self, constants: Held, place: str, channels: int) -> tuple[list[Buffer], list[Action]]:
        """What is done once with the constants; `place` tells neighbours' buffers apart."""
        ...

    def bias(self, constants: Held, slots: tuple[int, int]) -> Access | None:
        """What the instruction that sums adds of the constants of these channel groups."""
        ...

    def begin(self, acc: Local, constants: Held, place: str, slots: tuple[int, int]) -> list[Action]:
        """What fills the place of the sums of these channel groups before anything is added to it."""
        ...

    def finish(
        self, acc: Local, y: Local, constants: Held, place: str, slots: tuple[int, int]
    ) -> tuple[list[Buffer], list[Action]]:
        """`y` from the sums of these channel groups, which are spent."""
        ...


Stage = tuple[np.dtype[Any], Callable[[Local, Local], Step]]
"""The type of what a step writes, and the step for a result and an operand."""


def chained(
    stages: Sequence[Stage], source: Local, y: Local, spare: tuple[str, str], chip: Chip
) -> tuple[list[Buffer], list[Action]]:
    """Steps one after the other from `source` to `y`, between them in two spare buffers by turns.

    No step writes where it reads: that takes twice as long.
    """
    buffers: list[Buffer] = []
    actions: list[Action] = []
    for index, (dtype, step) in enumerate(stages):
        is_last = index == len(stages) - 1
        target = y if is_last else Local(spare[index % 2], source.dims, dtype)
        if not is_last:
            buffers.append(Buffer(target.buffer, aligned_bytes(target.dims, dtype.itemsize, chip)))
        actions.append(step(target, source))
        source = target
    return list(joined(buffers)), actions
