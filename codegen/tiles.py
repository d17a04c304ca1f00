"""Cuts a result into boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal

from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import Tiling
from tpu_deploy.codegen.views import Box, Dims

Order = Literal["channels_outside", "channels_inside"]


@dataclass(frozen=True)
class Grid:
    """A cut of a result: the size of a tile in each dimension, and which loop is the outer one."""

    tile: Dims
    order: Order


def _segments(size: int, tile: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """[start, stop) pieces of at most `tile`, none reaching over a cut."""
    edges = [0, *cuts, size]
    return [(a, min(a + tile, stop)) for start, stop in pairwise(edges) for a in range(start, stop, tile)]


def boxes(tiling: Tiling, grid: Grid) -> list[Box]:
    """All tiles, in the order of the grid."""
    n, c, h, w = (
        _segments(size, tile, cuts) for size, tile, cuts in zip(tiling.dims, grid.tile, tiling.cuts, strict=True)
    )
    if grid.order == "channels_outside":
        tiles = ((a, b, r, k) for b, a, r, k in product(c, n, h, w))
    else:
        tiles = ((a, b, r, k) for a, r, k, b in product(n, h, w, c))
    return [Box(tuple(p[0] for p in t), tuple(p[1] for p in t)) for t in tiles]  # type: ignore[arg-type]


def _shrinking(size: int, multiple: int) -> list[int]:
    """Tile sizes from the whole down, each about two thirds of the one before, multiples of `multiple`."""
    if multiple == 0:
        return [size]
    sizes, tile = [], size
    while True:
        sizes.append(tile)
        smaller = round_up(max(tile * 2 // 3, 1), multiple)
        if smaller >= tile:
            if tile > multiple:
                sizes.append(multiple)
            return sizes
        tile = smaller


def spatial_tiles(tiling: Tiling) -> Iterator[tuple[int, int, int]]:
    """(n, h, w) tile sizes from coarse to fine: images are cut first, then rows, then columns."""
    n, _, h, w = tiling.dims
    images = _shrinking(n, tiling.multiple[0])
    yield from ((k, h, w) for k in images)
    rows = _shrinking(h, tiling.multiple[2])
    yield from ((images[-1], k, w) for k in rows[1:])
    yield from ((images[-1], rows[-1], k) for k in _shrinking(w, tiling.multiple[3])[1:])


def channel_tiles(tiling: Tiling) -> list[int]:
    """Channel tile sizes from the whole down."""
    c, multiple = tiling.dims[1], tiling.multiple[1]
    sizes = {c}
    tile = c
    while multiple and tile > multiple:
        tile = max(multiple, round_up(-(-tile // 2), multiple))
        sizes.add(tile)
    return sorted(sizes, reverse=True)
