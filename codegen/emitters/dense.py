"""Dense and grouped convolutions on the CONV unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.instructions import Local, Window
from tpu_deploy.codegen.emitters.requantization import (
    I32,
    Chunk,
    chunks,
    finish,
    pack_records,
    part_of,
    record_bytes,
    spread_records,
)
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides, channel_groups
from tpu_deploy.codegen.program import (
    Access,
    Action,
    Buffer,
    LoadConstant,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import Box, dims_of

PART_BYTES = 32768
"""Bytes of an output channel's filter that one part of the input channels takes where they are summed in parts."""
MAX_STRIDE = 65536
"""Strides of a convolution's input have 16 bits."""


def merge_groups(filters: npt.NDArray[np.int8], groups: int, block: int) -> tuple[npt.NDArray[np.int8], int]:
    """Filters with as many groups joined (zeros between them) as fit the `block` input lanes of one pass."""
    oc, ic = filters.shape[:2]
    merged = max((k for k in range(1, groups + 1) if groups % k == 0 and k * ic <= block), default=1)
    if merged == 1:
        return filters, groups
    per_group = oc // groups
    out = np.zeros((groups // merged, merged, per_group, merged, ic, *filters.shape[2:]), np.int8)
    shaped = filters.reshape(groups // merged, merged, per_group, ic, *filters.shape[2:])
    for k in range(merged):
        out[:, k, :, k] = shaped[:, k]
    return out.reshape(oc, merged * ic, *filters.shape[2:]), groups // merged


def pack_dense(problem: Problem, first: int, last: int) -> packing.Bytes:
    """Records and filters of output channels [first, last), a row a lane."""
    chip = problem.chip
    part = slice(first, last)
    filters = packing.conv_filter(problem.filters[part], chip.conv_block_i8)
    return np.concatenate([pack_records(problem, first, last), packing.rows_by_lane(filters, chip)], axis=1)


def _row_quantum(x: Local, y: Local, window: Window, chip: Chip) -> int:
    """Rows of the result that a chunk must be a multiple of so that it begins on a vector; 0 where it cannot be cut.

    It cannot where an input plane is too large for strides, or where a chunk might lie wholly in padding.
    """
    reach = window.dilations[0] * (window.kernel[0] - 1) + 1
    if aligned_strides(x.dims, x.dtype.itemsize, chip)[1] >= MAX_STRIDE or max(window.pads[::2]) >= reach:
        return 0
    return chip.vector_bytes // math.gcd(y.dims[3], chip.vector_bytes)


def _chunk_window(problem: Problem, x: Local, window: Window, chunk: Chunk, height: int) -> tuple[Local, Window]:
    """The rows of the input that a chunk of the result reads, and the window over them."""
    _, c, h, w = x.dims
    strides = aligned_strides(x.dims, x.dtype.itemsize, problem.chip)
    images = chunk.images[1] - chunk.images[0]
    base = x.offset + chunk.images[0] * strides[0]
    if chunk.rows == (0, height):
        return Local(x.buffer, (images, c, h, w), x.dtype, base), window
    low = chunk.rows[0] * window.strides[0] - window.pads[0]
    reach = window.dilations[0] * (window.kernel[0] - 1) + 1
    high = (chunk.rows[1] - 1) * window.strides[0] - window.pads[0] + reach
    first, last = max(low, 0), min(high, h)
    pads = (first - low, window.pads[1], high - last, window.pads[3])
    part = Local(x.buffer, (images, c, last - first, w), x.dtype, base + first * w, strides)
    return part, replace(window, pads=pads)


def dense_steps(
    problem: Problem, x: Local, window: Window, y: Local, constants: Buffer, place: str
) -> tuple[list[Buffer], list[Action]]:
    """The steps of a convolution into `y`, part by part, and the buffers of table and sums they need.

    The constants hold requantization records, then the filters. `place` tells buffers of neighbouring groups apart.
    """
    chip = problem.chip
    count = channel_groups(y.dims[1], chip)
    records = record_bytes(count, chip)
    table, acc = Buffer(f"table{place}", count * packing.SLOT_BYTES), f"acc{place}"
    actions: list[Action] = [spread_records(constants.name, table, y.dims[1], chip)]
    size = 0
    filter_bytes = packing.conv_filter_bytes(x.dims[1], *window.kernel, chip.conv_block_i8)
    for chunk in chunks(y.dims, chip, _row_quantum(x, y, window, chip)):
        target = part_of(y, chunk, chip)
        source, over = _chunk_window(problem, x, window, chunk, y.dims[2])
        first, last = chunk.slots
        sums = Local(acc, target.dims, I32)
        size = max(size, aligned_bytes(target.dims, 4, chip))
        filters = Access(constants.name, records + first * filter_bytes, records + last * filter_bytes)
        slots = Access(table.name, first * packing.SLOT_BYTES, last * packing.SLOT_BYTES)
        actions += [tiu.convolution(sums, source, filters, over, chip), *finish(sums, target, slots, chip)]
    return [table, Buffer(acc, size, away=frozenset({y.buffer}))], actions


def _dense_group(problem: Problem, box: Box, group: int, place: int) -> tuple[list[Buffer], list[Action]]:
    """The part of a tile that belongs to one group; neighbours use buffers by turns (`place` 0 or 1)."""
    op, chip = problem.op, problem.chip
    size = problem.channels_out
    first, last = max(box.start[1], group * size), min(box.stop[1], (group + 1) * size)
    part = Box((box.start[0], first, *box.start[2:]), (box.stop[0], last, *box.stop[2:]))
    low = group * problem.channels_in
    buffer, loads, x, window = load_window(problem, part, (low, low + problem.channels_in), f"x{place}", problem.zero)
    slots = channel_groups(last - first, chip)
    row = record_bytes(slots, chip) + slots * packing.conv_filter_bytes(
        problem.channels_in, *problem.kernel, chip.conv_block_i8
    )
    constants = Buffer(f"weights{place}", row)
    y = Local(f"y{place}", part.dims, op.result.dtype)
    scratch, steps = dense_steps(problem, x, window, y, constants, str(place))
    pack = partial(pack_dense, problem, first, last)
    key = f"{op.result.name}:{first}:{last}"
    actions = [
        LoadConstant(key, min(last - first, chip.lanes), row, constants.name, pack),
        *loads,
        *steps,
        StoreResult(op.result.shape, problem.axes, part, y.buffer),
    ]
    return [buffer, constants, *scratch, Buffer(y.buffer, aligned_bytes(part.dims, 1, chip))], actions


def _dense_tile(problem: Problem, box: Box) -> TileProgram:
    buffers: dict[str, Buffer] = {}
    actions: list[Action] = []
    size = problem.channels_out
    for place, group in enumerate(range(box.start[1] // size, (box.stop[1] - 1) // size + 1)):
        more_buffers, more_actions = _dense_group(problem, box, group, place % 2)
        for buffer in more_buffers:
            known = buffers.get(buffer.name, buffer)
            buffers[buffer.name] = replace(buffer, bytes=max(buffer.bytes, known.bytes))
        actions += more_actions
    return TileProgram(tuple(buffers.values()), tuple(actions))


def dense_variants(problem: Problem) -> list[Variant]:
    """The convolution on the CONV unit, cut in output channels, images, rows and columns.

    Groups are cut inside, and input channels summed part by part, only where nothing else fits.
    """
    shape = problem.op.result.shape
    dims, lanes, size = dims_of(shape, problem.axes), problem.chip.lanes, problem.channels_out
    cuts = stride_cuts(problem, dims)
    whole = lanes if problem.groups == 1 or size % lanes == 0 else size

    def variant(name: str, multiple: int, tile: Callable[[Problem, Box], TileProgram], fallback: bool) -> Variant:
        return Variant(
            name, Tiling(shape, problem.axes, dims, (1, multiple, 1, 1), cuts), partial(tile, problem), fallback
        )

    found = [variant("dense", whole, _dense_tile, False)]
    if whole != lanes:
        found.append(variant("dense, groups cut", lanes, _dense_tile, True))
    if problem.groups == 1:
        found.append(variant("dense, inputs in parts", lanes, _split_tile, True))
    return found


def _pack_filters(problem: Problem, outputs: tuple[int, int], inputs: tuple[int, int]) -> packing.Bytes:
    part = problem.filters[slice(*outputs), slice(*inputs)]
    return packing.rows_by_lane(packing.conv_filter(part, problem.chip.conv_block_i8), problem.chip)


def _split_tile(problem: Problem, box: Box) -> TileProgram:
    """A tile whose input channels are too many for local memory: int32 sums over one part after another."""
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    taps = problem.kernel[0] * problem.kernel[1]
    step = max(chip.conv_block_i8, PART_BYTES // taps // chip.conv_block_i8 * chip.conv_block_i8)
    slots, lanes = channel_groups(last - first, chip), min(last - first, chip.lanes)
    acc, y = Local("acc", box.dims, I32), Local("y", box.dims, op.result.dtype)
    buffers: dict[str, Buffer] = {
        "table": Buffer("table", slots * packing.SLOT_BYTES),
        "records": Buffer("records", record_bytes(slots, chip)),
        "acc": Buffer("acc", aligned_bytes(box.dims, 4, chip), away=frozenset({"y"})),
        "y": Buffer("y", aligned_bytes(box.dims, 1, chip)),
    }
    key = f"{op.result.name}:{first}:{last}"
    actions: list[Action] = []
    for index, low in enumerate(range(0, problem.channels_in, step)):
        high = min(low + step, problem.channels_in)
        place = index % 2
        x_buffer, loads, x, window = load_window(problem, box, (low, high), f"x{place}", problem.zero)
        row = slots * packing.conv_filter_bytes(high - low, *problem.kernel, chip.conv_block_i8)
        for buffer in (x_buffer, Buffer(f"weights{place}", row)):
            known = buffers.get(buffer.name, buffer)
            buffers[buffer.name] = replace(buffer, bytes=max(buffer.bytes, known.bytes))
        pack = partial(_pack_filters, problem, (first, last), (low, high))
        weights = Access(f"weights{place}", 0, row)
        actions += [
            LoadConstant(f"{key}:{low}", lanes, row, weights.buffer, pack),
            *loads,
            tiu.convolution(acc, x, weights, window, chip, add=index > 0),
        ]
    pack = partial(pack_records, problem, first, last)
    table = Access("table", 0, slots * packing.SLOT_BYTES)
    actions += [
        LoadConstant(f"{key}:records", lanes, buffers["records"].bytes, "records", pack),
        spread_records("records", buffers["table"], last - first, chip),
        *finish(acc, y, table, chip),
        StoreResult(op.result.shape, problem.axes, box, "y"),
    ]
    return TileProgram(tuple(buffers.values()), tuple(actions))
