"""Sums and products of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type, uniform_of
from tpu_deploy.lowering.activation import affine_kernel, float_constant, is_unary, unary
from tpu_deploy.lowering.affine import read_affine
from tpu_deploy.lowering.builder import Builder, uniform
from tpu_deploy.lowering.conv import per_channel
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.lowering.rewriting import relu_of
from tpu_deploy.quant.add_scales import added_values, eight_bit_multiplier, term_coefficients
from tpu_deploy.quant.plan import FLOATS, LIMITS, TensorQuantization
from tpu_deploy.quant.weights import WEIGHT_LIMIT, requantization

SUM_LIMIT = 32767
"""What the absolute values of all terms of a `tpu.Add` may sum to, so that 16-bit steps are exact in any order."""

FRACTION_BITS = 14
"""Most fraction bits a sum carries; more would not change an 8-bit result."""


def has_only_constants(network: Network, op: Operation) -> bool:
    """all its operands are constants"""
    return all(network.weight(v) is not None for v in op.operands)


# ---- sums


@dataclass(frozen=True)
class Term:
    """A quantized operand of a sum, and its scale over the result's scale."""

    ratio: float
    operand: TensorQuantization


@dataclass(frozen=True)
class SumPlan:
    """Integers of a `tpu.Add`: per term a multiplier and shift, constants in units of 2**-rshift, the offset."""

    multipliers: tuple[int, ...]
    rshifts: tuple[int, ...]
    constants: tuple[npt.NDArray[np.int16], ...]
    offset: int
    rshift: int


def plan_sum(terms: Sequence[Term], constants: Sequence[npt.NDArray[Any]], scalar: float, zero_point: int) -> SumPlan:
    """The plan with the most fraction bits whose terms, constants and offset stay within SUM_LIMIT.

    `constants` and `scalar` are in units of the result's scale. With no fraction bits constants that do not fit are
    cut: they saturate the result anyway.
    """
    for fraction in range(FRACTION_BITS, -1, -1):
        plan, total = _plan_with_fraction(terms, constants, scalar, zero_point, fraction)
        if total <= SUM_LIMIT:
            return plan
    room = (SUM_LIMIT - sum(_bound(t, 0) for t in terms)) / (len(constants) + 1) - 1
    cut = [np.clip(c, -room, room) for c in constants]
    return _plan_with_fraction(terms, cut, float(np.clip(scalar, -room + 255, room - 255)), zero_point, 0)[0]


def _multiplier(term: Term, fraction: int) -> tuple[int, int]:
    multiplier, shift = eight_bit_multiplier(term.ratio)
    shift -= fraction
    # A product of two bytes shifted by more than 16 rounds to zero.
    return (0, 0) if shift > 16 else (multiplier, shift)


def _bound(term: Term, fraction: int) -> float:
    """The largest absolute value of a term; infinite where the multiplier would need a left shift."""
    multiplier, shift = _multiplier(term, fraction)
    low, high = LIMITS[term.operand.dtype]
    return math.inf if shift < 0 else math.floor(max(-low, high) * abs(multiplier) / 2**shift + 0.5)


def _plan_with_fraction(
    terms: Sequence[Term], constants: Sequence[npt.NDArray[Any]], scalar: float, zero_point: int, fraction: int
) -> tuple[SumPlan, float]:
    bounds = sum(_bound(t, fraction) for t in terms)
    multipliers = [_multiplier(t, fraction) for t in terms]
    shifted = [np.rint(c.astype(np.float64) * 2.0**fraction) for c in constants]
    offset = (zero_point + scalar) * 2.0**fraction
    for term, (multiplier, shift) in zip(terms, multipliers, strict=True):
        offset -= multiplier * 2.0**-shift * term.operand.zero_point
    total = bounds + sum(float(np.abs(s).max()) for s in shifted) + abs(round(offset))
    plan = SumPlan(
        tuple(m for m, _ in multipliers),
        tuple(s for _, s in multipliers),
        tuple(np.clip(s, -SUM_LIMIT, SUM_LIMIT).astype(np.int16) for s in shifted),
        round(offset),
        fraction,
    )
    return plan, total


def _lower_sum(builder: Builder, op: Operation) -> None:
    if is_unary(builder.source, op):
        unary(builder, op)
        return
    y = builder.direct(op)
    added = added_values(builder.source, op)
    terms = [Term(c * builder.quantization(v).scale / y.scale, builder.quantization(v)) for c, v in added]
    unit = y.scale * y.factors_over(len(shape_of(op.results[0]))) if y.factors else y.scale
    arrays = [
        coefficient * array.astype(np.float64) / unit
        for coefficient, value in zip(term_coefficients(op), op.operands, strict=True)
        if (array := builder.source.weight(value)) is not None
    ]
    scalar = sum(float(a.reshape(())) for a in arrays if a.size == 1)
    plan = plan_sum(terms, [a for a in arrays if a.size > 1], scalar, y.zero_point)
    constants = [builder.weight(op, "constant", c) for c in plan.constants]
    attributes = {
        "multipliers": [*plan.multipliers, *[1] * len(constants)],
        "rshifts": [*plan.rshifts, *[0] * len(constants)],
        "offset": plan.offset,
        "rshift": plan.rshift,
    }
    builder.produce(op, "tpu.Add", [*[builder.quantized(v) for _, v in added], *constants], attributes)


@lowers("Add", refuse=(has_only_constants,))
def add(builder: Builder, op: Operation) -> None:
    """A `tpu.Add`; a table where a single tensor meets scalars."""
    _lower_sum(builder, op)


@lowers("Sub", refuse=(has_only_constants,))
def subtract(builder: Builder, op: Operation) -> None:
    """A `tpu.Add` with negative multipliers; a table where a single tensor meets scalars."""
    _lower_sum(builder, op)


# ---- products


@lowers("Mul", refuse=(has_only_constants,))
def multiply(builder: Builder, op: Operation) -> None:
    """`tpu.Mul`, a depthwise convolution for constants along channels, or what `unary` makes of scalars."""
    if is_unary(builder.source, op):
        unary(builder, op)
        return
    arrays = [a for v in op.operands if (a := builder.source.weight(v)) is not None]
    factors = [builder.quantized(v) for v in op.operands if not builder.is_constant(v)]
    gain = math.prod(float(a.reshape(())) for a in arrays if a.size == 1)
    tensors = [a for a in arrays if a.size > 1]
    if tensors:
        constant = np.multiply.reduce(np.broadcast_arrays(*tensors))
        index = next(i for i, v in enumerate(op.operands) if not builder.is_constant(v))
        channels = _along_channels(constant, shape_of(op.operands[index]), shape_of(op.results[0]))
        if len(factors) == 1 and channels is not None:
            per_channel(builder, op, index, channels * gain, None)
            return
        largest = float(np.abs(constant).max()) or 1.0
        integers = np.rint(constant * (WEIGHT_LIMIT / largest)).astype(np.int8)
        factors.append(builder.weight(op, "constant", integers))
        gain *= largest / WEIGHT_LIMIT
    _lower_product(builder, op, factors, gain)


def _along_channels(
    constant: npt.NDArray[Any], shape: tuple[int, ...], result: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """The constant as (C), if it varies along axis 1 only and does not broadcast the tensor of `shape`."""
    if len(shape) < 2 or shape != result:
        return None
    aligned = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    if any(n != 1 for axis, n in enumerate(aligned.shape) if axis != 1):
        return None
    return np.broadcast_to(aligned.reshape(-1), (shape[1],))


def _lower_product(builder: Builder, op: Operation, factors: list[SSAValue], gain: float) -> None:
    """A chain of `tpu.Mul`; intermediate products get the type that holds every value they can take."""
    left, *others = factors
    for right in others[:-1]:
        a, b = _stored(left), _stored(right)
        high = max(a.high, -a.low) * max(b.high, -b.low)
        unsigned = min(a.low, b.low) >= 0
        kind = TensorQuantization("uint8", high / 255) if unsigned else TensorQuantization("int8", high / 127)
        multiplier, rshift = requantization(a.scale * b.scale / kind.scale)
        shape = np.broadcast_shapes(shape_of(left), shape_of(right))
        attributes = {"multiplier": int(multiplier), "rshift": int(rshift)}
        name = builder.helper_name(name_of(op), "part")
        left = builder.emit("tpu.Mul", [left, right], tensor_type(shape, uniform(kind)), name, attributes)
    ratio = gain * _stored(left).scale * _stored(others[-1]).scale / builder.direct(op).scale
    multiplier, rshift = requantization(ratio)
    attributes = {"multiplier": int(multiplier), "rshift": int(rshift)}
    builder.produce(op, "tpu.Mul", [left, others[-1]], attributes)


def _stored(value: SSAValue) -> TensorQuantization:
    """The type of a TPU value; an integer weight has scale 1."""
    kind = uniform_of(value)
    if kind is None:
        return TensorQuantization("int8", 1.0)
    return TensorQuantization(str(kind.dtype), kind.scale, kind.zero_point)


# ---- in floating point


def is_affine(builder: Builder, op: Operation) -> bool:
    """Whether `op` becomes a `tpu.Affine`: one tensor with constants that do not vary, or along axis 1 only."""
    found = read_affine(builder.source, op)
    return found is not None and found[1].along(1)


@lowers("Add", *FLOATS, refuse=(has_only_constants,))
@lowers("Sub", *FLOATS, refuse=(has_only_constants,))
def float_sum(builder: Builder, op: Operation) -> None:
    """A chain of `tpu.FloatAdd` and `tpu.FloatSub`, what is to be subtracted last; all constants are one operand."""
    if is_affine(builder, op):
        float_constant(builder, op)
        return
    pairs = zip(term_coefficients(op), op.operands, strict=True)
    constants = [c * a.astype(np.float64) for c, v in pairs if (a := builder.source.weight(v)) is not None]
    terms = [_signed_term(builder, op, c, v) for c, v in added_values(builder.source, op)]
    if constants:
        total = np.add.reduce(np.broadcast_arrays(*constants))
        terms.append((1, builder.float_weight(op, "constant", total)))
    terms.sort(key=lambda term: -term[0])
    sign, first = terms[0]
    if sign < 0:
        first = _times(builder, op, sign, first)
    _chain(builder, op, first, [("tpu.FloatAdd" if sign > 0 else "tpu.FloatSub", term) for sign, term in terms[1:]])


def _signed_term(builder: Builder, op: Operation, coefficient: float, value: SSAValue) -> tuple[int, SSAValue]:
    """The sign of a term of a sum, and the term without it."""
    x = builder.read(op, value)
    sign = -1 if coefficient < 0 else 1
    return sign, x if abs(coefficient) == 1 else _times(builder, op, abs(coefficient), x)


def _times(builder: Builder, op: Operation, factor: float, x: SSAValue) -> SSAValue:
    weights = [
        builder.weight(op, suffix, np.array([number], np.float32))
        for suffix, number in (("scale", factor), ("bias", 0))
    ]
    return builder.emit("tpu.Affine", [x, *weights], x.type, builder.helper_name(name_of(op), "scaled"))


@lowers("Mul", *FLOATS, refuse=(has_only_constants,))
def float_product(builder: Builder, op: Operation) -> None:
    """A chain of `tpu.FloatMul`; all constants are one operand."""
    if is_affine(builder, op):
        float_constant(builder, op)
        return
    arrays = [a.astype(np.float64) for v in op.operands if (a := builder.source.weight(v)) is not None]
    factors = [builder.read(op, v) for v in op.operands if not builder.is_constant(v)]
    if arrays:
        factors.append(builder.float_weight(op, "constant", np.multiply.reduce(np.broadcast_arrays(*arrays))))
    _chain(builder, op, factors[0], [("tpu.FloatMul", factor) for factor in factors[1:]])


def _chain(builder: Builder, op: Operation, first: SSAValue, steps: Sequence[tuple[str, SSAValue]]) -> None:
    """The operations of `steps` on `first` one after another; the last makes the result of `op`, with its ReLU."""
    if not steps:
        affine_kernel(builder, op, first, 1.0, 0.0)
        return
    for name, other in steps[:-1]:
        shape = np.broadcast_shapes(shape_of(first), shape_of(other))
        kind = tensor_type(shape, builder.float_type(op))
        first = builder.emit(name, [first, other], kind, builder.helper_name(name_of(op), "part"))
    name, other = steps[-1]
    builder.produce(op, name, [first, other], relu_of(op))
