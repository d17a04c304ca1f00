"""Sums and products of tensors that broadcast against each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.epilogue import chained
from tpu_deploy.codegen.emitters.flat import Tile, elementwise_variants
from tpu_deploy.codegen.emitters.floating import ending
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import (
    Action,
    Buffer,
    LoadConstant,
    LoadOperand,
    Step,
    StoreResult,
    TileProgram,
    Variant,
)
from tpu_deploy.codegen.views import Box, Dims, canonical_axes, dims_of
from tpu_deploy.ir.weights import Array

I16, I32, I8, U8 = (np.dtype(t) for t in (np.int16, np.int32, np.int8, np.uint8))


@dataclass
class Assembly:
    """Buffers and actions of a tile while they are put together."""

    chip: Chip
    buffers: list[Buffer] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)

    def tensor(self, name: str, dims: Dims, dtype: np.dtype[np.generic]) -> Local:
        """A new buffer holding a tensor in the aligned layout."""
        self.buffers.append(Buffer(name, aligned_bytes(dims, dtype.itemsize, self.chip)))
        return Local(name, dims, dtype)

    def program(self) -> TileProgram:
        """What has been put together."""
        return TileProgram(tuple(self.buffers), tuple(self.actions))


def operand_shape(shape_of_operand: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape under which an operand is loaded: axes of h that are only partly broadcast, and c, are made whole."""
    own = (1,) * (len(shape) - len(shape_of_operand)) + shape_of_operand
    axes = canonical_axes(len(shape))
    whole = list(own)
    for group in (axes[1], axes[2]):
        part = [own[a] for a in group]
        if group is axes[1] or prod(part) not in (1, prod(shape[a] for a in group)):
            for a in group:
                whole[a] = shape[a]
    return tuple(whole)


def _clamped(box: Box, dims: Dims) -> Box:
    """The part of an operand with `dims` that a box of the result reads: dimensions of size 1 are read whole."""
    start = tuple(0 if d == 1 else a for a, d in zip(box.start, dims, strict=True))
    stop = tuple(1 if d == 1 else b for b, d in zip(box.stop, dims, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


def _constant_rows(array: Array, shape: tuple[int, ...], box: Box, chip: Chip) -> packing.Bytes:
    whole = np.broadcast_to(array, shape).reshape(dims_of(shape, canonical_axes(len(shape))))
    part = whole[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))]
    return packing.aligned_tensor(np.ascontiguousarray(part), chip)


def bring(tile: Assembly, op: OperationView, index: int, seen: tuple[int, ...], box: Box) -> Local:
    """Loads what a box of the result (seen under `seen`) needs of an operand, a constant or not."""
    operand = op.operands[index]
    shape = seen if prod(operand.shape) == prod(seen) else operand_shape(operand.shape, seen)
    axes = canonical_axes(len(shape))
    part = _clamped(box, dims_of(shape, axes))
    local = tile.tensor(f"x{index}", part.dims, operand.dtype)
    if operand.constant is None:
        tile.actions.append(LoadOperand(index, shape, axes, part, local.buffer))
        return local
    array = operand.constant.reshape(shape) if operand.constant.size == prod(shape) else operand.constant
    tile.actions.append(_constant(f"{op.result.name}:{operand.name}", local, array, shape, part, tile.chip))
    return local


def broadcast(name: str, array: Array, seen: tuple[int, ...], box: Box, chip: Chip) -> tuple[Local, LoadConstant]:
    """The part of a constant array that a box of the result (seen under `seen`, its own shape) needs, and its load."""
    shape = operand_shape(array.shape, seen)
    part = _clamped(box, dims_of(shape, canonical_axes(len(shape))))
    local = Local("constant", part.dims, array.dtype)
    return local, _constant(name, local, array, shape, part, chip)


def _constant(name: str, local: Local, array: Array, shape: tuple[int, ...], part: Box, chip: Chip) -> LoadConstant:
    row = aligned_bytes(local.dims, local.dtype.itemsize, chip)
    key = f"{name}:{shape}:{part.start}:{part.stop}"
    pack = partial(_constant_rows, array, shape, part, chip)
    return LoadConstant(key, min(part.dims[1], chip.lanes), row, local.buffer, pack)


def _terms(
    tile: Assembly, op: OperationView, seen: tuple[int, ...], box: Box, unsigned: bool
) -> list[Local | Constant]:
    """The 16-bit addends of an Add."""
    attributes = op.attributes
    kind = np.dtype(np.uint16) if unsigned else I16
    terms: list[Local | Constant] = []
    for index, operand in enumerate(op.operands):
        x = bring(tile, op, index, seen, box)
        if operand.dtype == I16:
            terms.append(x)
            continue
        multiplier, rshift = attributes["multipliers"][index], attributes["rshifts"][index]
        factor = Constant(multiplier, I8 if multiplier < 0 else U8)
        term = tile.tensor(f"term{index}", x.dims, kind)
        tile.actions.append(tiu.arithmetic(ArithmeticOp.MULS, term, x, factor, tile.chip, shift=rshift))
        terms.append(term)
    if attributes["offset"] or len(terms) == 1:
        terms.append(Constant(attributes["offset"], kind))
    return terms


def _all_unsigned(op: OperationView) -> bool:
    """Whether operands, multipliers and offset are all non-negative, so that unsigned arithmetic will do."""
    attributes = op.attributes
    return (
        op.result.dtype == U8
        and all(o.dtype == U8 for o in op.operands)
        and min(attributes["multipliers"]) >= 0
        and attributes["offset"] >= 0
    )


def _sum_tile(op: OperationView, chip: Chip, seen: tuple[int, ...], box: Box) -> TileProgram:
    tile = Assembly(chip)
    unsigned = _all_unsigned(op)
    terms = _terms(tile, op, seen, box, unsigned)
    wide = np.dtype(np.uint16) if unsigned else I16
    total, last = terms[0], terms[-1]
    for index, term in enumerate(terms[1:-1]):
        partial_sum = tile.tensor(f"sum{index}", box.dims, wide)
        tile.actions.append(tiu.arithmetic(ArithmeticOp.ADDS, partial_sum, total, term, chip))
        total = partial_sum
    y = tile.tensor("y", box.dims, op.result.dtype)
    direct = y.dtype == I8 or unsigned
    rounded = y if direct else tile.tensor("rounded", box.dims, I16)
    tile.actions.append(tiu.arithmetic(ArithmeticOp.ADDS, rounded, total, last, chip, shift=op.attributes["rshift"]))
    if not direct:
        tile.actions.append(tiu.cast(y, rounded, chip))
    tile.actions.append(StoreResult(seen, canonical_axes(len(seen)), box, "y"))
    return tile.program()


def _centred(tile: Assembly, op: OperationView, index: int, x: Local) -> Local:
    """An operand without its zero point."""
    zero = op.operands[index].zero_point
    if zero == 0:
        return x
    wide = tile.tensor(f"centred{index}", x.dims, I16)
    tile.actions.append(tiu.arithmetic(ArithmeticOp.SUBS, wide, x, Constant(zero, x.dtype), tile.chip))
    return wide


def _product_tile(op: OperationView, chip: Chip, seen: tuple[int, ...], box: Box) -> TileProgram:
    tile = Assembly(chip)
    left, right = (_centred(tile, op, k, bring(tile, op, k, seen, box)) for k in (0, 1))
    product = tile.tensor("product", box.dims, I32)
    tile.actions.append(tiu.arithmetic(ArithmeticOp.MUL, product, left, right, chip))
    y = tile.tensor("y", box.dims, op.result.dtype)
    attributes = op.attributes
    tile.actions += [
        tiu.requantize(y, product, attributes["multiplier"], attributes["rshift"], op.result.zero_point, chip),
        StoreResult(seen, canonical_axes(len(seen)), box, "y"),
    ]
    return tile.program()


def _variants(op: OperationView, chip: Chip, tile: Tile) -> list[Variant]:
    """Flat where all operands have the result's shape, then by (n, c, h, w)."""
    found = elementwise_variants(op.result.shape, chip, tile)
    return found if all(o.shape == op.result.shape for o in op.operands) else found[1:]


@emits("tpu.Add")
def add(op: OperationView, chip: Chip) -> list[Variant]:
    """Each operand times an 8-bit multiplier to 16 bits; the last addition rounds, shifts and saturates."""
    return _variants(op, chip, partial(_sum_tile, op, chip))


@emits("tpu.Mul")
def mul(op: OperationView, chip: Chip) -> list[Variant]:
    """The exact product in 32 bits, then one RQ."""
    return _variants(op, chip, partial(_product_tile, op, chip))


FLOAT_OPERATIONS = {
    "tpu.FloatAdd": ArithmeticOp.ADD,
    "tpu.FloatSub": ArithmeticOp.SUB,
    "tpu.FloatMul": ArithmeticOp.MUL,
}


def _float_tile(op: OperationView, chip: Chip, seen: tuple[int, ...], box: Box) -> TileProgram:
    """One instruction in the operands' type, whose rounding is that of the float32 result, then ReLU."""
    tile = Assembly(chip)
    left, right = (bring(tile, op, k, seen, box) for k in (0, 1))
    y = Local("y", box.dims, op.result.dtype)

    def combine(result: Local, _: Local) -> Step:
        return tiu.arithmetic(FLOAT_OPERATIONS[op.kind], result, left, right, chip)

    stages = [(y.dtype, combine), *ending(op, y.dtype, chip)]
    spare, actions = chained(stages, y, y, ("t0", "t1"), chip)
    tile.buffers += spare
    tile.actions += actions
    tile.tensor(y.buffer, y.dims, y.dtype)
    tile.actions.append(StoreResult(seen, canonical_axes(len(seen)), box, "y"))
    return tile.program()


def float_arithmetic(op: OperationView, chip: Chip) -> list[Variant]:
    """A sum, difference or product of floats."""
    return _variants(op, chip, partial(_float_tile, op, chip))


for _kind in FLOAT_OPERATIONS:
    emits(_kind)(float_arithmetic)
