"""Changes of type: float32 to integers, integers to float32, one quantized type to another."""

from __future__ import annotations

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.flat import elementwise_variants
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Buffer, LoadOperand, Step, StoreResult, TileProgram, Variant
from tpu_deploy.codegen.views import Box, canonical_axes

F32, I16, I8 = np.dtype(np.float32), np.dtype(np.int16), np.dtype(np.int8)


def unary_tile(
    op: OperationView, chip: Chip, seen: tuple[int, ...], box: Box, scratch: tuple[Local, ...], steps: tuple[Step, ...]
) -> TileProgram:
    """Load x, do the steps over the scratch tensors, store y."""
    x, y = Local("x", box.dims, op.operands[0].dtype), Local("y", box.dims, op.result.dtype)
    tensors = (x, *scratch, y)
    names = frozenset(t.buffer for t in tensors)
    buffers = tuple(
        Buffer(t.buffer, aligned_bytes(t.dims, t.dtype.itemsize, chip), away=names - {t.buffer}) for t in tensors
    )
    axes = canonical_axes(len(seen))
    load, store = LoadOperand(0, seen, axes, box, "x"), StoreResult(seen, axes, box, "y")
    return TileProgram(buffers, (load, *steps, store))


@emits("tpu.Quantize")
def quantize(op: OperationView, chip: Chip) -> list[Variant]:
    """Multiply, convert half away from zero; a zero point is added to 16-bit integers."""
    inverse = Constant.float32(float(np.float32(1.0 / op.result.scale)))
    zero = op.result.zero_point

    def tile(seen: tuple[int, ...], box: Box) -> TileProgram:
        x, y = Local("x", box.dims, F32), Local("y", box.dims, op.result.dtype)
        scaled, wide = Local("scaled", box.dims, F32), Local("wide", box.dims, I16)
        steps = [tiu.arithmetic(ArithmeticOp.MUL, scaled, x, inverse, chip)]
        if zero == 0:
            steps.append(tiu.cast(y, scaled, chip))
            return unary_tile(op, chip, seen, box, (scaled,), tuple(steps))
        steps.append(tiu.cast(wide, scaled, chip))
        if op.result.dtype == I8:
            steps.append(tiu.arithmetic(ArithmeticOp.ADDS, y, wide, Constant(zero, I16), chip))
        else:
            steps.append(tiu.requantize(y, wide, 1, 0, zero, chip))
        return unary_tile(op, chip, seen, box, (scaled, wide), tuple(steps))

    return elementwise_variants(op.result.shape, chip, tile)


@emits("tpu.Dequantize")
def dequantize(op: OperationView, chip: Chip) -> list[Variant]:
    """One DQ instruction."""
    x_type = op.operands[0]

    def tile(seen: tuple[int, ...], box: Box) -> TileProgram:
        x, y = Local("x", box.dims, x_type.dtype), Local("y", box.dims, F32)
        step = tiu.dequantize(y, x, x_type.scale, x_type.zero_point, chip)
        return unary_tile(op, chip, seen, box, (), (step,))

    return elementwise_variants(op.result.shape, chip, tile)


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

    return elementwise_variants(op.result.shape, chip, tile)
