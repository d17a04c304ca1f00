"""Small changes to a schedule, each with how many cycles it should save by the estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tpu_deploy.codegen.grouping import STRIPES, Planner, slice_sizes
from tpu_deploy.codegen.schedule import Part, Schedule, Sliced

SHIFTS = (1, 2, 3, 4, 6, 8)
"""By how many works a border between two groups is moved at a time."""
STAGGERS = ((1, 0.2), (1, 0.6), (2, 0.2), (3, 0.5))
"""How many works run a slice ahead, and behind which part of the slice before by its cycles on the TIU."""
LOOKAHEADS = (12, 32, 96, 400)
LINGERS = (0, 1, 2, 4)

Move = tuple[float, Schedule]
"""Cycles that a schedule is dearer than the one it was made from, by the estimate, and that schedule."""


class Moves:
    """Makes the neighbours of schedules of one network."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.cuts = [*((images, 1) for images in slice_sizes(planner.forms.batch)), *((1, k) for k in STRIPES)]
        """Images and stripes of slices."""

    def of(self, schedule: Schedule) -> list[Move]:
        """All neighbours, the most promising first."""
        found = [*self._arranged(schedule), *self._regrouped(schedule)]
        return sorted(found, key=lambda move: move[0])

    def _arranged(self, schedule: Schedule) -> Iterator[Move]:
        """The same groups with other transfers."""
        for number, part in enumerate(schedule.parts):
            if isinstance(part, Sliced) and self._slices(part) > 1:
                for changed in self._staggered(part):
                    yield 0.0, _with(schedule, number, number + 1, [changed])
        for linger in LINGERS:
            if linger != schedule.linger:
                yield 0.0, replace(schedule, linger=linger)
        for lookahead in LOOKAHEADS:
            if lookahead != schedule.lookahead:
                yield 0.0, replace(schedule, lookahead=lookahead)

    def _staggered(self, part: Sliced) -> Iterator[Sliced]:
        """The group with other works a slice ahead, or the same elsewhere."""
        if part.ahead:
            yield replace(part, ahead=0, behind=0)
        for ahead, share in STAGGERS:
            changed = self.staggered(part, ahead, share)
            if changed is not None and changed != part:
                yield changed

    def staggered(self, part: Sliced, ahead: int, share: float) -> Sliced | None:
        """The group with its first works a slice ahead, behind a share of the slice before."""
        if ahead >= part.stop - part.start:
            return None
        forms = self.planner.forms
        wholes = [forms.wholes(part.start + k, part.images, part.stripes)[v] for k, v in enumerate(part.variants)]
        left = share * sum(w.steps_cycles for w in wholes)
        behind = ahead
        while behind < len(wholes) and left > 0:
            left -= wholes[behind].steps_cycles
            behind += 1
        return replace(part, ahead=ahead, behind=behind)

    def eager(self, schedule: Schedule) -> Schedule:
        """The schedule with the first work of every group in slices a slice ahead."""
        return replace(
            schedule,
            parts=tuple(
                (self.staggered(p, *STAGGERS[0]) or p) if isinstance(p, Sliced) and self._slices(p) > 1 else p
                for p in schedule.parts
            ),
        )

    def _slices(self, part: Sliced) -> int:
        return self.planner.forms.batch // part.images * part.stripes

    def _regrouped(self, schedule: Schedule) -> Iterator[Move]:
        """Other groups."""
        parts = schedule.parts
        for number, part in enumerate(parts):
            old = self._cost([part])
            for changed in (*self._resized(part), *self._split(part), *self._flipped(part)):
                cost = self._cost(changed)
                yield cost - old, _with(schedule, number, number + 1, changed)
            if number + 1 < len(parts):
                both = self._cost(parts[number : number + 2])
                for changed in self._joined(part, parts[number + 1]):
                    yield self._cost(changed) - both, _with(schedule, number, number + 2, changed)

    def _cost(self, parts: Sequence[Part]) -> float:
        return sum(self.planner.cost(part) for part in parts)

    def _resized(self, part: Part) -> Iterator[list[Part]]:
        """The part in slices of other sizes."""
        for cut in self.cuts:
            group = self._group(part.start, part.stop, cut, part)
            if group is not None and not (isinstance(part, Sliced) and cut == (part.images, part.stripes)):
                yield [group]

    def _split(self, part: Part) -> Iterator[list[Part]]:
        """The part cut in two, each in the slices that suit it best."""
        if not isinstance(part, Sliced):
            return
        for cut in range(part.start + 1, part.stop):
            first, second = self._best(part.start, cut, part), self._best(cut, part.stop, part)
            if first is not None and second is not None:
                yield [first, second]

    def _joined(self, one: Part, other: Part) -> Iterator[list[Part]]:
        """Two parts as one, and their border elsewhere."""
        whole = self._best(one.start, other.stop, one)
        if whole is not None:
            yield [whole]
        for shift in SHIFTS:
            for cut in (one.stop - shift, one.stop + shift):
                if one.start < cut < other.stop:
                    first, second = self._like(one.start, cut, one), self._like(cut, other.stop, other)
                    if first is not None and second is not None:
                        yield [first, second]

    def _flipped(self, part: Part) -> Iterator[list[Part]]:
        """The group with another variant of one of its works."""
        if not isinstance(part, Sliced):
            return
        forms = self.planner.forms
        for offset, taken in enumerate(part.variants):
            for number in forms.wholes(part.start + offset, part.images, part.stripes):
                variants = (*part.variants[:offset], number, *part.variants[offset + 1 :])
                if number != taken and self.planner.may_pay(changed := replace(part, variants=variants), part):
                    yield [changed]

    def _like(self, start: int, stop: int, part: Part) -> Part | None:
        """Works as a group in slices like those of another part, if they fit."""
        if isinstance(part, Sliced):
            return self._group(start, stop, (part.images, part.stripes), part)
        return self._best(start, stop, part)

    def _best(self, start: int, stop: int, part: Part) -> Sliced | None:
        groups = [g for cut in self.cuts if (g := self._group(start, stop, cut, part)) is not None]
        return min(groups, key=self.planner.cost, default=None)

    def _group(self, start: int, stop: int, cut: tuple[int, int], part: Part) -> Sliced | None:
        """Works as a group, a slice ahead by as many as another part that begins with the same one.

        Where a result goes to global memory and comes back, the first work had better be a slice ahead.
        """
        group = self.planner.group(start, stop, *cut)
        if group is None or self._slices(group) == 1:
            return group
        ahead = part.ahead if isinstance(part, Sliced) and part.start == start else 0
        if not ahead and self.planner.returns(group):
            ahead = 1
        return (self.staggered(group, ahead, STAGGERS[0][1]) or group) if ahead else group


def _with(schedule: Schedule, start: int, stop: int, parts: Sequence[Part]) -> Schedule:
    """The schedule with other parts in place of [start, stop)."""
    return replace(schedule, parts=(*schedule.parts[:start], *parts, *schedule.parts[stop:]))
