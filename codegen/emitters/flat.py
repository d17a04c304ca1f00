"""Operations that treat every element alike: seen flat, so that all lanes are busy whatever the shape."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tpu_deploy.codegen.program import TileProgram, Tiling, Variant
from tpu_deploy.codegen.views import Box, canonical_axes, dims_of

from tpu_deploy.chips import Chip

Tile = Callable[[tuple[int, ...], Box], TileProgram]
"""Makes the program of a box of the result seen under a 4-D shape with the canonical axes."""


def flat_shape(shape: tuple[int, ...], chip: Chip) -> tuple[int, int, int, int]:
    """(1, lanes, 1, rest) with as many lanes as divide the number of elements."""
    total = prod(shape)
    lanes = max(k for k in range(1, chip.lanes + 1) if total % k == 0)
    return 1, lanes, 1, total // lanes


def nchw_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape seen with canonical axes."""
    return dims_of(shape, canonical_axes(len(shape)))


def elementwise_variants(shape: tuple[int, ...], chip: Chip, tile: Tile) -> list[Variant]:
    """The flat view, and the (n, c, h, w) view for a tensor that already lies so in local memory."""

    def variant(name: str, seen: tuple[int, int, int, int], lanes: int) -> Variant:
        tiling = Tiling(seen, canonical_axes(4), seen, (1, lanes, 1, 1))
        return Variant(name, tiling, lambda box: tile(seen, box))

    return [variant("flat", flat_shape(shape, chip), chip.lanes), variant("nchw", nchw_shape(shape), chip.lanes)]
