"""Depthwise convolutions on the pooling unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from math import prod

import numpy as np

from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.requantization import (
    I32,
    chunks,
    pack_records,
    part_of,
    record_bytes,
    spread_records,
)
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.isa import ArithmeticOp, PoolOp
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups, round_up
from tpu_deploy.codegen.program import Access, Action, Buffer, LoadConstant, StoreResult, TileProgram, Tiling, Variant
from tpu_deploy.codegen.views import Box, dims_of

I16 = np.dtype(np.int16)
BLOCK_SHARE = 16
"""A lane holds this many of what a block of a large filter reads for one position."""


def _pack_depthwise(problem: Problem, first: int, last: int, bias_start: int, filter_start: int) -> packing.Bytes:
    op, chip = problem.op, problem.chip
    part = slice(first, last)
    bias = op.constant("bias")[part]
    records = pack_records(problem, first, last)
    biases = packing.rows_by_lane(np.ascontiguousarray(bias).reshape(-1, 1).view(np.uint8), chip)
    taps = np.ascontiguousarray(problem.filters[part]).reshape(last - first, -1).view(np.uint8)
    return np.concatenate(
        [records, packing.padded(biases, filter_start - bias_start), packing.rows_by_lane(taps, chip)], axis=1
    )


def _depthwise_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    buffer, actions, x, window = load_window(problem, box, (first, last), "x", problem.zero)
    slots = channel_groups(last - first, chip)
    bias_start = record_bytes(slots, chip)
    table = Buffer("table", slots * packing.SLOT_BYTES)
    filter_start = round_up(bias_start + slots * 4, chip.vector_bytes)
    row = filter_start + slots * problem.kernel[0] * problem.kernel[1]
    y = Local("y", box.dims, op.result.dtype)
    pack = partial(_pack_depthwise, problem, first, last, bias_start, filter_start)
    taps = problem.kernel[0] * problem.kernel[1]
    steps: list[Action] = [spread_records("weights", table, last - first, chip)]
    size = 0
    narrow = op.attributes["acc_shift"]
    kind = I16 if narrow >= 0 else I32
    for chunk in chunks(box.dims, chip):
        low, high = chunk.slots
        target, source = part_of(y, chunk, chip), part_of(x, replace(chunk, rows=(0, x.dims[2])), chip)
        sums = Local("acc", target.dims, kind)
        size = max(size, aligned_bytes(target.dims, kind.itemsize, chip))
        weights = Access("weights", filter_start + low * taps, filter_start + high * taps)
        bias = Access("weights", bias_start + low * 4, bias_start + high * 4)
        slots_read = Access("table", low * packing.SLOT_BYTES, high * packing.SLOT_BYTES)
        steps += [
            tiu.pooling(PoolOp.DEPTHWISE, sums, source, window, chip, weights=weights, bias=bias, shift=max(narrow, 0)),
            tiu.requantize_channels(target, sums, slots_read, chip),
        ]
    buffers = (
        buffer,
        Buffer("weights", row),
        table,
        Buffer("acc", size, away=frozenset({"y"})),
        Buffer("y", aligned_bytes(box.dims, 1, chip)),
    )
    key = f"{op.result.name}:{first}:{last}"
    return TileProgram(
        buffers,
        (
            LoadConstant(key, min(last - first, chip.lanes), row, "weights", pack),
            *actions,
            *steps,
            StoreResult(op.result.shape, problem.axes, box, "y"),
        ),
    )


def _blocks(problem: Problem, copies: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the filter in blocks over which `copies` windows in a lane take at most BLOCK_SHARE of it."""
    reach = problem.chip.lane_bytes // BLOCK_SHARE // copies
    down, across = problem.dilations
    height, width = problem.kernel
    columns = min(width, max(1, (reach - 1) // across + 1))
    rows = min(height, max(1, (reach // ((columns - 1) * across + 1) - 1) // down + 1))
    for top, left in product(range(0, height, rows), range(0, width, columns)):
        yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def _block(problem: Problem, rows: slice, columns: slice) -> Problem:
    """The problem of some of the filter's rows and columns alone, over the same positions of the result."""
    top, left, bottom, right = problem.pads
    down, across = problem.dilations
    height, width = problem.kernel
    pads = (
        top - down * rows.start,
        left - across * columns.start,
        bottom - down * (height - rows.stop),
        right - across * (width - columns.stop),
    )
    kernel = (rows.stop - rows.start, columns.stop - columns.start)
    return replace(problem, filters=problem.filters[:, :, rows, columns], kernel=kernel, pads=pads)


def _pack_constants(problem: Problem, first: int, last: int, bias_start: int, row: int) -> packing.Bytes:
    bias = problem.op.constant("bias")[first:last]
    biases = packing.rows_by_lane(np.ascontiguousarray(bias).reshape(-1, 1).view(np.uint8), problem.chip)
    return np.concatenate([pack_records(problem, first, last), packing.padded(biases, row - bias_start)], axis=1)


def _pack_taps(problem: Problem, first: int, last: int) -> packing.Bytes:
    taps = np.ascontiguousarray(problem.filters[first:last]).reshape(last - first, -1).view(np.uint8)
    return packing.rows_by_lane(taps, problem.chip)


def _block_sums(
    problem: Problem, box: Box, bias: Access, total: Local, more: Local
) -> tuple[list[Buffer], list[Action]]:
    """int32 sums over the whole filter, block by block."""
    chip, (first, last) = problem.chip, (box.start[1], box.stop[1])
    slots = channel_groups(last - first, chip)
    buffers: dict[str, Buffer] = {}
    actions: list[Action] = []
    for index, (rows, columns) in enumerate(_blocks(problem, slots * box.dims[0])):
        block = _block(problem, rows, columns)
        turn = index % 2
        buffer, loads, x, window = load_window(block, box, (first, last), f"x{turn}", problem.zero)
        size = slots * block.kernel[0] * block.kernel[1]
        weights = Access(f"weights{turn}", 0, size)
        for one in (buffer, Buffer(weights.buffer, size)):
            known = buffers.get(one.name, one)
            buffers[one.name] = replace(one, bytes=max(one.bytes, known.bytes))
        key = f"{problem.op.result.name}:{first}:{last}:taps:{rows.start}:{columns.start}"
        pack = partial(_pack_taps, block, first, last)
        actions += [LoadConstant(key, min(last - first, chip.lanes), size, weights.buffer, pack), *loads]
        sums, added = (more, None) if index else (total, bias)
        actions.append(tiu.pooling(PoolOp.DEPTHWISE, sums, x, window, chip, weights=weights, bias=added))
        if index:
            actions.append(tiu.arithmetic(ArithmeticOp.ADD, total, total, more, chip))
    return list(buffers.values()), actions


def _blocks_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    slots = channel_groups(last - first, chip)
    bias_start = record_bytes(slots, chip)
    row = bias_start + slots * 4
    table = Buffer("table", slots * packing.SLOT_BYTES)
    total, more, narrowed = (Local(n, box.dims, d) for n, d in (("sum", I32), ("more", I32), ("narrowed", I16)))
    y = Local("y", box.dims, op.result.dtype)
    blocks, sums = _block_sums(problem, box, Access("constants", bias_start, row), total, more)
    pack = partial(_pack_constants, problem, first, last, bias_start, row)
    key = f"{op.result.name}:{first}:{last}:constants"
    actions: list[Action] = [
        LoadConstant(key, min(last - first, chip.lanes), row, "constants", pack),
        spread_records("constants", table, last - first, chip),
        *sums,
    ]
    shift = op.attributes["acc_shift"]
    if shift >= 0:
        actions.append(tiu.arithmetic(ArithmeticOp.ADDS, narrowed, total, Constant(0, I32), chip, shift=shift))
        total = narrowed
    slots_read = Access("table", 0, slots * packing.SLOT_BYTES)
    actions.append(tiu.requantize_channels(y, total, slots_read, chip))
    actions.append(StoreResult(op.result.shape, problem.axes, box, "y"))
    wide = aligned_bytes(box.dims, 4, chip)
    buffers = (
        *blocks,
        Buffer("constants", row),
        table,
        Buffer("sum", wide, away=frozenset({"y"})),
        Buffer("more", wide),
        *([Buffer("narrowed", aligned_bytes(box.dims, 2, chip), away=frozenset({"y"}))] if shift >= 0 else []),
        Buffer("y", aligned_bytes(box.dims, 1, chip)),
    )
    return TileProgram(buffers, tuple(actions))


def _is_large(problem: Problem) -> bool:
    """Whether the filter, or what it reads for one position, may be too much for a lane or for sizes."""
    spans = [d * (k - 1) + 1 for d, k in zip(problem.dilations, problem.kernel, strict=True)]
    read = prod(min(s, size) for s, size in zip(spans, problem.x_dims[2:], strict=True))
    return prod(problem.kernel) + read > problem.chip.lane_bytes // 4


def blocks_variant(problem: Problem) -> Variant:
    """The filter in blocks, whose int32 sums are added."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tiling = Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1), stride_cuts(problem, dims))
    return Variant("blocks", tiling, partial(_blocks_tile, problem), fallback=True)


def depthwise_variants(problem: Problem) -> list[Variant]:
    """A filter for each channel, in the channel's lane; a large one in blocks where it does not fit."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tiling = Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1), stride_cuts(problem, dims))
    whole = Variant("depthwise", tiling, partial(_depthwise_tile, problem))
    return [whole, blocks_variant(problem)] if _is_large(problem) else [whole]
