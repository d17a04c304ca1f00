"""Layer groups: which computations keep their values in local memory, and in how many slices of the batch.

A group runs over its slices one after another, all its operations in each. Values that its later operations read stay
in local memory; others come from and go to global memory. An operation whose slice of one image does not fit is a group
of its own, cut into tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tpu_deploy.codegen.measure import Measure, Weights
from tpu_deploy.codegen.schedule import Moved, Part, Schedule, Sliced, Tiled
from tpu_deploy.codegen.tile_plan import TilePlan, plan_tiles
from tpu_deploy.codegen.wholes import Forms
from tpu_deploy.codegen.works import Compute

Slicing = tuple[int, int, int, int]
"""What groups are told apart by: first work, the work after the last, images, stripes."""
STRIPES = (2, 4, 8, 16, 32, 64)
"""Into how many stripes the rows of an image may be cut."""


@dataclass(frozen=True)
class _Uncut:
    """A work by itself of which it is not known yet how it is cut."""

    start: int

    @property
    def stop(self) -> int:
        """The work after it."""
        return self.start + 1


@dataclass
class Planner:
    """Chooses groups for the works of a network; what is found to have no room is remembered."""

    forms: Forms
    weights: Weights
    refused: set[Slicing] = field(default_factory=set)
    tile_room: dict[int, float] = field(default_factory=dict)
    tiled: dict[int, TilePlan] = field(default_factory=dict)
    costs: dict[Sliced, float] = field(default_factory=dict)
    returning: dict[Sliced, bool] = field(default_factory=dict)
    grown: dict[int, dict[Slicing, Sliced]] = field(default_factory=dict)

    def schedule(self) -> Schedule:
        """The cheapest division found by dynamic programming over the ends of groups.

        What a work by itself takes in tiles is looked into only where the cheapest division has one.
        """
        while True:
            parts = self._divide()
            rough = [p.start for p in parts if isinstance(p, _Uncut)]
            if not rough:
                return Schedule(tuple(p for p in parts if not isinstance(p, _Uncut)))
            for start in rough:
                self.tiled[start] = self._tile(start)

    def _divide(self) -> list[Part | _Uncut]:
        count = len(self.forms.works)
        best: list[tuple[float, Part | _Uncut | None]] = [(0.0, None), *[(float("inf"), None) for _ in range(count)]]
        for start in range(count):
            if best[start][0] == float("inf"):
                continue
            for cost, part in (*self._alone(start), *self._groups(start)):
                total = best[start][0] + cost
                if total < best[part.stop][0]:
                    best[part.stop] = (total, part)
        found: list[Part | _Uncut] = []
        end = count
        while end:
            last = best[end][1]
            assert last is not None
            found.append(last)
            end = last.start
        return found[::-1]

    def _alone(self, start: int) -> Iterator[tuple[float, Part | _Uncut]]:
        """A work by itself, and what it costs."""
        if not isinstance(self.forms.works[start], Compute):
            yield 0.0, Moved(start)
        elif start in self.tiled:
            plan = self.tiled[start]
            yield plan.cycles + self.weights.group, Tiled(start, plan.variant, plan.grid)
        else:
            least = [max(w.steps_cycles, w.moved_cycles) for w in self.forms.wholes(start, self.forms.batch).values()]
            yield min(least, default=0) + self.weights.group, _Uncut(start)

    def _tile(self, index: int) -> TilePlan:
        """How a work by itself is cut."""
        work = self.forms.works[index]
        assert isinstance(work, Compute)
        return plan_tiles(work, self.forms.chip, self.tile_room.get(index, 1.0))

    def group(self, start: int, stop: int, images: int, stripes: int = 1) -> Sliced | None:
        """Works [start, stop) as a group in slices, None where they do not fit."""
        self._groups(start)
        key = (start, stop, images, stripes)
        return None if key in self.refused else self.grown[start].get(key)

    def cost(self, part: Part) -> float:
        """What a part costs."""
        match part:
            case Moved():
                return 0.0
            case Tiled():
                if part.start not in self.tiled:
                    self.tiled[part.start] = self._tile(part.start)
                return self.tiled[part.start].cycles + self.weights.group
            case Sliced():
                plain = replace(part, ahead=0, behind=0)
                if plain not in self.costs:
                    self.costs[plain] = self._measured(plain).cost(part.reloaded, self.weights)
                return self.costs[plain]

    def returns(self, part: Sliced) -> bool:
        """Whether a group reads back from global memory what it wrote there."""
        plain = replace(part, ahead=0, behind=0)
        if plain not in self.returning:
            self.returning[plain] = self._measured(plain).returned > 0
        return self.returning[plain]

    def may_pay(self, part: Sliced, other: Sliced) -> bool:
        """Whether a group can run, and one of the engines has less to do than in another one of the same works."""
        new, old = self._measured(part), self._measured(other)
        if len(new.forms) < part.stop - part.start or not new.fits:
            return False
        return new.computed < old.computed or new.loaded + new.stored < old.loaded + old.stored

    def _measured(self, part: Sliced) -> Measure:
        measure = Measure(self.forms, part.start, part.images, part.stripes)
        for index, variant in zip(range(part.start, part.stop), part.variants, strict=True):
            if not measure.add(index, variant):
                break
        return measure

    def _groups(self, start: int) -> list[tuple[float, Sliced]]:
        """The groups that begin with a work, and what they cost."""
        if start not in self.grown:
            self.grown[start] = {}
            for images in slice_sizes(self.forms.batch):
                self._grow(start, images, 1)
            for stripes in STRIPES:
                if start and not self._lacks_room(start):
                    break
                self._grow(start, 1, stripes)
        return [(self.costs[part], part) for part in self.grown[start].values() if _slicing(part) not in self.refused]

    def _lacks_room(self, start: int) -> bool:
        """Whether longer groups of single images from a work would be possible if there were more room."""
        stop = max((part.stop for part in self.grown[start].values() if part.images == 1), default=start)
        if stop == len(self.forms.works) or not isinstance(self.forms.works[stop], Compute):
            return False
        return bool(self.forms.wholes(stop, 1))

    def _grow(self, start: int, images: int, stripes: int) -> None:
        """Finds the groups from a work in such slices, longer and longer while they fit."""
        measure = Measure(self.forms, start, images, stripes)
        works = self.forms.works
        variants: tuple[int, ...] = ()
        for stop in range(start + 1, len(works) + 1):
            if not isinstance(works[stop - 1], Compute) or not measure.add(stop - 1) or not measure.fits:
                return
            reloaded = measure.reloaded()
            variants = (*variants, measure.forms[-1].number)
            part = Sliced(start, stop, images, variants, reloaded, stripes=stripes)
            self.costs[part] = measure.cost(reloaded, self.weights)
            self.grown[start][_slicing(part)] = part

    def refuse(self, part: Part) -> None:
        """Makes a part that found no room impossible; a work by itself is cut finer."""
        if isinstance(part, Sliced):
            self.refused.add(_slicing(part))
        else:
            self.tile_room[part.start] = self.tile_room.get(part.start, 1.0) * 0.7
            self.tiled[part.start] = self._tile(part.start)


def _slicing(part: Sliced) -> Slicing:
    return part.start, part.stop, part.images, part.stripes


def slice_sizes(batch: int) -> list[int]:
    """Images a slice may hold: the batch, and divisors of it each at most half the one before."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(next(k for k in range(sizes[-1] // 2, 0, -1) if batch % k == 0))
    return sizes
