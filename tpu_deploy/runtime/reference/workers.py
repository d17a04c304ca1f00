"""Threads that share the pieces of one operation, and the scratch memory each of them keeps."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 1 << 17
"""Elements of a piece of an element-wise operation: small enough for its temporaries to stay in a core's cache."""

LEAST = 1 << 14
"""Elements below which another thread costs more than it saves."""


def available_threads() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Runs tasks on `threads` threads, the caller's among them."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads - 1, "reference") if self.threads > 1 else None
        self._memory = threading.local()

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Executes all tasks, in any order and side by side; raises what one of them raised."""
        if self._pool is None or len(tasks) < 2:
            for task in tasks:
                task()
            return
        waiting = deque(tasks)
        others = [self._pool.submit(_drain, waiting) for _ in range(min(self.threads, len(tasks)) - 1)]
        try:
            _drain(waiting)
        finally:
            waiting.clear()
            for other in others:
                other.result()

    def scratch(self, size: int) -> npt.NDArray[np.float64]:
        """`size` float64 numbers of memory that belong to the calling thread until it asks again."""
        held: npt.NDArray[np.float64] | None = getattr(self._memory, "held", None)
        if held is None or held.size < size:
            held = self._memory.held = np.empty(size)
        return held[:size]

    def for_each_piece(self, shape: Sequence[int], work: Callable[[tuple[slice, ...]], None]) -> None:
        """Calls `work` with the index of every one of `pieces`, side by side."""
        self.run([partial(work, index) for index in pieces(shape, self.threads)])


def _drain(waiting: deque[Callable[[], None]]) -> None:
    while True:
        try:
            task = waiting.popleft()
        except IndexError:
            return
        task()


def pieces(shape: Sequence[int], threads: int) -> Iterator[tuple[slice, ...]]:
    """Indices of contiguous parts of an array of `shape`, PIECE elements or less where it can be.

    There is a part for every thread unless that would be less than LEAST elements.
    """
    if not shape:
        yield ()
        return
    size = max(min(PIECE, -(-math.prod(shape) // threads)), LEAST)
    axis, inner = len(shape) - 1, 1
    while axis > 0 and inner * shape[axis] <= size:
        inner *= shape[axis]
        axis -= 1
    step = max(1, size // max(inner, 1))
    for outer in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            yield (*(slice(i, i + 1) for i in outer), slice(start, start + step))


def part_of(array: npt.NDArray[Any], index: tuple[slice, ...], rank: int) -> npt.NDArray[Any]:
    """The part of an operand that a piece of the (broadcast) result of `rank` axes reads."""
    missing = rank - array.ndim
    own = index[missing:] if missing < len(index) else ()
    return array[tuple(slice(None) if array.shape[i] == 1 else each for i, each in enumerate(own))]
