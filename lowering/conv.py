"""Convolutions: integer products per output channel, or in floating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.lowering.rewriting import relu_of
from tpu_deploy.quant.plan import FLOATS, TensorQuantization
from tpu_deploy.quant.weights import IntegerProduct

INT16_MAX = 32767

NARROWING_NOISE = 0.1
"""Most that rounding sums to int16 may add to the noise of rounding the result to 8 bits, over all channels."""


def has_computed_weights(network: Network, op: Operation) -> bool:
    """its weights or bias are computed; only constant ones are supported"""
    return any(network.weight(v) is None and not is_absent(v) for v in op.operands[1:])


def is_not_two_dimensional(network: Network, op: Operation) -> bool:
    """its windows are not two-dimensional"""
    return len(attributes_of(op)["kernel_shape"]) != 2 or len(shape_of(op.operands[0])) != 4


@lowers("Conv", refuse=(has_computed_weights, is_not_two_dimensional))
def convolution(builder: Builder, op: Operation) -> None:
    """A `tpu.Conv2D` whose saturation is the ReLU, or a `tpu.DequantizedConv2D`."""
    filters = builder.constant(op.operands[1])
    assert filters is not None
    product(builder, op, filters, builder.constant(op.operands[2]), _window(op))


def _window(op: Operation) -> dict[str, Any]:
    attributes = attributes_of(op)
    return {name: attributes[name] for name in ("kernel_shape", "strides", "pads", "dilations", "inserts", "group")}


@lowers("Conv", *FLOATS, refuse=(has_computed_weights, is_not_two_dimensional))
def float_convolution(builder: Builder, op: Operation) -> None:
    """A `tpu.FloatConv2D`."""
    filters, bias = builder.constant(op.operands[1]), builder.constant(op.operands[2])
    assert filters is not None
    offsets = np.zeros(len(filters), np.float32) if bias is None else bias.reshape(-1).astype(np.float32)
    operands = [builder.float_weight(op, "filter", filters), builder.weight(op, "bias", offsets)]
    builder.produce(op, "tpu.FloatConv2D", [builder.operand(op), *operands], _window(op) | relu_of(op))


def product(builder: Builder, op: Operation, filters: Array, bias: Array | None, attributes: dict[str, Any]) -> None:
    """The product of the first operand of `op` in 8 bits with float `filters` (oc, c / group, kh, kw), `bias` (oc)."""
    x = builder.quantization(op.operands[0])
    integers = builder.integers(op, filters, bias, 0, x)
    _produce_product(builder, op, builder.operand(op), x, integers, attributes)


def _produce_product(
    builder: Builder,
    op: Operation,
    operand: SSAValue,
    x: TensorQuantization,
    integers: IntegerProduct,
    attributes: dict[str, Any],
    shape: Sequence[int] | None = None,
) -> None:
    """The convolution of an 8-bit `operand` of type `x`, with an 8-bit or float result; sums narrowed where it pays."""
    kind = "tpu.Conv2D"
    if builder.is_made_float(op):
        kind, attributes = "tpu.DequantizedConv2D", attributes | relu_of(op)
    elif _is_depthwise(integers, attributes) and not any(attributes["inserts"]):
        integers, attributes["acc_shift"] = narrowed(integers, x, builder.direct(op))
    builder.produce(op, kind, [operand, *builder.weights(op, "filter", integers)], attributes, shape=shape)


def _is_depthwise(integers: IntegerProduct, attributes: dict[str, Any]) -> bool:
    """Whether each channel has a filter of its own."""
    return bool(attributes["group"] == len(integers.weights) > 1 == integers.weights.shape[1])


def narrowed(integers: IntegerProduct, x: TensorQuantization, y: TensorQuantization) -> tuple[IntegerProduct, int]:
    """The same product with its sums rounded to int16 on the way, and the right shift that takes them there.

    The shift is the least with which every sum that the result can tell from saturation, and that can occur, fits;
    -1, and the product as it was, where that would cost precision.
    The pooling unit writes 16-bit sums twice as fast as 32-bit ones.
    """
    taps = integers.weights.reshape(len(integers.weights), -1).astype(np.float64)
    low, high = (float(v) for v in (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max))
    offset = integers.bias.astype(np.float64)
    reach = np.maximum(
        np.abs(np.maximum(taps * low, taps * high).sum(1) + offset),
        np.abs(np.minimum(taps * low, taps * high).sum(1) + offset),
    )
    ratio = np.ldexp(np.abs(integers.multiplier.astype(np.float64)), -integers.rshift)
    levels = float(np.iinfo(y.dtype).max) - float(np.iinfo(y.dtype).min) + 1
    needed = np.minimum(reach, np.divide(levels, ratio, out=np.full_like(reach, np.inf), where=ratio > 0))
    shift = max(0, math.ceil(math.log2(max(float(needed.max()), 1.0) / (INT16_MAX - 1))))
    if int(integers.rshift.min()) < shift or float(np.mean((ratio * 2.0**shift) ** 2)) > NARROWING_NOISE:
        return integers, -1
    return replace(integers, rshift=(integers.rshift - shift).astype(np.int32)), shift


def per_channel(builder: Builder, op: Operation, index: int, scale: Array, bias: Array | None) -> None:
    """`operand * scale + bias` along axis 1 (both of length C) as a depthwise 1x1 convolution, whatever the rank."""
    value = op.operands[index]
    shape = shape_of(value)
    n, c = shape[:2]
    x = builder.quantization(value)
    integers = builder.integers(op, scale.reshape(c, 1, 1, 1), bias, 0, x)
    window = {
        "kernel_shape": [1, 1],
        "strides": [1, 1],
        "pads": [0] * 4,
        "dilations": [1, 1],
        "inserts": [0, 0],
        "group": c,
    }
    image = shape if len(shape) == 4 else (n, c, math.prod(shape[2:]), 1)
    operand = builder.reshaped(op, builder.operand(op, index), image)
    _produce_product(builder, op, operand, x, integers, window, image)
