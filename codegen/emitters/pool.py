"""Pooling on the pooling unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.instructions import Constant, Local, Window
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.emitters.requantization import I32
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.isa import ArithmeticOp, PoolOp
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups
from tpu_deploy.codegen.program import Action, Buffer, LoadOperand, StoreResult, TileProgram, Tiling, Variant
from tpu_deploy.codegen.views import Box, canonical_axes, dims_of
from tpu_deploy.ir import geometry

ONE = Constant(1, np.dtype(np.int8))
"""The weight of a plain sum."""


def _problem(op: OperationView, chip: Chip) -> Problem:
    kernel, strides = (tuple(op.attributes[k]) for k in ("kernel_shape", "strides"))
    top, left, bottom, right = op.attributes["pads"]
    nothing = np.zeros((0, 0, *kernel), np.int8)
    return Problem(op, chip, canonical_axes(4), nothing, 1, kernel, strides, (1, 1), (top, left, bottom, right))


def _counts(op: OperationView, axis: int) -> npt.NDArray[np.int64]:
    """Positions that count along h (0) or w (1), for each output."""
    attributes, size = op.attributes, op.operand("input").shape[2 + axis]
    begin, end = attributes["pads"][axis], attributes["pads"][2 + axis]
    kernel, stride, output = attributes["kernel_shape"][axis], attributes["strides"][axis], op.result.shape[2 + axis]
    include = bool(attributes.get("count_include_pad"))
    return geometry.window_counts(size, kernel, stride, begin, end, output, include)


def _cuts(counts: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Where the count changes."""
    return tuple(int(k) + 1 for k in np.flatnonzero(np.diff(counts)))


@dataclass(frozen=True)
class Part:
    """The window over some of the rows that a box reads: how they come into a buffer, and the window left over them."""

    buffer: Buffer
    actions: list[Action]
    x: Local
    window: Window


def _parts(problem: Problem, box: Box, pad_value: int) -> list[Part]:
    """The box's window whole, or, where its input is too much for local memory, one position's in blocks of rows.

    One position needs no padding: what lies there neither wins a maximum nor adds to a sum of distances to zero.
    """
    channels = (box.start[1], box.stop[1])
    buffer, actions, x, window = load_window(problem, box, channels, "x", pad_value)
    chip = problem.chip
    fits = buffer.bytes <= chip.lane_bytes // 2 and max(x.dims[2:]) <= chip.max_size
    if fits or box.dims[2:] != (1, 1):
        return [Part(buffer, actions, x, window)]
    rows, columns = problem.span(box, 0), problem.span(box, 1)
    last = min(rows.last, rows.low + problem.kernel[0])
    right = min(columns.last, columns.low + problem.kernel[1])
    n, c = box.dims[:2]
    width = min(right - columns.first, chip.lane_bytes // 16 // (n * channel_groups(c, chip)))
    height = max(1, chip.lane_bytes // 8 // aligned_bytes((n, c, 1, width), 1, chip))
    size = aligned_bytes((n, c, height, width), 1, chip)
    corners = product(range(rows.first, last, height), range(columns.first, right, width))
    parts = []
    for index, (top, left) in enumerate(corners):
        bottom, end = min(top + height, last), min(left + width, right)
        read = Box((box.start[0], channels[0], top, left), (box.stop[0], channels[1], bottom, end))
        name = f"x{index % 2}"
        load = LoadOperand(0, problem.op.operand("input").shape, problem.axes, read, name)
        block = Window((bottom - top, end - left), pad_value=pad_value)
        parts.append(Part(Buffer(name, size), [load], Local(name, read.dims, x.dtype), block))
    return parts


def _buffers(parts: list[Part], *others: Buffer) -> tuple[Buffer, ...]:
    return (*{p.buffer.name: p.buffer for p in parts}.values(), *others)


def _max_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    lowest = int(np.iinfo(op.result.dtype).min) & 0xFF
    parts = _parts(problem, box, lowest)
    y, more = Local("y", box.dims, op.result.dtype), Local("more", box.dims, op.result.dtype)
    actions: list[Action] = []
    for index, part in enumerate(parts):
        actions += [*part.actions, tiu.pooling(PoolOp.MAX, more if index else y, part.x, part.window, chip)]
        if index:
            actions.append(tiu.arithmetic(ArithmeticOp.MAX, y, y, more, chip))
    size = aligned_bytes(box.dims, 1, chip)
    buffers = _buffers(parts, Buffer("y", size), Buffer("more", size))
    return TileProgram(buffers, (*actions, StoreResult(op.result.shape, problem.axes, box, "y")))


def _average_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip, attributes = problem.op, problem.chip, problem.op.attributes
    zero = op.operand("input").zero_point
    count = int(_counts(op, 0)[box.start[2]] * _counts(op, 1)[box.start[3]])
    multiplier = attributes["multipliers"][attributes["counts"].index(count)]
    parts = _parts(problem, box, zero & 0xFF)
    total, more, y = Local("sum", box.dims, I32), Local("more", box.dims, I32), Local("y", box.dims, op.result.dtype)
    steps: list[Action] = []
    for index, part in enumerate(parts):
        target = more if index else total
        steps += [*part.actions, tiu.pooling(PoolOp.AVERAGE, target, part.x, part.window, chip, weights=ONE)]
        if index:
            steps.append(tiu.arithmetic(ArithmeticOp.ADDS, total, total, more, chip))
    if zero:
        read = sum(p.window.kernel[0] * p.window.kernel[1] for p in parts)
        steps.append(tiu.arithmetic(ArithmeticOp.SUBS, total, total, Constant(zero * read, I32), chip))
    steps.append(tiu.requantize(y, total, multiplier, attributes["rshift"], op.result.zero_point, chip))
    wide = aligned_bytes(box.dims, 4, chip)
    buffers = _buffers(
        parts,
        Buffer("sum", wide, away=frozenset({"y"})),
        Buffer("more", wide),
        Buffer("y", aligned_bytes(box.dims, 1, chip)),
    )
    return TileProgram(buffers, (*steps, StoreResult(op.result.shape, problem.axes, box, "y")))


@emits("tpu.MaxPool2D")
def max_pool(op: OperationView, chip: Chip) -> list[Variant]:
    """One maximum instruction."""
    problem = _problem(op, chip)
    dims = dims_of(op.result.shape, problem.axes)
    tiling = Tiling(op.result.shape, problem.axes, dims, (1, chip.lanes, 1, 1), stride_cuts(problem, dims))
    return [Variant("window", tiling, partial(_max_tile, problem))]


@emits("tpu.AvgPool2D")
def average_pool(op: OperationView, chip: Chip) -> list[Variant]:
    """Exact sums, then one multiplier a tile: a tile ends where the number of counted positions changes."""
    problem = _problem(op, chip)
    dims = dims_of(op.result.shape, problem.axes)
    by_stride = stride_cuts(problem, dims)
    cuts = ((), (), by_stride[2] or _cuts(_counts(op, 0)), by_stride[3] or _cuts(_counts(op, 1)))
    tiling = Tiling(op.result.shape, problem.axes, dims, (1, chip.lanes, 1, 1), cuts)
    return [Variant("window", tiling, partial(_average_tile, problem))]
