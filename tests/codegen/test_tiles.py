"""Cutting results into boxes."""

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.program import Tiling
from tpu_deploy.codegen.tiles import Grid, boxes, channel_tiles, spatial_tiles
from tpu_deploy.codegen.views import canonical_axes

PROPERTY = settings(derandomize=True, max_examples=100, deadline=None)


@st.composite
def tilings(draw) -> Tiling:
    dims = tuple(draw(st.integers(1, 20)) for _ in range(4))
    multiple = tuple(draw(st.sampled_from([0, 1, 1, 3, 16])) for _ in range(4))
    cuts = tuple(
        tuple(sorted(draw(st.sets(st.integers(1, size - 1), max_size=3)))) if size > 1 else () for size in dims
    )
    return Tiling(dims, canonical_axes(4), dims, multiple, cuts)


@st.composite
def grids(draw, tiling: Tiling) -> Grid:
    tile = tuple(
        size if step == 0 else min(size, step * draw(st.integers(1, 20)))
        for size, step in zip(tiling.dims, tiling.multiple, strict=True)
    )
    return Grid(tile, draw(st.sampled_from(["channels_outside", "channels_inside"])))


cut_results = tilings().flatmap(lambda tiling: st.tuples(st.just(tiling), grids(tiling)))


@PROPERTY
@given(cut_results)
def test_boxes_cover_every_element_exactly_once(case):
    tiling, grid = case
    count = np.zeros(tiling.dims, np.int64)
    for box in boxes(tiling, grid):
        count[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))] += 1
    assert (count == 1).all()


@PROPERTY
@given(cut_results)
def test_no_box_is_larger_than_a_tile_or_reaches_over_a_cut(case):
    tiling, grid = case
    for box in boxes(tiling, grid):
        for start, stop, tile, cuts in zip(box.start, box.stop, grid.tile, tiling.cuts, strict=True):
            assert 0 < stop - start <= tile
            assert not any(start < cut < stop for cut in cuts)


@PROPERTY
@given(cut_results)
def test_boxes_begin_at_multiples_from_the_last_cut(case):
    tiling, grid = case
    for box in boxes(tiling, grid):
        for start, step, cuts in zip(box.start, tiling.multiple, tiling.cuts, strict=True):
            last = max((cut for cut in cuts if cut <= start), default=0)
            assert (start - last) % step == 0 if step else start == last


def test_the_order_says_which_loop_is_outside():
    tiling = Tiling((1, 4, 2, 1), canonical_axes(4), (1, 4, 2, 1), (1, 2, 1, 1))
    starts = {
        order: [box.start[1:3] for box in boxes(tiling, Grid((1, 2, 1, 1), order))]
        for order in ("channels_outside", "channels_inside")
    }
    assert starts["channels_outside"] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert starts["channels_inside"] == [(0, 0), (2, 0), (0, 1), (2, 1)]


@PROPERTY
@given(tilings())
def test_tile_sizes_shrink_from_the_whole_to_the_smallest(tiling):
    spatial = list(spatial_tiles(tiling))
    n, c, h, w = tiling.dims
    assert spatial[0] == (n, h, w)
    assert [prod(tile) for tile in spatial] == sorted((prod(tile) for tile in spatial), reverse=True)
    for tile in spatial:
        for size, whole, step in zip(tile, (n, h, w), (tiling.multiple[k] for k in (0, 2, 3)), strict=True):
            assert size == whole or (step and size % step == 0)
    smallest = [
        min(whole, step) if step else whole
        for whole, step in zip((n, h, w), (tiling.multiple[k] for k in (0, 2, 3)), strict=True)
    ]
    assert list(spatial[-1]) == smallest
    channels, step = channel_tiles(tiling), tiling.multiple[1]
    assert channels[0] == c and channels == sorted(channels, reverse=True)
    assert channels[-1] == (min(c, step) if step else c)
    assert all(size == c or size % step == 0 for size in channels)
