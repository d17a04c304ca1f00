"""Convolutions as integer products per output channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.quant.weights import integer_product


def has_computed_weights(network: Network, op: Operation) -> bool:
    """its weights or bias are computed; only constant ones are supported"""
    return any(network.weight(v) is None and not is_absent(v) for v in op.operands[1:])


def is_not_two_dimensional(network: Network, op: Operation) -> bool:
    """its windows are not two-dimensional"""
    return len(attributes_of(op)["kernel_shape"]) != 2 or len(shape_of(op.operands[0])) != 4


@lowers("Conv", refuse=(has_computed_weights, is_not_two_dimensional))
def convolution(builder: Builder, op: Operation) -> None:
    """A `tpu.Conv2D` whose saturation is the ReLU."""
    filters = builder.constant(op.operands[1])
    assert filters is not None
    attributes = attributes_of(op)
    names = ("kernel_shape", "strides", "pads", "dilations", "group")
    product(builder, op, filters, builder.constant(op.operands[2]), {n: attributes[n] for n in names})


def product(
    builder: Builder, op: Operation, filters: Array, bias: Array | None, attributes: dict[str, int | Sequence[int]]
) -> None:
    """A `tpu.Conv2D` of the first operand of `op` with float `filters` (oc, c / group, kh, kw) and `bias` (oc)."""
    x, y = builder.quantization(op.operands[0]), builder.direct(op)
    integers = integer_product(filters, bias, 0, x, y, builder.plan.weight_method)
    builder.produce(op, "tpu.Conv2D", [builder.operand(op), *builder.weights(op, "filter", integers)], attributes)


def per_channel(builder: Builder, op: Operation, index: int, scale: Array, bias: Array | None) -> None:
    """`operand * scale + bias` along axis 1 (both of length C) as a depthwise 1x1 convolution, whatever the rank."""
    value = op.operands[index]
    shape = shape_of(value)
    n, c = shape[:2]
    x, y = builder.quantization(value), builder.direct(op)
    integers = integer_product(scale.reshape(c, 1, 1, 1), bias, 0, x, y, builder.plan.weight_method)
    image = shape if len(shape) == 4 else (n, c, math.prod(shape[2:]), 1)
    operands = [
        builder.reshaped(op, builder.operand(op, index), image),
        *builder.weights(op, "filter", integers),
    ]
    attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": c}
    builder.produce(op, "tpu.Conv2D", operands, attributes, shape=image)
