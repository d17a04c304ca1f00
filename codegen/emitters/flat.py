"""Operations that treat every element alike: seen flat, so that all lanes are busy whatever the shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.program import TileProgram, Tiling, Variant
from tpu_deploy.codegen.views import Box, canonical_axes, dims_of

GOOD_ROW = 256
"""Elements a lane should hold: rows of fewer bytes take as long to transfer as rows of 256."""

Tile = Callable[[tuple[int, ...], Box], TileProgram]
"""Makes the program of a box of the result seen under a shape with the canonical axes of its rank."""


def flat_shape(shape: tuple[int, ...], chip: Chip) -> tuple[int, int, int, int]:
    """(images, lanes, 1, rest): as many lanes as divide an image, but no shorter rows than transfer well.

    Small images are not told apart.
    """
    images = shape[0] if shape and prod(shape[1:]) >= GOOD_ROW else 1
    each = prod(shape) // images
    divisors = [k for k in range(1, chip.lanes + 1) if each % k == 0]
    lanes = max((k for k in divisors if each // k >= GOOD_ROW), default=1)
    return images, lanes, 1, each // lanes


def elementwise_variants(shape: tuple[int, ...], chip: Chip, tile: Tile) -> list[Variant]:
    """The flat view, and the (n, c, h, w) view for a tensor that already lies so in local memory."""

    def variant(name: str, seen: tuple[int, ...]) -> Variant:
        axes = canonical_axes(len(seen))
        tiling = Tiling(seen, axes, dims_of(seen, axes), (1, chip.lanes, 1, 1))
        return Variant(name, tiling, partial(tile, seen))

    return [variant("flat", flat_shape(shape, chip)), variant("nchw", shape)]


def rows_variant(shape: tuple[int, ...], chip: Chip, tile: Tile) -> list[Variant]:
    """The view of an (n, c, h, w) tensor with its rows dealt out to the lanes, so that few channels keep all busy."""
    if len(shape) != 4:
        return []
    n, c, h, w = shape
    seen = (n * c, h, w)
    axes = canonical_axes(len(seen))
    tiling = Tiling(seen, axes, dims_of(seen, axes), (1, 1, 0, 1), rows=1, per_image=c)
    return [Variant("rows", tiling, partial(tile, seen))]
