"""Depthwise convolutions on the pooling unit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.emitters.requantization import (
    I32,
    chunks,
    pack_records,
    part_of,
    record_bytes,
    spread_records,
)
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.isa import PoolOp
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups, round_up
from tpu_deploy.codegen.program import Access, Action, Buffer, LoadConstant, StoreResult, TileProgram, Tiling, Variant
from tpu_deploy.codegen.views import Box, dims_of

I16 = np.dtype(np.int16)


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


def depthwise_variants(problem: Problem) -> list[Variant]:
    """One way: a filter for each channel, in the channel's lane."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tiling = Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1), stride_cuts(problem, dims))
    return [Variant("depthwise", tiling, partial(_depthwise_tile, problem))]
