"""Maximum and average pools."""

from __future__ import annotations

from typing import Any

import numpy as np
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.geometry import window_counts
from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.clamp import read_relu
from tpu_deploy.lowering.conv import is_not_two_dimensional
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.lowering.rewriting import relu_of
from tpu_deploy.numbers import MULTIPLIER_BITS, fixed_point
from tpu_deploy.quant.plan import FLOATS
from tpu_deploy.quant.weights import MAXIMUM_RATIO


def pads_with_numbers(network: Network, op: Operation) -> bool:
    """its padding has a value other than zero"""
    return bool(attributes_of(op)["pad_value"] != 0)


def _window(op: Operation) -> dict[str, Any]:
    attributes = attributes_of(op)
    return {name: attributes[name] for name in ("kernel_shape", "strides", "pads")}


def _pooled_shape(op: Operation) -> tuple[int, ...]:
    """The shape of the result before `keepdims` drops its windows."""
    shape = shape_of(op.results[0])
    return shape if attributes_of(op)["keepdims"] else (*shape, 1, 1)


@lowers("MaxPool", refuse=(is_not_two_dimensional,))
def maximum(builder: Builder, op: Operation) -> None:
    """A `tpu.MaxPool2D` in the type of its operand."""
    x = builder.quantization(op.operands[0])
    builder.produce(op, "tpu.MaxPool2D", [builder.operand(op)], _window(op), shape=_pooled_shape(op), quantization=x)


@lowers("MaxPool", *FLOATS, refuse=(is_not_two_dimensional,))
def float_maximum(builder: Builder, op: Operation) -> None:
    """A `tpu.MaxPool2D`, and a `tpu.Clip` where a ReLU follows."""
    x, relu = builder.operand(op), read_relu(op)
    shape = _pooled_shape(op)
    if relu is None:
        builder.produce(op, "tpu.MaxPool2D", [x], _window(op), shape=shape)
        return
    kind = tensor_type(shape, builder.float_type(op))
    pooled = builder.emit("tpu.MaxPool2D", [x], kind, builder.helper_name(name_of(op), "pooled"), _window(op))
    builder.produce(op, "tpu.Clip", [pooled], {"min": relu.low, "max": relu.high}, shape=shape)


@lowers("AvgPool", *FLOATS, refuse=(is_not_two_dimensional, pads_with_numbers))
def float_average(builder: Builder, op: Operation) -> None:
    """A `tpu.FloatAvgPool2D`."""
    attributes = _window(op) | {"count_include_pad": int(attributes_of(op)["count_include_pad"])} | relu_of(op)
    builder.produce(op, "tpu.FloatAvgPool2D", [builder.operand(op)], attributes, shape=_pooled_shape(op))


@lowers("AvgPool", refuse=(is_not_two_dimensional, pads_with_numbers))
def average(builder: Builder, op: Operation) -> None:
    """A `tpu.AvgPool2D` with a multiplier for each number of positions a window can count."""
    x, y = builder.quantization(op.operands[0]), builder.direct(op)
    include_pad = attributes_of(op)["count_include_pad"]
    counts = _counts(op, include_pad)
    multipliers, rshift = _shared_shift(x.scale / y.scale / counts)
    window = _window(op) | {
        "counts": counts.tolist(),
        "multipliers": multipliers.tolist(),
        "rshift": rshift,
        "count_include_pad": int(include_pad),
    }
    builder.produce(op, "tpu.AvgPool2D", [builder.operand(op)], window, shape=_pooled_shape(op))


def _counts(op: Operation, include_pad: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The distinct numbers of positions that windows of `op` divide by, ascending."""
    window = _window(op)
    sizes, results = shape_of(op.operands[0])[2:], _pooled_shape(op)[2:]
    along = [
        window_counts(
            sizes[i],
            window["kernel_shape"][i],
            window["strides"][i],
            window["pads"][i],
            window["pads"][i + 2],
            results[i],
            include_pad,
        )
        for i in range(2)
    ]
    return np.unique(np.outer(along[0], along[1]))


def _shared_shift(ratios: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int]:
    """Multipliers for all ratios with the shift at which the largest still has MULTIPLIER_BITS bits."""
    limited = np.minimum(ratios, MAXIMUM_RATIO)
    _, shifts = fixed_point(limited, MULTIPLIER_BITS)
    shift = int(shifts.min())
    return np.rint(limited * 2.0**shift).astype(np.int64), shift
