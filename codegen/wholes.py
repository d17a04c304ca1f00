"""Computations uncut but for the batch: their programs, what they take from local memory, what their constants cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import tile_plan
from tpu_deploy.codegen.program import LoadConstant, LoadOperand, Step, StoreResult, TileProgram, Variant
from tpu_deploy.codegen.views import Box, Dims, Storage
from tpu_deploy.codegen.works import Compute

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


@dataclass(frozen=True)
class Whole:
    """A computation uncut but for the batch: its program for a slice of `images`, and where its tensors lie."""

    work: Compute
    variant: Variant
    images: int
    chip: Chip

    @cached_property
    def program(self) -> TileProgram:
        """The program of the first slice."""
        n, c, h, w = self.variant.tiling.dims
        return self.variant.tile(Box((0, 0, 0, 0), (min(self.images, n), c, h, w)))

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

    @property
    def program_dims(self) -> Dims:
        """Sizes of one slice's result."""
        n, c, h, w = self.variant.tiling.dims
        return min(self.images, n), c, h, w

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each buffer."""
        return {b.name: b.bytes for b in self.program.buffers}

    @cached_property
    def constant_bytes(self) -> int:
        """Bytes of all lanes that loading the constants moves."""
        return tile_plan.constant_traffic(self.program, self.chip)

    @cached_property
    def constants(self) -> set[str]:
        """Buffers of constants."""
        return {a.buffer for a in self.program.actions if isinstance(a, LoadConstant)}


def grown(variant: Variant, chip: Chip) -> Variant:
    """The variant with buffers grown to what loading their constants writes."""
    tile = variant.tile
    return replace(variant, tile=lambda box: tile_plan.grown(tile(box), chip))
