"""Computations uncut but for images and rows: their programs, what they take from local memory, what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import costs, tile_plan
from tpu_deploy.codegen.program import (
    Fill,
    LoadConstant,
    LoadOperand,
    Step,
    StoreResult,
    TileProgram,
    Variant,
    usual_variants,
)
from tpu_deploy.codegen.views import AxisMap, Box, Dims, Storage
from tpu_deploy.codegen.works import Compute, Copy, Work

Rows = tuple[int, int]
"""Rows [first, last) of a result."""
Place = tuple[str, int, Dims, Dims]
"""Where a tensor seen as (n, c, h, w) lies: buffer, offset, sizes, strides (0 along sizes of 1)."""


def place_of(storage: Storage, shape: tuple[int, ...], axes: object) -> Place | None:
    """The place of a storage under a shape and axis map."""
    seen = storage.seen_as(shape)
    if seen is None:
        return None
    found = seen.as_nchw(axes)  # type: ignore[arg-type]
    if found is None:
        return None
    dims, strides = found
    fixed = tuple(s if k > 1 else 0 for s, k in zip(strides, dims, strict=True))
    return storage.buffer, seen.offset, dims, fixed  # type: ignore[return-value]


def rows_of(storage: Storage, shape: tuple[int, ...], axes: AxisMap, dimension: int) -> tuple[int, int] | None:
    """How many rows a storage has in a dimension of a view, and how many elements they lie apart."""
    seen = storage.seen_as(shape)
    found = None if seen is None else seen.as_nchw(axes)
    return None if found is None else (found[0][dimension], found[1][dimension])


@dataclass(frozen=True)
class Whole:
    """A computation uncut but for images and rows: the variant of that number, in slices of `images`.

    Results that do not have the batch as their images are not cut at all: `taken` is how much of n a slice has. Of
    several `stripes` of the rows, this is one in the middle, without what windows of others need beyond it.
    """

    work: Compute
    number: int
    variant: Variant
    images: int
    taken: int
    stripes: int
    chip: Chip

    @cached_property
    def program(self) -> TileProgram:
        """The program of the first slice."""
        return self.part(0, self.rows(self.stripes // 2))

    def part(self, index: int, rows: Rows) -> TileProgram:
        """The program of some rows of a slice's images."""
        tiling = self.variant.tiling
        start, stop = [0, 0, 0, 0], list(tiling.dims)
        start[tiling.rows], stop[tiling.rows] = rows
        start[0] = index * self.taken if self.taken < tiling.dims[0] else 0
        stop[0] = start[0] + self.taken
        return self.variant.tile(Box(tuple(start), tuple(stop)))  # type: ignore[arg-type]

    @property
    def height(self) -> int:
        """The rows of the result."""
        return self.variant.tiling.dims[self.variant.tiling.rows]

    def aligned(self, rows: Rows) -> Rows:
        """The fewest rows that hold these and may be cut out."""
        step = max(self.variant.tiling.multiple[self.variant.tiling.rows], 1)
        return rows[0] // step * step, min(-(-rows[1] // step) * step, self.height)

    def rows(self, stripe: int) -> Rows:
        """The rows of a stripe: all are as large as the granularity of cuts allows, none overlap."""
        tiling = self.variant.tiling
        step = max(tiling.multiple[tiling.rows], 1)
        low, high = (-(-self.height * k // self.stripes) // step * step for k in (stripe, stripe + 1))
        return low, self.height if stripe + 1 == self.stripes else high

    @cached_property
    def result_rows(self) -> tuple[int, int] | None:
        """How many rows the result has, and how many elements they lie apart in global memory."""
        tiling = self.variant.tiling
        return rows_of(self.work.result, tiling.shape, tiling.axes, tiling.rows)

    @cached_property
    def fits_fields(self) -> bool:
        """Whether all sizes can be written into instructions."""
        return tile_plan.fits_fields(self.program, self.chip)

    @cached_property
    def operands(self) -> dict[str, tuple[Place | None, LoadOperand]]:
        """Buffer of each operand that one load fills whole: its place, and the load."""
        found: dict[str, list[LoadOperand]] = {}
        for action in self.program.actions:
            if isinstance(action, LoadOperand):
                found.setdefault(action.buffer, []).append(action)
        written = {w.buffer for a in self.program.actions if isinstance(a, Step) for w in a.writes}
        places = {}
        for buffer, loads in found.items():
            storage = self.work.storage(loads[0])
            plain = len(loads) == 1 and loads[0].into is None and loads[0].row_step == 1 and buffer not in written
            places[buffer] = (place_of(storage, loads[0].shape, loads[0].axes) if plain else None, loads[0])
        return places

    @cached_property
    def result(self) -> tuple[Place | None, str]:
        """The place of the result if one store takes all of it, and the buffer it is stored from."""
        stores = [a for a in self.program.actions if isinstance(a, StoreResult)]
        single = len(stores) == 1
        return (place_of(self.work.result, stores[0].shape, stores[0].axes) if single else None), stores[0].buffer

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each buffer."""
        return {b.name: b.bytes for b in self.program.buffers}

    @cached_property
    def size(self) -> int:
        """Bytes of all buffers."""
        return sum(self.sizes.values())

    @cached_property
    def constants(self) -> dict[str, int]:
        """Buffers of constants, with their bytes."""
        return {a.buffer: self.sizes[a.buffer] for a in self.program.actions if isinstance(a, LoadConstant)}

    @cached_property
    def steps_cycles(self) -> int:
        """Cycles of the TIU for one slice."""
        return costs.steps_cycles(self.program, self.chip)

    @cached_property
    def load_cycles(self) -> dict[str, int]:
        """Cycles of the DMA engine for each operand's buffer, loaded from global memory."""
        cycles = dict.fromkeys(self.operands, 0)
        for action in self.program.actions:
            if isinstance(action, LoadOperand):
                cycles[action.buffer] += costs.transfer_cycles(action, self.work, self.chip)
        return cycles

    @cached_property
    def constant_cycles(self) -> int:
        """Cycles of the DMA engine for all constants."""
        return sum(costs.constant_cycles(a, self.chip) for a in self.program.actions if isinstance(a, LoadConstant))

    @cached_property
    def fill_cycles(self) -> int:
        """Cycles of the DMA engine for all fills."""
        return sum(costs.fill_cycles(a, self.chip) for a in self.program.actions if isinstance(a, Fill))

    @cached_property
    def store_cycles(self) -> int:
        """Cycles of the DMA engine for the result, stored to global memory."""
        actions = self.program.actions
        return sum(costs.transfer_cycles(a, self.work, self.chip) for a in actions if isinstance(a, StoreResult))

    @cached_property
    def moved_cycles(self) -> int:
        """Cycles of the DMA engine for one slice whose operands come from global memory and whose result goes there."""
        return sum(self.load_cycles.values()) + self.constant_cycles + self.fill_cycles + self.store_cycles


def rows_in(box: Box, form: Whole) -> Rows:
    """The rows of a box under the view that a form has of its result."""
    rows = form.variant.tiling.rows
    return box.start[rows], box.stop[rows]


def grown(variant: Variant, chip: Chip) -> Variant:
    """The variant with buffers grown to what loading their constants writes."""
    tile = variant.tile
    return replace(variant, tile=lambda box: tile_plan.grown(tile(box), chip))


@dataclass
class Forms:
    """All forms that the works of a network can run in, made when they are asked for."""

    works: Sequence[Work]
    kept_buffers: frozenset[str]
    chip: Chip
    readers: dict[str, set[int]] = field(default_factory=dict, init=False)
    """The works that read each buffer of global memory."""
    _wholes: dict[tuple[int, int, int], dict[int, Whole]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for index, work in enumerate(self.works):
            for storage in reads(work):
                self.readers.setdefault(storage.buffer, set()).add(index)

    @cached_property
    def batch(self) -> int:
        """The number of images that most of what is computed has, by bytes."""
        found: Counter[int] = Counter()
        for work in self.works:
            if isinstance(work, Compute):
                images = usual_variants(work.variants)[-1].tiling.dims[0]
                found[images] += work.result.elements * work.result.dtype.itemsize
        return max(found, key=lambda images: (found[images], images), default=1)

    def wholes(self, index: int, images: int, stripes: int = 1) -> dict[int, Whole]:
        """The forms of a work that can run in such slices, by their numbers; what suits residents comes last."""
        key = (index, images, stripes)
        if key not in self._wholes:
            work = self.works[index]
            assert isinstance(work, Compute)
            self._wholes[key] = {
                number: whole
                for number, variant in enumerate(work.variants)
                if self._can_be_sliced(variant, images, stripes)
                and (whole := self._whole(work, number, images, stripes)).fits_fields
            }
        return self._wholes[key]

    def _whole(self, work: Compute, number: int, images: int, stripes: int) -> Whole:
        variant = work.variants[number]
        n, each = variant.tiling.dims[0], variant.tiling.per_image
        taken = images * each if n == self.batch * each else n
        return Whole(work, number, grown(variant, self.chip), images, taken, stripes, self.chip)

    def _can_be_sliced(self, variant: Variant, images: int, stripes: int) -> bool:
        tiling = variant.tiling
        if variant.fallback or any(tiling.cuts):
            return False
        step = tiling.multiple[tiling.rows]
        if stripes > 1 and (step < 1 or tiling.dims[tiling.rows] < stripes * step):
            return False
        if images == self.batch:
            return True
        taken, step = images * tiling.per_image, tiling.multiple[0]
        return tiling.dims[0] == self.batch * tiling.per_image and step > 0 and taken % step == 0

    def chosen(self, index: int, images: int, stripes: int, made: Mapping[Place, object]) -> Whole | None:
        """The form that takes most operands from residents; where it takes none, the preferred one unless a later work
        can take the result of the last one from local memory."""
        options = list(self.wholes(index, images, stripes).values())
        if len(options) < 2 or options[0].variant.preferred:
            return options[0] if options else None
        best = max(options, key=lambda f: sum(p in made for p, _ in f.operands.values()))
        if any(p in made for p, _ in best.operands.values()):
            return best
        return options[-1] if self._is_wanted(index, options[-1]) else options[0]

    def _is_wanted(self, index: int, form: Whole) -> bool:
        """Whether a later work can take a form's result from local memory."""
        place = form.result[0]
        for reader in self.readers.get(form.work.result.buffer, set()):
            if reader > index and isinstance(self.works[reader], Compute):
                options = list(self.wholes(reader, form.images, form.stripes).values())
                if options and place is not None and any(p == place for p, _ in options[0].operands.values()):
                    return True
        return False


def reads(work: Work) -> list[Storage]:
    """The storages a work reads."""
    if isinstance(work, Compute):
        return [s for s in work.operands if s is not None]
    return [work.source] if isinstance(work, Copy) else []
