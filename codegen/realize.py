"""A schedule to items: the programs of all tiles and slices in order, and what each takes from local memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tpu_deploy.codegen.items import Item, Resident
from tpu_deploy.codegen.measure import Measure
from tpu_deploy.codegen.program import LoadConstant, StoreResult
from tpu_deploy.codegen.schedule import InvalidSchedule, Moved, Schedule, Sliced, Tiled
from tpu_deploy.codegen.tile_plan import single_loads, tiles_of
from tpu_deploy.codegen.vectors import through_rows
from tpu_deploy.codegen.views import Box
from tpu_deploy.codegen.wholes import Forms, Place, Whole
from tpu_deploy.codegen.works import Compute


def items_of(schedule: Schedule, forms: Forms) -> list[Item]:
    """The items of all parts, in order. Raises InvalidSchedule when a part does not suit its works."""
    found: list[Item] = []
    stop = 0
    for number, part in enumerate(schedule.parts):
        if part.start != stop or not stop < part.stop <= len(forms.works):
            raise InvalidSchedule(f"part {number} begins with work {part.start} after {stop} of {len(forms.works)}")
        stop = part.stop
        match part:
            case Moved():
                found.append(_moved(part, forms, number))
            case Tiled():
                found += _tiles(part, forms, number)
            case Sliced():
                found += _slices(part, forms, number)
    if stop != len(forms.works):
        raise InvalidSchedule(f"its parts end with work {stop} of {len(forms.works)}")
    return found


def _moved(part: Moved, forms: Forms, number: int) -> Item:
    work = forms.works[part.start]
    if isinstance(work, Compute):
        raise InvalidSchedule(f"work {part.start} is computed, not moved")
    return Item(work, group=number)


def _tiles(part: Tiled, forms: Forms, number: int) -> Iterator[Item]:
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
        yield Item(work, program, stored=stored, held=chosen.held, group=number)


def _may_cut(tile: int, size: int, multiple: int) -> bool:
    return tile == size or (0 < tile < size and multiple > 0 and tile % multiple == 0)


def _slices(part: Sliced, forms: Forms, number: int) -> list[Item]:
    batch = forms.batch
    if part.images < 1 or batch % part.images or len(part.variants) != part.stop - part.start:
        raise InvalidSchedule(f"part {number} has slices of {part.images} of {batch} images")
    measure = Measure(forms, part.start, part.images)
    for index, variant in zip(range(part.start, part.stop), part.variants, strict=True):
        if not isinstance(forms.works[index], Compute) or not measure.add(index, variant):
            raise InvalidSchedule(f"work {index} cannot run in slices of {part.images} of {batch} images")
    stored = [measure.is_stored(k) for k in range(len(measure.forms))]
    slices = [_slice(measure, k, stored, part, number) for k in range(batch // part.images)]
    ahead = part.ahead if part.ahead < len(measure.forms) else 0
    items = slices[0][:ahead]
    for own, following in zip(slices, [*slices[1:], []], strict=True):
        items += [*following[:ahead], *own[ahead:]]
    return items


def _slice(measure: Measure, index: int, stored: Sequence[bool], part: Sliced, number: int) -> list[Item]:
    """The items of one slice."""
    made: dict[Place, Resident] = {}
    own = [
        _slice_item(form, index, must_store, made, number, measure.all)
        for form, must_store in zip(measure.forms, stored, strict=True)
    ]
    shared = _loaded_twice(own)
    return [
        replace(item, held=shared if k in part.reloaded else shared | _constant_keys([item]))
        for k, item in enumerate(own)
    ]


def _slice_item(
    form: Whole, index: int, must_store: bool, made: dict[Place, Resident], number: int, forms: Forms
) -> Item:
    n, c, h, w = form.variant.tiling.dims
    first, last = (index * form.images, (index + 1) * form.images) if n == forms.batch else (0, n)
    program = form.variant.tile(Box((first, 0, 0, 0), (last, c, h, w)))
    inputs = {b: made[p] for b, (p, _) in form.operands.items() if p is not None and p in made}
    place, buffer = form.result
    stores = [a for a in program.actions if isinstance(a, StoreResult)]
    results = {}
    if place is not None:
        made[place] = Resident(f"{number}.{index}:{place}", stores[0].box, stores[0].box.dims)
        results[buffer] = made[place]
    leaving = {a.buffer for a in stores} if must_store else set()
    program = through_rows(program, form.work, inputs, leaving, forms.chip)
    stored = frozenset(a.buffer for a in program.actions if isinstance(a, StoreResult)) if must_store else frozenset()
    return Item(form.work, program, inputs, results, stored, frozenset(), number)


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
