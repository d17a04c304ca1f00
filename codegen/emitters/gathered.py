"""Convolutions of few input channels: the rows that a kernel's taps read, gathered into channels of their own."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.dense import Piece, dense_steps, pack_dense
from tpu_deploy.codegen.emitters.epilogue import Epilogue
from tpu_deploy.codegen.emitters.instructions import Local, Window
from tpu_deploy.codegen.emitters.windows import Problem
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups
from tpu_deploy.codegen.program import (
    Action,
    Buffer,
    Fill,
    LoadConstant,
    LoadOperand,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import Box, dims_of

PIXELS_PER_CYCLE = 4
SHORT_ROW = 256
"""A row of fewer bytes takes as long to transfer as one of this many."""
STORE_WEIGHT = 1.4
"""A byte stored takes as long as this many loaded."""


def gathering_pays(problem: Problem) -> bool:
    """Whether it pays to bring each row of the kernel's taps into channels of its own, so that fewer input lanes idle.

    The passes saved are weighed against loading every row once for each tap that reads it.
    """
    chip, (kh, kw), ic = problem.chip, problem.kernel, problem.channels_in
    if (
        problem.groups != 1
        or kh == 1
        or any(problem.inserts)
        or ic * kh > chip.conv_block(problem.filters.dtype.itemsize)
    ):
        return False
    n, oc, oh, ow = dims_of(problem.op.result.shape, problem.axes)
    itemsize = problem.filters.dtype.itemsize
    if max(problem.pads[1], problem.pads[3]) > chip.max_pad or problem.strides[1] > chip.max_stride:
        return False
    passes = n * channel_groups(oc, chip) * -(-oh * ow // PIXELS_PER_CYCLE)
    rows, width = n * ic * oh * kh, problem.x_dims[3] * itemsize
    transfer = rows * max(width, SHORT_ROW) + STORE_WEIGHT * math.prod(problem.x_dims) * itemsize
    return passes * (kh - 1) * kw > transfer / chip.dma_bytes_per_cycle


def _gather(problem: Problem, box: Box) -> tuple[Local, list[Action]]:
    """The gathered input: channel ky * ic + c holds, for each output row, the input row that tap row ky reads."""
    x, ic, kh, stride = problem.op.operand("input"), problem.channels_in, problem.kernel[0], problem.strides[0]
    columns, height = problem.span(box, 1), problem.x_dims[2]
    first, last = box.start[2], box.stop[2]
    width = max(columns.last - columns.first, 1)
    dims = (box.dims[0], ic * kh, last - first, width)
    actions: list[Action] = []
    for ky in range(kh):
        ahead = problem.pads[0] - ky * problem.dilations[0]
        low = min(max(first, -(-ahead // stride)), last)
        high = max(min(last, (height - 1 + ahead) // stride + 1), low)
        for start, stop in ((first, low), (high, last)):
            if start < stop:
                edge = Box((0, ky * ic, start - first, 0), (dims[0], (ky + 1) * ic, stop - first, width))
                actions.append(Fill("x", dims, x.dtype.itemsize, problem.zero, edge))
        if low < high:
            read = Box(
                (box.start[0], 0, low * stride - ahead, columns.first),
                (box.stop[0], ic, (high - 1) * stride - ahead + 1, columns.last),
            )
            into = (dims, (0, ky * ic, low - first, 0))
            actions.append(LoadOperand(0, x.shape, problem.axes, read, "x", into, stride))
    return Local("x", dims, x.dtype), actions


def _gathered_tile(problem: Problem, epilogue: Epilogue, box: Box) -> TileProgram:
    """A convolution of the gathered input by a kernel of one row."""
    op, chip = problem.op, problem.chip
    ic, (kh, kw), columns = problem.channels_in, problem.kernel, problem.span(box, 1)
    x, loads = _gather(problem, box)
    pads = (0, columns.first - columns.low, 0, columns.high - columns.last)
    window = Window((1, kw), (1, problem.strides[1]), (1, problem.dilations[1]), pads, problem.zero)
    first, last = box.start[1], box.stop[1]
    slots = channel_groups(last - first, chip)
    size = packing.conv_filter_bytes(ic * kh, 1, kw, problem.filters.dtype.itemsize, chip)
    constants = Buffer("weights", epilogue.constant_bytes(slots) + slots * size)
    y = Local("y", box.dims, op.result.dtype)
    scratch, steps = dense_steps(problem, epilogue, x, window, y, [Piece(constants, (0, slots))], "")
    count = problem.filters.shape[0]
    gathered = np.ascontiguousarray(problem.filters.transpose(0, 2, 1, 3)).reshape(count, kh * ic, 1, kw)
    pack = partial(pack_dense, replace(problem, filters=gathered), epilogue, first, last)
    key = f"{op.result.name}:{first}:{last}:gathered"
    load = LoadConstant(key, min(last - first, chip.lanes), constants.bytes, "weights", pack)
    source, target = (Buffer(t.buffer, aligned_bytes(t.dims, t.dtype.itemsize, chip)) for t in (x, y))
    store = StoreResult(op.result.shape, problem.axes, box, "y")
    return TileProgram((source, constants, *scratch, target), (load, *loads, *steps, store))


def gathered_variant(problem: Problem, epilogue: Epilogue) -> Variant:
    """The convolution with the rows of its kernel gathered into channels."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tile = partial(_gathered_tile, problem, epilogue)
    return Variant(
        "rows gathered", Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1)), tile, preferred=True
    )
