"""The order of the DMA engine's queue: of what may run, the transfer that the TIU needs first, on a simulated clock.

The TIU keeps its order, and so does everything that meets in memory (`precedence`). A transfer may run when what it
follows has run; it is urgent by the time at which the TIU, if it never had to wait, would come to need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.commands import PlannedCommand
from tpu_deploy.codegen.precedence import Precedence, precedence
from tpu_deploy.codegen.timing import planned_cost


@dataclass(frozen=True)
class Ordered:
    """A legal order, as indices into the commands it was made from, and the cycle at which the last one ends.

    `busiest` are the cycles that the engine with more to do is busy: no order of these commands takes less.
    """

    order: tuple[int, ...]
    cycles: int
    busiest: int


def in_good_order(commands: Sequence[PlannedCommand], chip: Chip) -> Ordered:
    """The commands of a legal order, the DMA engine's moved to where they cost least time."""
    tiu = [k for k, c in enumerate(commands) if c.engine == "TIU"]
    dma = [k for k, c in enumerate(commands) if c.engine == "GDMA"]
    computing = [planned_cost(commands[k], chip).cycles for k in tiu]
    moving = [planned_cost(commands[k], chip).cycles for k in dma]
    follows = precedence(commands, chip)
    clock = _Clock(follows, computing, moving, _deadlines(follows, computing, moving))
    queue = clock.run()
    return Ordered(tuple(_merged(tiu, dma, queue, follows)), clock.end, max(sum(computing), sum(moving)))


def _deadlines(follows: Precedence, computing: Sequence[int], moving: Sequence[int]) -> list[int]:
    """The cycle by which each transfer should end; those nobody waits for should end with the last computation."""
    starts, time = [], 0
    for cycles in computing:
        starts.append(time)
        time += cycles
    found = [time] * len(moving)
    for start, needed in zip(starts, follows.dma_needed, strict=True):
        for k in needed:
            found[k] = min(found[k], start)
    for k in range(len(moving) - 1, -1, -1):
        for before in follows.dma_before[k]:
            found[before] = min(found[before], found[k] - moving[k])
    return found


class _Clock:
    """Both engines in time while the DMA engine chooses what to run next."""

    def __init__(
        self, follows: Precedence, computing: Sequence[int], moving: Sequence[int], deadlines: Sequence[int]
    ) -> None:
        self.follows, self.computing, self.moving, self.deadlines = follows, computing, moving, deadlines
        self.tiu_ends: list[int] = []
        self.dma_ends: dict[int, int] = {}
        self.missing = [len(before) for before in follows.dma_before]
        """How many transfers each one still waits for."""
        self.behind: list[list[int]] = [[] for _ in moving]
        for k, before in enumerate(follows.dma_before):
            for earlier in before:
                self.behind[earlier].append(k)
        self.after_tiu: list[list[int]] = [[] for _ in range(len(computing) + 1)]
        """Transfers by the number of computations they follow."""
        for k, count in enumerate(follows.tiu_before):
            self.after_tiu[count].append(k)
        self.soon: list[tuple[int, int]] = []
        """(cycle from which it may run, transfer)."""
        self.ready: list[tuple[int, int]] = []
        """(deadline, transfer) of those that may run now."""
        self.queue: list[int] = []
        self.time = 0

    @property
    def end(self) -> int:
        """The cycle at which the last command ends."""
        return max(self.time, self.tiu_ends[-1] if self.tiu_ends else 0)

    def run(self) -> list[int]:
        """The queue of the DMA engine."""
        for k in self.after_tiu[0]:
            self._release(k)
        self._compute()
        while self.soon or self.ready:
            if not self.ready and self.soon[0][0] > self.time:
                self.time = self.soon[0][0]
            while self.soon and self.soon[0][0] <= self.time:
                _, k = heappop(self.soon)
                heappush(self.ready, (self.deadlines[k], k))
            self._move(heappop(self.ready)[1])
            self._compute()
        assert len(self.queue) == len(self.moving), "a legal order has no cycles"
        return self.queue

    def _move(self, k: int) -> None:
        self.time += self.moving[k]
        self.dma_ends[k] = self.time
        self.queue.append(k)
        for later in self.behind[k]:
            self.missing[later] -= 1
            self._release(later)

    def _release(self, k: int) -> None:
        """Puts a transfer among those that will run once all it follows has a time."""
        count = self.follows.tiu_before[k]
        if not self.missing[k] and count <= len(self.tiu_ends):
            heappush(self.soon, (self.tiu_ends[count - 1] if count else 0, k))

    def _compute(self) -> None:
        """Lets the TIU run as far as transfers allow."""
        while len(self.tiu_ends) < len(self.computing):
            number = len(self.tiu_ends)
            needed = self.follows.dma_needed[number]
            if any(k not in self.dma_ends for k in needed):
                return
            start = max([self.tiu_ends[-1] if self.tiu_ends else 0, *(self.dma_ends[k] for k in needed)])
            self.tiu_ends.append(start + self.computing[number])
            for k in self.after_tiu[number + 1]:
                self._release(k)


def _merged(tiu: Sequence[int], dma: Sequence[int], queue: Sequence[int], follows: Precedence) -> list[int]:
    """One order of both queues in which everything stands behind what it follows."""
    order: list[int] = []
    done = 0
    for k in queue:
        count = max(done, follows.tiu_before[k])
        order += [*tiu[done:count], dma[k]]
        done = count
    return order + list(tiu[done:])
