"""Layer groups: which computations keep their values in local memory, and in how many slices of the batch.

A group runs over its slices one after another, all its operations in each. Values that its later operations read stay
in local memory; others come from and go to global memory. An operation whose slice of one image does not fit is a group
of its own, cut into tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tpu_deploy.codegen.measure import Measure, Weights
from tpu_deploy.codegen.schedule import Moved, Part, Schedule, Sliced, Tiled
from tpu_deploy.codegen.tile_plan import TilePlan, plan_tiles
from tpu_deploy.codegen.wholes import Forms
from tpu_deploy.codegen.works import Compute

ROOM = 0.92
"""The share of local memory that the values of a group may take by the estimate: placing them exactly takes more."""


@dataclass
class Planner:
    """Chooses groups for the works of a network; what is found to have no room is remembered."""

    forms: Forms
    weights: Weights
    refused: set[tuple[int, int, int]] = field(default_factory=set)
    tile_room: dict[int, float] = field(default_factory=dict)

    def schedule(self) -> Schedule:
        """The cheapest division found by dynamic programming over the ends of groups."""
        count = len(self.forms.works)
        best: list[tuple[float, Part | None]] = [(0.0, None), *[(float("inf"), None) for _ in range(count)]]
        sizes = slice_sizes(self.forms.batch)
        for start in range(count):
            if best[start][0] == float("inf"):
                continue
            for cost, part in self._from(start, sizes):
                total = best[start][0] + cost
                if total < best[part.stop][0]:
                    best[part.stop] = (total, part)
        found: list[Part] = []
        end = count
        while end:
            last = best[end][1]
            assert last is not None
            found.append(last)
            end = last.start
        return Schedule(tuple(found[::-1]))

    def _from(self, start: int, sizes: Sequence[int]) -> Iterator[tuple[float, Part]]:
        """Parts that begin with a work, and what they cost."""
        if not isinstance(self.forms.works[start], Compute):
            yield 0.0, Moved(start)
            return
        plan = self.tiles(start)
        yield plan.cycles + self.weights.group, Tiled(start, plan.variant, plan.grid)
        for images in sizes:
            yield from self._grow(start, images)

    def tiles(self, index: int) -> TilePlan:
        """How a work by itself is cut."""
        room = self.tile_room.get(index, 1.0)
        work = self.forms.works[index]
        assert isinstance(work, Compute)
        return plan_tiles(work, self.forms.chip, room)

    def _grow(self, start: int, images: int) -> Iterator[tuple[float, Part]]:
        """The groups from a work in slices of `images`, longer and longer while they fit."""
        measure = Measure(self.forms, start, images)
        room = self.forms.chip.lane_bytes * ROOM
        works = self.forms.works
        for stop in range(start + 1, len(works) + 1):
            if not isinstance(works[stop - 1], Compute) or (start, stop, images) in self.refused:
                return
            if not measure.add(stop - 1) or measure.peak > room:
                return
            reloaded = measure.reloaded(room)
            variants = tuple(form.number for form in measure.forms)
            yield measure.cost(reloaded, self.weights), Sliced(start, stop, images, variants, reloaded)

    def refuse(self, part: Part) -> None:
        """Makes a part that found no room impossible; a work by itself is cut finer."""
        if isinstance(part, Sliced):
            self.refused.add((part.start, part.stop, part.images))
        else:
            self.tile_room[part.start] = self.tile_room.get(part.start, 1.0) * 0.7


def slice_sizes(batch: int) -> list[int]:
    """Images a slice may hold: the batch, and divisors of it each at most half the one before."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(next(k for k in range(sizes[-1] // 2, 0, -1) if batch % k == 0))
    return sizes
