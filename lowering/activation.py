"""Functions of single elements: 256-entry tables, a requantization where saturation is the whole function, floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir import dialect
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.lowering.affine import read_affine
from tpu_deploy.lowering.builder import SATURATION_TOLERANCE, Builder
from tpu_deploy.lowering.clamp import read_clamp
from tpu_deploy.lowering.registry import Lowering, lowers
from tpu_deploy.lowering.rewriting import relu_of
from tpu_deploy.numbers import saturate
from tpu_deploy.quant.add_scales import term_coefficients
from tpu_deploy.quant.plan import FLOATS, TensorQuantization

Reals = npt.NDArray[np.float64]
Attributes = dict[str, Any]
Function = Callable[[Reals], Reals]
"""Maps the real values of all 256 codes, (256,) or (C, 256), to the function's values."""


def _sigmoid(x: Reals) -> Reals:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float64)


def _softplus(x: Reals) -> Reals:
    return np.asarray(np.logaddexp(0.0, x), np.float64)


def _gelu(x: Reals, mode: str) -> Reals:
    if mode == "tanh":
        share = _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    elif mode == "sigm":
        share = _sigmoid(1.702 * x)
    else:
        share = 0.5 + 0.5 * _erf(x / math.sqrt(2))
    return np.asarray(x * share, np.float64)


def _sigmoid_of(x: Reals, a: Attributes) -> Reals:
    value = -_softplus(-x) if a["log"] else _sigmoid(x)
    return np.asarray(value * a["scale"] + a["bias"], np.float64)


def _erf(x: Reals) -> Reals:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x), np.float64)


FORMULAS: dict[str, Callable[[Reals, Attributes], Reals]] = {
    "top.Relu": lambda x, a: np.maximum(x, 0) if a["relu_limit"] < 0 else np.clip(x, 0, a["relu_limit"]),
    "top.LeakyRelu": lambda x, a: np.where(x < 0, x * a["alpha"], x),
    "top.Clip": lambda x, a: np.clip(x, a["min"], a["max"]),
    "top.Sigmoid": _sigmoid_of,
    "top.Tanh": lambda x, a: np.tanh(x),
    "top.Erf": lambda x, a: _erf(x),
    "top.HardSigmoid": lambda x, a: np.clip(a["alpha"] * x + a["beta"], 0, 1),
    "top.HardSwish": lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1),
    "top.SiLU": lambda x, a: x * _sigmoid(x),
    "top.Mish": lambda x, a: x * np.tanh(_softplus(x)),
    "top.Softplus": lambda x, a: _softplus(x),
    "top.Elu": lambda x, a: np.where(x < 0, a["alpha"] * np.expm1(np.minimum(x, 0)), x),
    "top.GELU": lambda x, a: _gelu(x, a["approx_mode"]),
    "top.AddConst": lambda x, a: x + a["const_val"],
    "top.SubConst": lambda x, a: a["const_val"] - x if a["is_reverse"] else x - a["const_val"],
    "top.MulConst": lambda x, a: x * a["const_val"],
}
"""Functions without operands of their own, by operation."""


def varies_within_channels(network: Network, op: Operation) -> bool:
    """its slope is computed, or differs within a channel"""
    slope = network.weight(op.operands[1])
    return slope is None or _channel_slopes(op, slope) is None


def _channel_slopes(op: Operation, slope: npt.NDArray[Any]) -> Reals | None:
    rank = len(shape_of(op.operands[0]))
    aligned = slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
    if any(n != 1 for axis, n in enumerate(aligned.shape) if axis != 1):
        return None
    return aligned.reshape(-1, 1).astype(np.float64) if slope.size > 1 else slope.reshape(1).astype(np.float64)


def function_of(network: Network, op: Operation) -> Function | None:
    """The function of single elements that `op` computes, its folded ReLU included; None if it is not one."""
    attributes = attributes_of(op)
    formula = FORMULAS.get(op.name)
    if formula is not None:
        return _with_relu(lambda x: formula(x, attributes), attributes)
    if op.name == "top.PRelu":
        array = network.weight(op.operands[1])
        slopes = None if array is None else _channel_slopes(op, array)
        return None if slopes is None else lambda x: np.where(x < 0, x * slopes, x)
    if op.name in ("top.Add", "top.Sub", "top.Mul") and _meets_scalars(network, op):
        return _with_relu(_affine(network, op), attributes)
    return None


def _with_relu(function: Function, attributes: Attributes) -> Function:
    if not attributes.get("do_relu"):
        return function
    limit = attributes["relu_limit"] if attributes["relu_limit"] >= 0 else math.inf
    return lambda x: np.clip(function(x), 0, limit)


def _meets_scalars(network: Network, op: Operation) -> bool:
    """Whether the operands are one tensor of the result's shape and scalars."""
    arrays = [network.weight(v) for v in op.operands]
    tensors = [v for v, a in zip(op.operands, arrays, strict=True) if a is None]
    scalars = all(a.size == 1 for a in arrays if a is not None)
    return scalars and len(tensors) == 1 and shape_of(tensors[0]) == shape_of(op.results[0])


def _affine(network: Network, op: Operation) -> Function:
    factor, offset = _affine_numbers(network, op)
    return lambda x: x * factor + offset


def _affine_numbers(network: Network, op: Operation) -> tuple[float, float]:
    """`(factor, offset)` of an Add, Sub or Mul of one tensor and scalars."""
    arrays = [network.weight(v) for v in op.operands]
    scalars = [None if a is None else float(a.reshape(())) for a in arrays]
    if op.name == "top.Mul":
        return math.prod(s for s in scalars if s is not None), 0.0
    pairs = list(zip(term_coefficients(op), scalars, strict=True))
    return next(c for c, s in pairs if s is None), sum(c * s for c, s in pairs if s is not None)


def is_unary(network: Network, op: Operation) -> bool:
    """Whether `op` computes a function of single elements of one tensor."""
    return function_of(network, op) is not None


def tensor_operand(network: Network, op: Operation) -> int:
    """Index of the operand that is no constant."""
    return next(i for i, v in enumerate(op.operands) if network.weight(v) is None)


def is_absorbed(builder: Builder, op: Operation) -> bool:
    """Whether the only reader of `op` is another function of single elements, which takes `op` into its table."""
    value = op.results[0]
    readers = [use.operation for use in value.uses]
    if len(readers) != 1 or readers[0].name == "func.return" or builder.precision(op) != "INT8":
        return False
    reader = readers[0]
    return builder.precision(reader) == "INT8" and is_unary(builder.source, op) and is_unary(builder.source, reader)


def unary(builder: Builder, op: Operation) -> None:
    """A `tpu.Lut` for `op` and the functions it absorbs, or a `tpu.Requantize` where saturation does the clipping."""
    if is_absorbed(builder, op):
        return
    network = builder.source
    chain = [op]
    while isinstance(maker := _tensor(network, chain[0]).owner, Operation) and maker.name != "top.Input":
        if not is_absorbed(builder, maker):
            break
        chain.insert(0, maker)
    gain = _gain(builder, op)
    if len(chain) == 1 and gain is not None:
        x = builder.operand(op, tensor_operand(network, op))
        builder.define(op.results[0], builder.scaled(op, x, gain))
        return
    source = _tensor(network, chain[0])
    y = builder.quantization(op.results[0])
    functions = [function_of(network, link) for link in chain]
    table = table_of([f for f in functions if f is not None], builder.quantization(source), y)
    operands = [builder.quantized(source), builder.weight(op, "table", table)]
    builder.produce(op, "tpu.Lut", operands, quantization=y)


def _tensor(network: Network, op: Operation) -> Any:
    return op.operands[tensor_operand(network, op)]


def _gain(builder: Builder, op: Operation) -> float | None:
    """The factor by which `op` scales its operand, if that and the saturation of its result are all it does."""
    attributes, operand = attributes_of(op), _tensor(builder.source, op)
    if builder.quantization(operand).factors != builder.quantization(op.results[0]).factors:
        return None
    if op.name == "top.Relu":
        return 1.0
    if op.name == "top.Clip":
        planned = builder.quantization(op.results[0])
        tolerance = SATURATION_TOLERANCE * 255 * planned.scale
        saturates = planned.low >= attributes["min"] - tolerance and planned.high <= attributes["max"] + tolerance
        return 1.0 if saturates else None
    if op.name == "top.MulConst":
        return float(attributes["const_val"])
    if op.name == "top.Mul":
        return _affine_numbers(builder.source, op)[0]
    return None


def table_of(functions: list[Function], x: TensorQuantization, y: TensorQuantization) -> npt.NDArray[np.integer[Any]]:
    """The stored result for every stored byte, (256,) or (C, 256): the functions in order, rounded once, half away."""
    codes = np.arange(256, dtype=np.uint8).view(x.numpy_dtype).astype(np.float64)
    values = (codes - x.zero_point) * x.scale
    if x.factors:
        values = values * np.array(x.factors)[:, None]
    for function in functions:
        values = function(values)
    scaled = values / y.scale
    if y.factors:
        scaled = scaled / np.array(y.factors)[:, None]
    rounded = np.trunc(scaled + np.copysign(0.5, scaled))
    bounded = np.clip(rounded, -(2.0**31), 2.0**31).astype(np.int64)
    return saturate(bounded + y.zero_point, y.numpy_dtype)


# ---- in floating point


def affine_kernel(builder: Builder, op: Operation, x: SSAValue, scale: npt.ArrayLike, bias: npt.ArrayLike) -> None:
    """`x * scale + bias` as the result of `op`, its ReLU included: constants, or one for each index of axis 1."""
    numbers = {"scale": scale, "bias": bias}
    weights = [builder.weight(op, n, np.array(v, np.float32, ndmin=1).reshape(-1)) for n, v in numbers.items()]
    builder.produce(op, "tpu.Affine", [x, *weights], relu_of(op))


def is_logarithm(network: Network, op: Operation) -> bool:
    """it is a LogSigmoid"""
    return bool(attributes_of(op)["log"])


def float_constant(builder: Builder, op: Operation) -> None:
    """A `tpu.Affine` for a tensor and a number."""
    found = read_affine(builder.source, op)
    assert found is not None
    affine_kernel(builder, op, builder.read(op, found[0]), found[1].scale, found[1].bias)


def float_clip(builder: Builder, op: Operation) -> None:
    """A `tpu.Clip`."""
    interval = read_clamp(op)
    assert interval is not None
    builder.produce(op, "tpu.Clip", [builder.operand(op)], {"min": interval.low, "max": interval.high})


def float_sigmoid(builder: Builder, op: Operation) -> None:
    """A `tpu.Sigmoid`, and a `tpu.Affine` of it where it is scaled or shifted."""
    attributes, x = attributes_of(op), builder.operand(op)
    if (attributes["scale"], attributes["bias"]) == (1.0, 0.0):
        builder.produce(op, "tpu.Sigmoid", [x])
        return
    plain = builder.emit("tpu.Sigmoid", [x], x.type, builder.helper_name(name_of(op), "sigmoid"))
    affine_kernel(builder, op, plain, attributes["scale"], attributes["bias"])


def float_prelu(builder: Builder, op: Operation) -> None:
    """A `tpu.PRelu`."""
    array = builder.constant(op.operands[1])
    slopes = None if array is None else _channel_slopes(op, array)
    assert slopes is not None
    operands = [builder.operand(op), builder.weight(op, "slope", slopes.reshape(-1).astype(np.float32))]
    builder.produce(op, "tpu.PRelu", operands)


def float_function(builder: Builder, op: Operation) -> None:
    """The operation of the same name, which takes what attributes it shares."""
    name, attributes = op.name.replace("top.", "tpu."), attributes_of(op)
    builder.produce(op, name, [builder.operand(op)], {n: attributes[n] for n in dialect.ROWS[name].attributes})


FLOAT_FORMS: dict[str, Lowering] = {
    "top.Relu": float_clip,
    "top.Clip": float_clip,
    "top.Sigmoid": float_sigmoid,
    "top.AddConst": float_constant,
    "top.SubConst": float_constant,
    "top.MulConst": float_constant,
}
"""Functions without operands whose float form is not the operation of the same name."""

for _name in FORMULAS:
    lowers(_name.removeprefix("top."))(unary)
    _refusals = (is_logarithm,) if _name == "top.Sigmoid" else ()
    lowers(_name.removeprefix("top."), *FLOATS, refuse=_refusals)(FLOAT_FORMS.get(_name, float_function))
lowers("PRelu", refuse=(varies_within_channels,))(unary)
lowers("PRelu", *FLOATS, refuse=(varies_within_channels,))(float_prelu)
