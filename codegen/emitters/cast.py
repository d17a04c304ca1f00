"""Changes of type: floats to integers, integers to floats, one float or quantized type to another."""

from __future__ import annotations

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.elementwise import broadcast
from tpu_deploy.codegen.emitters.flat import Tile, elementwise_variants, rows_variant
from tpu_deploy.codegen.emitters.floating import F32, converted
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Buffer, LoadConstant, LoadOperand, Step, StoreResult, TileProgram, Variant
from tpu_deploy.codegen.views import Box, canonical_axes
from tpu_deploy.ir.weights import Array

I16, I8 = np.dtype(np.int16), np.dtype(np.int8)


def unary_tile(
    op: OperationView,
    chip: Chip,
    seen: tuple[int, ...],
    box: Box,
    scratch: tuple[Local, ...],
    steps: tuple[Step, ...],
    held: _Held | None = None,
) -> TileProgram:
    """Load x and what is `held` beside it, do the steps over the scratch tensors, store y."""
    x, y = Local("x", box.dims, op.operands[0].dtype), Local("y", box.dims, op.result.dtype)
    tensors = (x, *scratch, y) if held is None else (x, *scratch, y, held[0])
    names = frozenset(t.buffer for t in tensors)
    buffers = tuple(
        Buffer(t.buffer, aligned_bytes(t.dims, t.dtype.itemsize, chip), away=names - {t.buffer}) for t in tensors
    )
    axes = canonical_axes(len(seen))
    loads = () if held is None else (held[1],)
    load, store = LoadOperand(0, seen, axes, box, "x"), StoreResult(seen, axes, box, "y")
    return TileProgram(buffers, (*loads, load, *steps, store))


def _views(shape: tuple[int, ...], chip: Chip, tile: Tile, scales: Array | None = None) -> list[Variant]:
    """Flat, by rows, and by (n, c, h, w); the last alone where channels have scales of their own."""
    flat, nchw = elementwise_variants(shape, chip, tile)
    return [nchw] if scales is not None else [flat, *rows_variant(shape, chip, tile), nchw]


_Held = tuple[Local, LoadConstant]
"""A constant tensor in local memory, and what brings it there."""


def _factor(
    op: OperationView, number: float, numbers: Array | None, seen: tuple[int, ...], box: Box, chip: Chip
) -> tuple[Constant | Local, _Held | None]:
    """What elements are multiplied by: a number, or where there are `numbers`, those of the channels in a box."""
    if numbers is None:
        return Constant.float32(number), None
    held = broadcast(f"{op.result.name}:scales", numbers.astype(np.float32), seen, box, chip)
    return held[0], held


@emits("tpu.Cast")
def cast(op: OperationView, chip: Chip) -> list[Variant]:
    """One conversion, half to even."""

    def tile(seen: tuple[int, ...], box: Box) -> TileProgram:
        x, y = Local("x", box.dims, op.operands[0].dtype), Local("y", box.dims, op.result.dtype)
        return unary_tile(op, chip, seen, box, (), (converted(y, x, chip),))

    return _views(op.result.shape, chip, tile)


@emits("tpu.Quantize")
def quantize(op: OperationView, chip: Chip) -> list[Variant]:
    """Widen, multiply, convert half away from zero; a zero point is added to 16-bit integers."""
    scales, zero, kind = op.result.scales, op.result.zero_point, op.operands[0].dtype
    inverses = None if scales is None else 1.0 / scales

    def tile(seen: tuple[int, ...], box: Box) -> TileProgram:
        inverse, held = _factor(op, 1.0 / op.result.scale, inverses, seen, box, chip)
        x, y = Local("x", box.dims, kind), Local("y", box.dims, op.result.dtype)
        single, scaled = Local("single", box.dims, F32), Local("scaled", box.dims, F32)
        wide = Local("wide", box.dims, I16)
        scratch: list[Local] = [scaled]
        steps: list[Step] = []
        if kind != F32:
            scratch.append(single)
            steps.append(converted(single, x, chip))
            x = single
        steps.append(tiu.arithmetic(ArithmeticOp.MUL, scaled, x, inverse, chip))
        if zero == 0:
            steps.append(tiu.cast(y, scaled, chip))
            return unary_tile(op, chip, seen, box, tuple(scratch), tuple(steps), held)
        steps.append(tiu.cast(wide, scaled, chip))
        if op.result.dtype == I8:
            steps.append(tiu.arithmetic(ArithmeticOp.ADDS, y, wide, Constant(zero, I16), chip))
        else:
            steps.append(tiu.requantize(y, wide, 1, 0, zero, chip))
        return unary_tile(op, chip, seen, box, (*scratch, wide), tuple(steps), held)

    return _views(op.result.shape, chip, tile, scales)


@emits("tpu.Dequantize")
def dequantize(op: OperationView, chip: Chip) -> list[Variant]:
    """One DQ instruction, where channels have their own scales a product with these, and for 16 bits a conversion."""
    x_type, kind = op.operands[0], op.result.dtype

    def tile(seen: tuple[int, ...], box: Box) -> TileProgram:
        scale, held = _factor(op, x_type.scale, x_type.scales, seen, box, chip)
        x, y, single = (Local(n, box.dims, d) for n, d in (("x", x_type.dtype), ("y", kind), ("single", F32)))
        exact = Local("exact", box.dims, F32)
        target = y if kind == F32 else single
        scratch = [] if kind == F32 else [single]
        if isinstance(scale, Constant):
            steps = [tiu.dequantize(target, x, x_type.scale, x_type.zero_point, chip)]
        else:
            scratch.append(exact)
            steps = [
                tiu.dequantize(exact, x, 1.0, x_type.zero_point, chip),
                tiu.arithmetic(ArithmeticOp.MUL, target, exact, scale, chip),
            ]
        if kind != F32:
            steps.append(converted(y, single, chip))
        return unary_tile(op, chip, seen, box, tuple(scratch), tuple(steps), held)

    return _views(op.result.shape, chip, tile, x_type.scales)


@emits("tpu.Requantize")
def requantize(op: OperationView, chip: Chip) -> list[Variant]:
    """Widen to 16 bits without the zero point, then one RQ."""
    x_type, attributes = op.operands[0], op.attributes

    def tile(seen: tuple[int, ...], box: Box) -> TileProgram:
        x, y = Local("x", box.dims, x_type.dtype), Local("y", box.dims, op.result.dtype)
        wide = Local("wide", box.dims, I16)
        steps = (
            tiu.arithmetic(ArithmeticOp.SUBS, wide, x, Constant(x_type.zero_point, x_type.dtype), chip),
            tiu.requantize(y, wide, attributes["multiplier"], attributes["rshift"], op.result.zero_point, chip),
        )
        return unary_tile(op, chip, seen, box, (wide,), steps)

    return _views(op.result.shape, chip, tile)
