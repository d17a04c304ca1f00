"""Pooling on the pooling unit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.epilogue import chained
from tpu_deploy.codegen.emitters.floating import F32, converted, ending
from tpu_deploy.codegen.emitters.instructions import Constant, Local, Window
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.packing import Bytes, aligned_tensor
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.emitters.requantization import I32
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.isa import ArithmeticOp, PoolOp
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups
from tpu_deploy.codegen.program import (
    Action,
    Buffer,
    LoadConstant,
    LoadOperand,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
    joined,
)
from tpu_deploy.codegen.views import Box, canonical_axes, dims_of
from tpu_deploy.ir import geometry

ONE = Constant(1, np.dtype(np.int8))
"""The weight of a plain sum."""


def _problem(op: OperationView, chip: Chip) -> Problem:
    kernel, strides = (tuple(op.attributes[k]) for k in ("kernel_shape", "strides"))
    top, left, bottom, right = op.attributes["pads"]
    nothing = np.zeros((0, 0, *kernel), op.operand("input").dtype)
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
    itemsize = x.dtype.itemsize
    width = min(right - columns.first, chip.lane_bytes // 16 // itemsize // (n * channel_groups(c, chip)))
    height = max(1, chip.lane_bytes // 8 // aligned_bytes((n, c, 1, width), itemsize, chip))
    size = aligned_bytes((n, c, height, width), itemsize, chip)
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


def _lowest(dtype: np.dtype[Any]) -> int:
    """The bits of what no element is below."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min) & 0xFF
    return Constant.floating(-np.inf, dtype).bits


def _max_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    lowest = _lowest(op.result.dtype)
    parts = _parts(problem, box, lowest)
    y, more = Local("y", box.dims, op.result.dtype), Local("more", box.dims, op.result.dtype)
    actions: list[Action] = []
    for index, part in enumerate(parts):
        actions += [*part.actions, tiu.pooling(PoolOp.MAX, more if index else y, part.x, part.window, chip)]
        if index:
            actions.append(tiu.arithmetic(ArithmeticOp.MAX, y, y, more, chip))
    size = aligned_bytes(box.dims, y.dtype.itemsize, chip)
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


def _widen(parts: list[Part], chip: Chip) -> list[Part]:
    """The parts in float32: the unit sums in the type it reads."""
    if parts[0].x.dtype == F32:
        return parts
    wide = [Local("wide", p.x.dims, F32) for p in parts]
    return [replace(p, actions=[*p.actions, converted(w, p.x, chip)], x=w) for p, w in zip(parts, wide, strict=True)]


def _shares(problem: Problem, box: Box) -> npt.NDArray[np.float32]:
    """The reciprocals of the numbers of positions counted, (h, w) of the box."""
    rows = _counts(problem.op, 0)[box.start[2] : box.stop[2]]
    columns = _counts(problem.op, 1)[box.start[3] : box.stop[3]]
    return (1.0 / np.outer(rows, columns)).astype(np.float32)


def _pack_plane(plane: npt.NDArray[np.float32], chip: Chip) -> Bytes:
    """The plane in every lane."""
    return np.tile(aligned_tensor(plane[None, None], chip), (chip.lanes, 1))


def _share(shares: npt.NDArray[np.float32], box: Box, chip: Chip) -> tuple[Buffer, LoadConstant, Local]:
    """The reciprocals as an operand that broadcasts over images and channels, and how it comes to the lanes."""
    h, w = shares.shape
    size = aligned_bytes((1, 1, h, w), 4, chip)
    key = f"shares:{hashlib.sha256(shares.tobytes()).hexdigest()}:{w}"
    load = LoadConstant(key, chip.lanes, size, "shares", partial(_pack_plane, shares, chip))
    return Buffer("shares", size), load, Local("shares", (1, box.dims[1], h, w), F32, 0, (0, 0, w, 1))


def _float_average_tile(problem: Problem, box: Box) -> TileProgram:
    """float32 sums of the window, times the reciprocal of the count: one for all as the weight, else a plane."""
    op, chip = problem.op, problem.chip
    shares = _shares(problem, box)
    is_same = bool((shares == shares[0, 0]).all())
    weight = Constant.float32(float(shares[0, 0]) if is_same else 1.0)
    parts = _widen(_parts(problem, box, 0), chip)
    y, more = Local("y", box.dims, op.result.dtype), Local("more", box.dims, F32)
    stages = ending(op, F32, chip)
    constants: list[Buffer] = []
    actions: list[Action] = []
    if not is_same:
        plane, load, operand = _share(shares, box, chip)
        constants.append(plane)
        actions.append(load)
        stages = [(F32, lambda r, x: tiu.arithmetic(ArithmeticOp.MUL, r, x, operand, chip)), *stages]
    total = Local("sum", box.dims, F32) if stages else y
    for index, part in enumerate(parts):
        target = more if index else total
        actions += [*part.actions, tiu.pooling(PoolOp.AVERAGE, target, part.x, part.window, chip, weights=weight)]
        if index:
            actions.append(tiu.arithmetic(ArithmeticOp.ADD, total, total, more, chip))
    scratch, finish = chained(stages, total, y, ("spare", total.buffer), chip)
    wide = Buffer("wide", max(aligned_bytes(p.x.dims, 4, chip) for p in parts))
    tensors = [Buffer(t.buffer, aligned_bytes(t.dims, t.dtype.itemsize, chip)) for t in (total, more, y)]
    buffers = joined([*_buffers(parts), wide, *constants, *scratch, *tensors])
    return TileProgram(buffers, (*actions, *finish, StoreResult(op.result.shape, problem.axes, box, "y")))


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


@emits("tpu.FloatAvgPool2D")
def float_average_pool(op: OperationView, chip: Chip) -> list[Variant]:
    """Sums in float32 whatever the type."""
    problem = _problem(op, chip)
    dims = dims_of(op.result.shape, problem.axes)
    tiling = Tiling(op.result.shape, problem.axes, dims, (1, chip.lanes, 1, 1), stride_cuts(problem, dims))
    return [Variant("window", tiling, partial(_float_average_tile, problem))]
