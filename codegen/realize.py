"""A schedule to items: the programs of all tiles and slices in order, and what each takes from local memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tpu_deploy.codegen.items import Item, Resident
from tpu_deploy.codegen.measure import Measure
from tpu_deploy.codegen.program import LoadConstant, StoreResult
from tpu_deploy.codegen.schedule import InvalidSchedule, Moved, Part, Schedule, Sliced, Tiled
from tpu_deploy.codegen.tile_plan import single_loads, tiles_of
from tpu_deploy.codegen.vectors import through_rows
from tpu_deploy.codegen.wholes import Forms, Place, Whole
from tpu_deploy.codegen.works import Compute


class Parts:
    """The items of the parts of schedules of one network, made once each."""

    def __init__(self, forms: Forms) -> None:
        self.forms = forms
        self._known: dict[Part, list[Item]] = {}

    def items(self, schedule: Schedule) -> list[Item]:
        """The items of all parts, in order. Raises InvalidSchedule when a part does not suit its works."""
        found: list[Item] = []
        stop, count = 0, len(self.forms.works)
        for part in schedule.parts:
            if part.start != stop or not stop < part.stop <= count:
                raise InvalidSchedule(f"a part begins with work {part.start} after {stop} of {count}")
            stop = part.stop
            if part not in self._known:
                self._known[part] = _items_of(part, self.forms)
            found += self._known[part]
        if stop != count:
            raise InvalidSchedule(f"its parts end with work {stop} of {count}")
        return found


def _items_of(part: Part, forms: Forms) -> list[Item]:
    match part:
        case Moved():
            return [_moved(part, forms)]
        case Tiled():
            return list(_tiles(part, forms))
        case Sliced():
            return _slices(part, forms)


def _moved(part: Moved, forms: Forms) -> Item:
    work = forms.works[part.start]
    if isinstance(work, Compute):
        raise InvalidSchedule(f"work {part.start} is computed, not moved")
    return Item(work, group=part.start)


def _tiles(part: Tiled, forms: Forms) -> Iterator[Item]:
    work = forms.works[part.start]
    if not isinstance(work, Compute) or part.variant >= len(work.variants):
        raise InvalidSchedule(f"work {part.start} has no variant {part.variant}")
    variant = work.variants[part.variant]
    if not all(
        _may_cut(*way) for way in zip(part.grid.tile, variant.tiling.dims, variant.tiling.multiple, strict=True)
    ):
        raise InvalidSchedule(f"work {part.start} cannot be cut into tiles of {part.grid.tile}")
    chosen = tiles_of(work, variant, part.grid, forms.chip)
    for program in chosen.programs:
        stored = frozenset(a.buffer for a in program.actions if isinstance(a, StoreResult))
        yield Item(work, program, stored=stored, held=chosen.held, group=part.start)


def _may_cut(tile: int, size: int, multiple: int) -> bool:
    return tile == size or (0 < tile < size and multiple > 0 and tile % multiple == 0)


def _slices(part: Sliced, forms: Forms) -> list[Item]:
    batch = forms.batch
    count = part.stop - part.start
    if part.images < 1 or batch % part.images or len(part.variants) != count or max(part.ahead, part.behind) > count:
        raise InvalidSchedule(f"the part of work {part.start} has slices of {part.images} of {batch} images")
    measure = Measure(forms, part.start, part.images)
    for index, variant in zip(range(part.start, part.stop), part.variants, strict=True):
        if not isinstance(forms.works[index], Compute) or not measure.add(index, variant):
            raise InvalidSchedule(f"work {index} cannot run in slices of {part.images} of {batch} images")
    stored = [measure.is_stored(k) for k in range(len(measure.forms))]
    slices = [_slice(measure, k, stored, part) for k in range(batch // part.images)]
    ahead, behind = part.ahead, max(part.ahead, part.behind)
    items = slices[0][:ahead]
    for own, following in zip(slices, [*slices[1:], []], strict=True):
        items += [*own[ahead:behind], *following[:ahead], *own[behind:]]
    return items


def _slice(measure: Measure, index: int, stored: Sequence[bool], part: Sliced) -> list[Item]:
    """The items of one slice."""
    made: dict[Place, Resident] = {}
    own = [
        _slice_item(form, index, must_store, made, measure)
        for form, must_store in zip(measure.forms, stored, strict=True)
    ]
    shared = _loaded_twice(own)
    return [
        replace(item, held=shared if k in part.reloaded else shared | _constant_keys([item]))
        for k, item in enumerate(own)
    ]


def _slice_item(form: Whole, index: int, must_store: bool, made: dict[Place, Resident], measure: Measure) -> Item:
    program = form.part(index)
    inputs = {b: made[p] for b, (p, _) in form.operands.items() if p is not None and p in made}
    place, buffer = form.result
    stores = [a for a in program.actions if isinstance(a, StoreResult)]
    results = {}
    if place is not None:
        made[place] = Resident(f"{measure.start}.{index}:{place}", stores[0].box, stores[0].box.dims)
        results[buffer] = made[place]
    leaving = {a.buffer for a in stores} if must_store else set()
    program = through_rows(program, form.work, inputs, leaving, measure.all.chip)
    stored = frozenset(a.buffer for a in program.actions if isinstance(a, StoreResult)) if must_store else frozenset()
    return Item(form.work, program, inputs, results, stored, frozenset(), measure.start)


def _constant_keys(items: Sequence[Item]) -> frozenset[str]:
    """The keys of all constants."""
    return frozenset(
        a.key for i in items if i.program is not None for a in i.program.actions if isinstance(a, LoadConstant)
    )


def _loaded_twice(items: Sequence[Item]) -> frozenset[str]:
    """Keys of operand loads that several items make and do not write over."""
    count: Counter[str] = Counter()
    for item in items:
        assert item.program is not None
        loads = single_loads(item.program, item.compute)
        count.update(key for buffer, key in loads.items() if buffer not in item.inputs)
    return frozenset(k for k, n in count.items() if n > 1) - _constant_keys(items)
