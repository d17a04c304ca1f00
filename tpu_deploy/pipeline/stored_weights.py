"""Layers in real numbers with the weights that a quantized network stores: what the rounding of weights alone costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import helper, numpy_helper
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of, uniform_of
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.pipeline.float_layers import one_result
from tpu_deploy.pipeline.float_model import session_of
from tpu_deploy.pipeline.single_layers import SingleLayer
from tpu_deploy.quant.factors import effective_weights
from tpu_deploy.quant.plan import TensorQuantization
from tpu_deploy.quant.ranges import reach
from tpu_deploy.runtime.reference.conv import spread

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]

CONVOLUTIONS = frozenset({"tpu.Conv2D", "tpu.DequantizedConv2D", "tpu.FloatConv2D"})
MATRIX_PRODUCTS = frozenset({"tpu.MatMul", "tpu.DequantizedMatMul", "tpu.FloatMatMul"})
PLAIN = frozenset({"tpu.Quantize", "tpu.Dequantize", "tpu.Cast", "tpu.Reshape", "tpu.Requantize"})
"""Operations that stand beside products and, in real numbers, do no more than to scale."""


class StoredWeights:
    """Executes single layers of a TPU network in float32: stored weights, but neither sums nor results are rounded."""

    def __init__(self, network: Network, top: Network) -> None:
        """`top` is the canonical network: saturation plays the part of its ReLUs."""
        self._network = network
        self._reach = {name_of(result): reach(op) for op in top.operations for result in op.results}
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def has(self, layer: SingleLayer) -> bool:
        """Whether the layer has weights whose rounding can be told from that of its result."""
        names = {op.name for op in layer.operations}
        products = names & (CONVOLUTIONS | MATRIX_PRODUCTS)
        scaled = any(op.name == "tpu.Mul" and self._has_weight(op) for op in layer.operations)
        return bool(products or scaled) and names <= CONVOLUTIONS | MATRIX_PRODUCTS | PLAIN | {"tpu.Mul"}

    def _has_weight(self, op: Operation) -> bool:
        return any(self._network.weight(value) is not None for value in op.operands)

    def run(self, layer: SingleLayer, operands: Mapping[str, Array]) -> Array:
        """The layer's result from real `operands` by the names of their tensors."""
        held = {each.value: operands[each.tensor] for each in layer.operands}
        for op in layer.operations:
            held[op.results[0]] = self._execute(op, held)
        result = held[layer.result.value]
        low, high = self._reach[layer.result.tensor]
        return np.clip(result, low, high) if low > -np.inf or high < np.inf else result

    def _execute(self, op: Operation, held: Mapping[Any, Array]) -> Array:
        if op.name == "tpu.Mul":
            return self._product(op, held)
        x = held[op.operands[0]]
        if op.name in CONVOLUTIONS:
            x = spread(_evenly_scaled(op.operands[0], x), attributes_of(op)["inserts"])
            return self._convolution(op, x)
        if op.name in MATRIX_PRODUCTS:
            real = real_weights(self._network, op)
            return np.asarray(_evenly_scaled(op.operands[0], x) @ real.weights + real.bias, np.float32)
        if op.name == "tpu.Requantize":
            source, result = (_kind(value).scales_over(x.ndim) for value in (op.operands[0], op.results[0]))
            return x * np.asarray(_ratio(op) * result / source, np.float32)
        return x.reshape(shape_of(op.results[0]))

    def _convolution(self, op: Operation, x: Array) -> Array:
        name = name_of(op)
        if name not in self._sessions:
            real = real_weights(self._network, op)
            held = [numpy_helper.from_array(real.weights, "w"), numpy_helper.from_array(real.bias, "b")]
            given = attributes_of(op)
            window = {key: given[key] for key in ("kernel_shape", "strides", "pads", "dilations", "group")}
            node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **window)
            self._sessions[name] = session_of(one_result([node], {"x": x.shape}, "y", held))
        found: Array = self._sessions[name].run(None, {"x": x})[0]
        return found

    def _product(self, op: Operation, held: Mapping[Any, Array]) -> Array:
        rank = len(shape_of(op.results[0]))
        real: Array = _ratio(op) * _kind(op.results[0]).scales_over(rank)
        for value in op.operands:
            weight = self._network.weight(value)
            real = real * (held[value] / _kind(value).scales_over(rank) if weight is None else weight)
        return np.asarray(real, np.float32)


def _evenly_scaled(value: SSAValue, reals: Array) -> Array:
    """Real values, in which channels of scales of their own are brought to the largest of these scales."""
    kind = uniform_of(value)
    if kind is None or not kind.is_per_axis:
        return reals
    return reals * np.asarray(kind.scale / kind.scales_over(reals.ndim), np.float32)


@dataclass(frozen=True)
class RealWeights:
    """The real numbers that the weights of a product stand for: float32, in the operation's layout.

    `steps` (channels) are the distances of neighbouring weights that can be stored, 0 for floats; channels lie along
    `axis` of `weights`. Where channels of the operand have scales of their own, weights are those of the largest.
    """

    weights: Array
    bias: Array
    steps: Float64Array
    axis: int


def real_weights(network: Network, op: Operation) -> RealWeights:
    """What the weights of a convolution or matrix product stand for."""
    weights, bias = (_weight(network, op, index) for index in (1, 2))
    kind = uniform_of(op.operands[0])
    axis = 0 if op.name in CONVOLUTIONS else 1
    if kind is None:
        steps = np.zeros(weights.shape[axis])
        return RealWeights(weights.astype(np.float32), bias.astype(np.float32), steps, axis)
    if op.name.startswith("tpu.Dequantized"):
        unit = _weight(network, op, 3).astype(np.float64)
    else:
        shift = _weight(network, op, 4).astype(np.int64) + max(attributes_of(op).get("acc_shift", -1), 0)
        result = op.results[0]
        scales = _kind(result).scales_over(len(shape_of(result))).reshape(-1)
        unit = np.ldexp(_weight(network, op, 3).astype(np.float64), -shift) * scales
    others = tuple(k for k in range(weights.ndim) if k != axis)
    offset = bias.astype(np.int64) + kind.zero_point * weights.sum(others, np.int64)
    steps = unit / kind.scale
    real = weights * np.expand_dims(steps, others)
    return RealWeights(real.astype(np.float32), (offset * unit).astype(np.float32), steps, axis)


def weights_of_reals(network: Network, op: Operation) -> RealWeights:
    """`real_weights`, where channels of the operand have scales of their own those of its real values."""
    real, kind = real_weights(network, op), uniform_of(op.operands[0])
    if kind is None or not kind.is_per_axis:
        return real
    inverse = kind.scale / kind.scales_over(len(shape_of(op.operands[0]))).reshape(-1)
    x, y = TensorQuantization("int8", factors=tuple(inverse)), TensorQuantization("int8")
    return replace(real, weights=effective_weights(real.weights, None, real.axis, x, y)[0])


def _weight(network: Network, op: Operation, index: int) -> Array:
    array = network.weight(op.operands[index])
    assert array is not None, f"{name_of(op)}: operand {index} is no weight"
    return array


def _ratio(op: Operation) -> float:
    attributes = attributes_of(op)
    return math.ldexp(attributes["multiplier"], -attributes["rshift"])


def _kind(value: SSAValue) -> UniformType:
    kind = uniform_of(value)
    assert kind is not None, f"{name_of(value)} is not quantized"
    return kind
