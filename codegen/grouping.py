"""Layer groups: which computations keep their values in local memory, and in how many slices of the batch.

A group runs over its slices one after another, all its operations in each. Values that its later operations read stay
in local memory; others come from and go to global memory. An operation whose slice of one image does not fit is a group
of its own, cut into tiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import tile_plan
from tpu_deploy.codegen.items import Item, Resident
from tpu_deploy.codegen.program import LoadConstant, StoreResult, usual_variants
from tpu_deploy.codegen.tile_plan import fits_fields, single_loads
from tpu_deploy.codegen.vectors import through_rows
from tpu_deploy.codegen.views import Box, Storage
from tpu_deploy.codegen.wholes import Place, Whole, grown
from tpu_deploy.codegen.works import Compute, Copy, Work

ROOM = 0.92
"""The share of local memory that the values of a group may take by the estimate: placing them exactly takes more."""
EXPOSED = 0.5
"""The share of one slice's transfers that nothing hides: they run before the first operation and after the last."""
TILED_WEIGHT = 1.75
"""A byte that an operation cut into tiles moves takes as long as this many moved whole: its rows are cut too."""
GROUP_OVERHEAD = 10000.0
"""What one more group costs, in bytes of transfer: its first operations wait for what the group before stores."""
SLICE_OVERHEAD = 100.0
"""What an operation of one more slice costs, in bytes of transfer: short commands that wait for each other."""

STORE_WEIGHT = 1.4
"""A byte stored takes as long as this many loaded."""


@dataclass(frozen=True)
class Group:
    """Works [start, stop) in slices of `images`; `images` 0: one work cut into tiles, or one of the DMA engine."""

    start: int
    stop: int
    images: int = 0
    holds_constants: bool = True


@dataclass
class Planner:
    """Chooses groups for a list of works."""

    works: Sequence[Work]
    kept_buffers: frozenset[str]
    chip: Chip
    refused: set[tuple[int, int]] = field(default_factory=set)
    tile_room: dict[str, float] = field(default_factory=dict)
    wholes: dict[tuple[int, int], list[Whole]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readers: dict[str, set[int]] = {}
        for index, work in enumerate(self.works):
            for storage in _reads(work):
                self.readers.setdefault(storage.buffer, set()).add(index)

    @cached_property
    def batch(self) -> int:
        """The largest number of images of any result."""
        return max(
            (usual_variants(w.variants)[-1].tiling.dims[0] for w in self.works if isinstance(w, Compute)), default=1
        )

    def whole(self, index: int, images: int) -> list[Whole]:
        """The forms of a work that can run in slices of `images`, the one that suits residents last."""
        key = (index, images)
        if key not in self.wholes:
            work = self.works[index]
            assert isinstance(work, Compute)
            self.wholes[key] = [
                Whole(work, grown(variant, self.chip), images, self.chip)
                for variant in work.variants
                if not variant.fallback
                and not any(variant.tiling.cuts)
                and (images == self.batch or variant.tiling.dims[0] == self.batch)
            ]
        return self.wholes[key]

    def form(self, index: int, images: int, made: Mapping[Place, object]) -> Whole | None:
        """The form that takes most operands from residents; where it takes none, the preferred one unless a later work
        can take the result of the last one from local memory."""
        options = self.whole(index, images)
        if not options:
            return None
        if options[0].variant.preferred:
            return options[0]
        best = max(options, key=lambda f: sum(p in made for p, _ in f.operands.values()))
        if any(p in made for p, _ in best.operands.values()):
            return best
        return options[-1] if self._is_wanted(index, options[-1]) else options[0]

    def _is_wanted(self, index: int, form: Whole) -> bool:
        """Whether a later work can take a form's result from local memory."""
        place = form.result[0]
        for reader in self.readers.get(form.work.result.buffer, set()):
            if reader > index and isinstance(self.works[reader], Compute):
                options = self.whole(reader, form.images)
                if options and place is not None and any(p == place for p, _ in options[0].operands.values()):
                    return True
        return False

    def groups(self) -> list[Group]:
        """The cheapest division found by dynamic programming over the ends of groups."""
        count = len(self.works)
        best: list[tuple[float, Group | None]] = [(0.0, None), *[(float("inf"), None) for _ in range(count)]]
        sizes = _slice_sizes(self.batch)
        for start in range(count):
            if best[start][0] == float("inf"):
                continue
            for cost, group in self._from(start, sizes):
                total = best[start][0] + cost
                if total < best[group.stop][0]:
                    best[group.stop] = (total, group)
        found: list[Group] = []
        end = count
        while end:
            last = best[end][1]
            assert last is not None
            found.append(last)
            end = last.start
        return found[::-1]

    def _from(self, start: int, sizes: Sequence[int]) -> Iterator[tuple[float, Group]]:
        """Groups that begin with a work, and what they cost: bytes moved, weighed."""
        work = self.works[start]
        if not isinstance(work, Compute):
            yield 0.0, Group(start, start + 1)
            return
        yield self._tiled_cost(work), Group(start, start + 1)
        for images in sizes:
            yield from self._grow(start, images)

    def _tiled_cost(self, work: Compute) -> float:
        """A work by itself: everything it touches is moved, constants perhaps more than once."""
        moved = _bytes(work.result) + sum(_bytes(s) for s in work.operands if s is not None)
        usual = usual_variants(work.variants)[-1]
        constants = tile_plan.constant_traffic(usual.tile(Box.whole(usual.tiling.dims)), self.chip)
        return GROUP_OVERHEAD + TILED_WEIGHT * (moved + constants) + SLICE_OVERHEAD

    def _grow(self, start: int, images: int) -> Iterator[tuple[float, Group]]:
        """The groups from a work in slices of `images`, longer and longer while they fit."""
        measure = Measure(self, start, images)
        room = self.chip.lane_bytes * ROOM
        for stop in range(start + 1, len(self.works) + 1):
            if not isinstance(self.works[stop - 1], Compute) or (start, stop) in self.refused:
                return
            if not measure.add(stop - 1) or measure.peak > room:
                return
            holds = measure.peak + measure.constant_bytes <= room
            yield measure.cost(holds), Group(start, stop, images, holds)

    def refuse(self, group: Group) -> None:
        """Makes a group that found no room impossible; a work by itself is cut finer."""
        if group.images:
            self.refused.add((group.start, group.stop))
            return
        work = self.works[group.start]
        assert isinstance(work, Compute)
        name = work.view.result.name
        self.tile_room[name] = self.tile_room.get(name, 1.0) * 0.7

    def items(self, groups: Sequence[Group]) -> list[Item]:
        """The items of all groups, in order."""
        found: list[Item] = []
        for number, group in enumerate(groups):
            work = self.works[group.start]
            if group.images:
                found += self._group_items(group, number)
            elif isinstance(work, Compute):
                found += self._tile_items(work, number)
            else:
                found.append(Item(work, group=number))
        return found

    def _tile_items(self, work: Compute, number: int) -> list[Item]:
        chosen = tile_plan.plan_tiles(work, self.chip, self.tile_room.get(work.view.result.name, 1.0))
        items = []
        for program in chosen.programs:
            stored = frozenset(a.buffer for a in program.actions if isinstance(a, StoreResult))
            items.append(Item(work, program, stored=stored, held=chosen.held, group=number))
        return items

    def _group_items(self, group: Group, number: int) -> list[Item]:
        measure = Measure(self, group.start, group.images)
        for index in range(group.start, group.stop):
            measure.add(index)
        stored = [measure.is_stored(k) for k in range(len(measure.forms))]
        slices = self.batch // group.images
        items = []
        for part in range(slices):
            made: dict[Place, Resident] = {}
            own = [
                self._group_item(form, part, must_store, made, number)
                for form, must_store in zip(measure.forms, stored, strict=True)
            ]
            shared = _loaded_twice(own)
            keys = shared | _constant_keys(own) if slices == 1 or group.holds_constants else shared
            items += [replace(item, held=keys) for item in own]
        return items

    def _group_item(self, form: Whole, part: int, must_store: bool, made: dict[Place, Resident], number: int) -> Item:
        n, c, h, w = form.variant.tiling.dims
        first, last = (part * form.images, (part + 1) * form.images) if n == self.batch else (0, n)
        program = form.variant.tile(Box((first, 0, 0, 0), (last, c, h, w)))
        inputs = {b: made[p] for b, (p, _) in form.operands.items() if p is not None and p in made}
        place, buffer = form.result
        stores = [a for a in program.actions if isinstance(a, StoreResult)]
        results = {}
        if place is not None:
            made[place] = Resident(f"{number}.{part}:{place}", stores[0].box, stores[0].box.dims)
            results[buffer] = made[place]
        leaving = {a.buffer for a in stores} if must_store else set()
        program = through_rows(program, form.work, inputs, leaving, self.chip)
        stored = (
            frozenset(a.buffer for a in program.actions if isinstance(a, StoreResult)) if must_store else frozenset()
        )
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


class Measure:
    """What a group of works takes and moves when it runs in slices; works are added one by one."""

    def __init__(self, planner: Planner, start: int, images: int) -> None:
        self.planner = planner
        self.start, self.images = start, images
        self.forms: list[Whole] = []
        self.made: dict[Place, int] = {}
        self.last: dict[Place, int] = {}
        self.taken: list[int] = []
        """How many later works take each result from local memory."""
        self.alive: list[int] = []
        """Bytes in use while each work runs, without what later works still need."""
        self.written: dict[str, Storage | None] = {}
        """Buffers that works write: the one tensor in it whose first axis is the batch, None for anything else."""
        self.constant_bytes = 0
        self.constant_moved = 0
        self.loaded = 0.0
        self.peak = 0

    def add(self, index: int) -> bool:
        """Adds a work; False when no form of it can run in such slices."""
        form = self.planner.form(index, self.images, self.made)
        if form is None or not fits_fields(form.program, self.planner.chip) or self._crosses_slices(form):
            return False
        self._note_written(form)
        offset = len(self.forms)
        self.forms.append(form)
        self.taken.append(0)
        self.constant_moved += form.constant_bytes
        own = 0
        bound: set[str] = set()
        for buffer, (place, load) in form.operands.items():
            if place is not None and place in self.made:
                self._keep(place, offset)
                if load.box.dims[1:] == place[2][1:]:
                    bound.add(buffer)
                    continue
            else:
                self.loaded += prod(load.dims) * form.work.storage(load).dtype.itemsize
        for place in {p for p, _ in form.operands.values() if p is not None and p in self.made}:
            reads = [p for p, load in form.operands.values() if form.work.storage(load).buffer == place[0]]
            self.taken[self.made[place]] += all(p == place for p in reads)
        place, buffer = form.result
        for name, size in form.sizes.items():
            if name in form.constants:
                self.constant_bytes += size
            if name not in bound:
                own += size
        held = sum(
            self.forms[self.made[p]].sizes[self.forms[self.made[p]].result[1]]
            for p, k in self.last.items()
            if k >= offset
        )
        self.alive.append(own + held)
        self.peak = max(self.peak, self.alive[-1])
        if place is not None:
            self.made[place], self.last[place] = offset, offset
        return True

    def _note_written(self, form: Whole) -> None:
        result = form.work.result
        tiling = form.variant.tiling
        sliced = result.shape[:1] == (self.planner.batch,) and tiling.shape[0] == self.planner.batch
        known = sliced and tiling.axes[0] == (0,) and result.buffer not in self.written
        self.written[result.buffer] = result if known else None

    def _crosses_slices(self, form: Whole) -> bool:
        """Whether a form loads from global memory what a work of this group may write there in a later slice.

        A slice may read back its own images of the very tensor that was written.
        """
        batch = self.planner.batch
        if self.images == batch:
            return False
        for place, load in form.operands.values():
            storage = form.work.storage(load)
            if (place is not None and place in self.made) or storage.buffer not in self.written:
                continue
            own = storage == self.written[storage.buffer] and load.shape[0] == batch and load.axes[0] == (0,)
            if not own:
                return True
        return False

    def _keep(self, place: Place, until: int) -> None:
        """Extends the life of a resident."""
        form = self.forms[self.made[place]]
        for offset in range(self.last[place] + 1, until):
            self.alive[offset] += form.sizes[form.result[1]]
            self.peak = max(self.peak, self.alive[offset])
        self.last[place] = until

    def is_stored(self, offset: int) -> bool:
        """Whether a result must go to global memory: it is an output, or somebody reads it there."""
        form = self.forms[offset]
        buffer = form.work.result.buffer
        readers = [k for k in self.planner.readers.get(buffer, set()) if k > self.start + offset]
        return form.result[0] is None or buffer in self.planner.kept_buffers or len(readers) > self.taken[offset]

    def cost(self, holds: bool) -> float:
        """Bytes the group moves in all its slices, plus what more slices cost."""
        slices = self.planner.batch // self.images
        constants = self.constant_moved * (1 if holds or slices == 1 else slices)
        stored = sum(
            prod(f.program_dims) * f.work.result.dtype.itemsize * STORE_WEIGHT
            for k, f in enumerate(self.forms)
            if self.is_stored(k)
        )
        moved = self.loaded + stored
        short = SLICE_OVERHEAD * slices * len(self.forms)
        return GROUP_OVERHEAD + constants + moved * (slices + EXPOSED) + short


def _slice_sizes(batch: int) -> list[int]:
    """Images a slice may hold: the batch, and divisors of it each at most half the one before."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(next(k for k in range(sizes[-1] // 2, 0, -1) if batch % k == 0))
    return sizes


def _bytes(storage: Storage) -> int:
    return storage.elements * storage.dtype.itemsize


def _reads(work: Work) -> list[Storage]:
    if isinstance(work, Compute):
        return [s for s in work.operands if s is not None]
    return [work.source] if isinstance(work, Copy) else []
