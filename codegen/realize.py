"""A schedule to items: the programs of all tiles and slices in order, and what each takes from local memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tpu_deploy.codegen.items import Item, Resident
from tpu_deploy.codegen.measure import Measure
from tpu_deploy.codegen.program import LoadConstant, LoadOperand, StoreResult, TileProgram
from tpu_deploy.codegen.schedule import InvalidSchedule, Moved, Part, Schedule, Sliced, Tiled
from tpu_deploy.codegen.tile_plan import single_loads, tiles_of
from tpu_deploy.codegen.vectors import through_rows
from tpu_deploy.codegen.wholes import Forms, Place, Rows, Whole, rows_in
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
    if (
        part.images < 1
        or part.stripes < 1
        or batch % part.images
        or len(part.variants) != count
        or max(part.ahead, part.behind) > count
    ):
        raise InvalidSchedule(f"the part of work {part.start} has slices of {part.images} of {batch} images")
    measure = Measure(forms, part.start, part.images, part.stripes)
    for index, variant in zip(range(part.start, part.stop), part.variants, strict=True):
        if not isinstance(forms.works[index], Compute) or not measure.add(index, variant):
            raise InvalidSchedule(f"work {index} cannot run in slices of {part.images} of {batch} images")
    stored = [measure.is_stored(k) for k in range(len(measure.forms))]
    slices = []
    for index in range(batch // part.images):
        rows = _Rows(measure, stored)
        for stripe in range(part.stripes):
            programs = rows.programs(index, stripe)
            slices.append(_slice(measure, f"{part.start}.{index}.{stripe}", programs, stored, part))
    ahead, behind = part.ahead, max(part.ahead, part.behind)
    items = slices[0][:ahead]
    for own, following in zip(slices, [*slices[1:], []], strict=True):
        items += [*own[ahead:behind], *following[:ahead], *own[behind:]]
    return [item for item in items if item is not None]


def _slice(
    measure: Measure, name: str, programs: Sequence[TileProgram | None], stored: Sequence[bool], part: Sliced
) -> list[Item | None]:
    """The items of one slice; None for works that have nothing to do in it."""
    made: dict[Place, Resident] = {}
    own = [
        None if program is None else _slice_item(form, program, name, kept, made, measure)
        for form, program, kept in zip(measure.forms, programs, stored, strict=True)
    ]
    shared = _loaded_twice([item for item in own if item is not None])
    return [
        item if item is None else replace(item, held=shared if k in part.reloaded else shared | _constant_keys([item]))
        for k, item in enumerate(own)
    ]


class _Rows:
    """Which rows of each result the slices of an image make, one slice after the other.

    A slice makes the rows that its later works read, and of what is stored those that no slice before has made, so far
    as later works read them back or its own stripe goes.
    """

    def __init__(self, measure: Measure, stored: Sequence[bool]) -> None:
        self.forms, self.stored = measure.forms, stored
        self.maker = {form.result[0]: k for k, form in enumerate(self.forms) if form.result[0] is not None}
        self.writer = {form.work.result.buffer: k for k, form in enumerate(self.forms)}
        self.done = [0] * len(self.forms)

    def programs(self, index: int, stripe: int) -> list[TileProgram | None]:
        """The programs of a slice, the next stripe of the images of that index; None where nothing is left to do."""
        read: list[Rows | None] = [None] * len(self.forms)
        back = [0] * len(self.forms)
        found: list[TileProgram | None] = []
        for k in range(len(self.forms) - 1, -1, -1):
            form = self.forms[k]
            low, high = form.aligned(self._wanted(k, stripe, read[k], back[k]))
            program = form.part(index, (low, high)) if low < high else None
            found.append(program)
            if self.stored[k]:
                self.done[k] = max(self.done[k], high)
            for action in program.actions if program is not None else ():
                if isinstance(action, LoadOperand):
                    self._note_read(k, action, read, back)
        return found[::-1]

    def _wanted(self, k: int, stripe: int, read: Rows | None, back: int) -> Rows:
        own = self.forms[k].rows(stripe)
        if not self.stored[k]:
            return read or own
        low, high = self.done[k], max(own[1], back)
        return (low, high) if read is None else (min(low, read[0]), max(high, read[1]))

    def _note_read(self, reader: int, load: LoadOperand, read: list[Rows | None], back: list[int]) -> None:
        """Notes what a work reads of what a work before it in the group makes."""
        form = self.forms[reader]
        place, _ = form.operands.get(load.buffer, (None, load))
        maker = reader if place is None else self.maker.get(place, reader)
        if maker < reader:
            first, last = rows_in(load.box, self.forms[maker])
            known = read[maker] or (first, last)
            read[maker] = min(known[0], first), max(known[1], last)
            return
        writer = self.writer.get(form.work.storage(load).buffer, reader)
        if writer < reader:
            back[writer] = max(back[writer], rows_in(load.box, form)[1])


def _slice_item(
    form: Whole, program: TileProgram, name: str, must_store: bool, made: dict[Place, Resident], measure: Measure
) -> Item:
    inputs = {b: made[p] for b, (p, _) in form.operands.items() if p is not None and p in made}
    place, buffer = form.result
    stores = [a for a in program.actions if isinstance(a, StoreResult)]
    results = {}
    if place is not None:
        made[place] = Resident(f"{name}:{place}", stores[0].box, stores[0].box.dims)
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
