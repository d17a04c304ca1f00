"""Pooling on the pooling unit."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.conv import I32, Problem, load_window
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp, PoolOp
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Action, Buffer, StoreResult, TileProgram, Tiling, Variant
from tpu_deploy.codegen.views import Box, canonical_axes, dims_of

from tpu_deploy.chips import Chip
from tpu_deploy.ir import geometry

I8 = np.dtype(np.int8)


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


def _max_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    lowest = int(np.iinfo(op.result.dtype).min) & 0xFF
    buffer, actions, x, window = load_window(problem, box, (box.start[1], box.stop[1]), "x", lowest)
    y = Local("y", box.dims, op.result.dtype)
    return TileProgram(
        (buffer, Buffer("y", aligned_bytes(box.dims, 1, chip))),
        (
            *actions,
            tiu.pooling(PoolOp.MAX, y, x, window, chip),
            StoreResult(op.result.shape, problem.axes, box, "y"),
        ),
    )


def _average_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip, attributes = problem.op, problem.chip, problem.op.attributes
    zero = op.operand("input").zero_point
    count = int(_counts(op, 0)[box.start[2]] * _counts(op, 1)[box.start[3]])
    multiplier = attributes["multipliers"][attributes["counts"].index(count)]
    buffer, actions, x, window = load_window(problem, box, (box.start[1], box.stop[1]), "x", zero & 0xFF)
    total, y = Local("sum", box.dims, I32), Local("y", box.dims, op.result.dtype)
    steps: list[Action] = [tiu.pooling(PoolOp.AVERAGE, total, x, window, chip, weights=Constant(1, I8))]
    if zero:
        held = Constant(zero * problem.kernel[0] * problem.kernel[1], I32)
        steps.append(tiu.arithmetic(ArithmeticOp.SUBS, total, total, held, chip))
    steps.append(tiu.requantize(y, total, multiplier, attributes["rshift"], op.result.zero_point, chip))
    buffers = (
        buffer,
        Buffer("sum", aligned_bytes(box.dims, 4, chip), apart=frozenset({"y"})),
        Buffer("y", aligned_bytes(box.dims, 1, chip)),
    )
    return TileProgram(buffers, (*actions, *steps, StoreResult(op.result.shape, problem.axes, box, "y")))


@emits("tpu.MaxPool2D")
def max_pool(op: OperationView, chip: Chip) -> list[Variant]:
    """One maximum instruction."""
    problem = _problem(op, chip)
    tiling = Tiling(op.result.shape, problem.axes, dims_of(op.result.shape, problem.axes), (1, chip.lanes, 1, 1))
    return [Variant("window", tiling, partial(_max_tile, problem))]


@emits("tpu.AvgPool2D")
def average_pool(op: OperationView, chip: Chip) -> list[Variant]:
    """Exact sums, then one multiplier a tile: a tile ends where the number of counted positions changes."""
    problem = _problem(op, chip)
    dims = dims_of(op.result.shape, problem.axes)
    cuts = ((), (), _cuts(_counts(op, 0)), _cuts(_counts(op, 1)))
    tiling = Tiling(op.result.shape, problem.axes, dims, (1, chip.lanes, 1, 1), cuts)
    return [Variant("window", tiling, partial(_average_tile, problem))]
