"""Softmax in float32: rows on lanes, the softmax axis along w, every step one rounding that numpy reproduces."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.elementwise import Assembly
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.packing import Bytes
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_strides
from tpu_deploy.codegen.program import (
    Access,
    Buffer,
    LoadConstant,
    LoadOperand,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import AxisMap, Box, dims_of
from tpu_deploy.numbers import RoundMode

F32, I32 = np.dtype(np.float32), np.dtype(np.int32)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""log(2) in two parts, the first exact in few bits. Source: Cephes expf."""
LOWEST = -64.0
"""Arguments of exp are cut here: exp(-64) is below any float32 sum's last bit."""
TERMS = 8
"""Terms of the Taylor polynomial of exp on [-log(2)/2, log(2)/2]."""
MANTISSA_BITS = 23


def _axes(rank: int, axis: int) -> AxisMap:
    """The softmax axis is w; rows go to the lanes: trailing axes, or all leading ones where nothing trails."""
    before, after = tuple(range(axis)), tuple(range(axis + 1, rank))
    return (before, after, (), (axis,)) if after else ((), before, (), (axis,))


def _fold(tile: Assembly, op: ArithmeticOp, work: Local) -> Local:
    """Reduces w in place by halves; the row's result is its first element."""
    n, c, _, length = work.dims
    strides = aligned_strides(work.dims, 4, tile.chip)

    def part(start: int, count: int) -> Local:
        return Local(work.buffer, (n, c, 1, count), F32, start * 4, strides)

    while length > 1:
        half = 1 << (length - 1).bit_length() - 1
        rest = length - half
        tile.actions.append(tiu.arithmetic(op, part(0, rest), part(0, rest), part(half, rest), tile.chip))
        length = half
    return part(0, 1)


def _coefficients(lanes: int, row: int) -> Bytes:
    taylor = np.zeros(row // 4, np.float32)
    taylor[:TERMS] = [1.0 / math.factorial(k) for k in range(TERMS)]
    return np.tile(taylor.view(np.uint8), (lanes, 1))


def _exponential(tile: Assembly, x: Local, t: Local, k: Local, p: Local) -> None:
    """p = exp(x) for x in [-64, 0]; t and k are scratch."""
    chip, add = tile.chip, tile.actions.append
    k_bits, p_bits = Local(k.buffer, k.dims, I32), Local(p.buffer, p.dims, I32)
    add(tiu.arithmetic(ArithmeticOp.MUL, t, x, Constant.float32(1.0 / math.log(2.0)), chip))
    add(tiu.cast(k_bits, t, chip, RoundMode.HALF_EVEN))
    add(tiu.cast(t, k_bits, chip, RoundMode.HALF_EVEN))
    for share in (LN2_HIGH, LN2_LOW):
        add(tiu.arithmetic(ArithmeticOp.MUL, p, t, Constant.float32(share), chip))
        add(tiu.arithmetic(ArithmeticOp.SUB, x, x, p, chip))
    add(tiu.taylor(p, x, Access("taylor", 0, chip.vector_bytes), TERMS, chip))
    left = Constant(MANTISSA_BITS, np.dtype(np.int8))
    add(tiu.arithmetic(ArithmeticOp.ARITHMETIC_SHIFT, k_bits, k_bits, left, chip))
    add(tiu.arithmetic(ArithmeticOp.ADD, p_bits, p_bits, k_bits, chip))


def _tile(op: OperationView, chip: Chip, axes: AxisMap, box: Box) -> TileProgram:
    tile = Assembly(chip)
    x, t, k, p = (tile.tensor(name, box.dims, F32) for name in ("x", "t", "k", "p"))
    row = tile.tensor("row", (*box.dims[:3], 1), F32)
    tile.buffers.append(Buffer("taylor", chip.vector_bytes))
    pack = partial(_coefficients, chip.lanes, chip.vector_bytes)
    tile.actions += [
        LoadConstant("softmax:taylor", chip.lanes, chip.vector_bytes, "taylor", pack),
        LoadOperand(0, op.operands[0].shape, axes, box, "x"),
        tiu.arithmetic(ArithmeticOp.COPY, t, x, None, chip),
    ]
    largest = _fold(tile, ArithmeticOp.MAX, t)
    tile.actions += [
        tiu.arithmetic(ArithmeticOp.SUB, x, x, largest, chip),
        tiu.arithmetic(ArithmeticOp.MAX, x, x, Constant.float32(LOWEST), chip),
    ]
    _exponential(tile, x, t, k, p)
    tile.actions.append(tiu.arithmetic(ArithmeticOp.COPY, t, p, None, chip))
    total = _fold(tile, ArithmeticOp.ADD, t)
    tile.actions += [
        tiu.divide(row, Constant.float32(1.0), total, chip),
        tiu.arithmetic(ArithmeticOp.MUL, p, p, row, chip),
        StoreResult(op.result.shape, axes, box, "p"),
    ]
    return tile.program()


@emits("tpu.Softmax")
def softmax(op: OperationView, chip: Chip) -> list[Variant]:
    """exp of the distance to the row's maximum, times the reciprocal of the row's sum."""
    rank = len(op.result.shape)
    axes = _axes(rank, op.attributes["axis"] % rank)
    dims = dims_of(op.result.shape, axes)
    return [Variant("rows", Tiling(op.result.shape, axes, dims, (1, chip.lanes, 1, 0)), partial(_tile, op, chip, axes))]
