"""What becomes of sums of products: the constants that go with them, and the instructions that make the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.emitters.packing import Bytes
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Access, Action, Buffer, Step


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

    def prepare(self, constants: str, place: str, channels: int) -> tuple[list[Buffer], list[Action]]:
        """What is done once with the constants at the start of a buffer; `place` tells neighbours' buffers apart."""
        ...

    def bias(self, constants: str, slots: tuple[int, int]) -> Access | None:
        """What the instruction that sums adds of the constants of these channel groups."""
        ...

    def finish(
        self, acc: Local, y: Local, constants: str, place: str, slots: tuple[int, int]
    ) -> tuple[list[Buffer], list[Action]]:
        """`y` from the sums of these channel groups, which are spent."""
        ...


Stage = tuple[np.dtype[Any], Callable[[Local, Local], Step]]
"""The type of what a step writes, and the step for a result and an operand."""


def chained(stages: Sequence[Stage], acc: Local, y: Local, place: str, chip: Chip) -> tuple[list[Buffer], list[Action]]:
    """Steps one after the other from `acc` to `y`, between them by turns in a spare buffer and in that of `acc`.

    No step writes where it reads: that takes twice as long.
    """
    spare, size = f"spare{place}", 0
    actions: list[Action] = []
    source = acc
    for index, (dtype, step) in enumerate(stages):
        name = acc.buffer if index % 2 else spare
        target = y if index == len(stages) - 1 else Local(name, acc.dims, dtype)
        if target.buffer == spare:
            size = max(size, aligned_bytes(acc.dims, dtype.itemsize, chip))
        actions.append(step(target, source))
        source = target
    buffers = [Buffer(spare, size, away=frozenset({acc.buffer, y.buffer}))] if size else []
    return buffers, actions
