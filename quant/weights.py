"""Integer weights of products: per-output-channel symmetric INT8, 32-bit bias, the ratio back to the result's scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.numbers import fixed_point
from tpu_deploy.quant.plan import LIMITS, ChosenWeights, TensorQuantization

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

WEIGHT_METHODS = ("max", "mse")
"""How the scale of a channel is chosen: its absolute maximum becomes 127, or less where products then err less."""

WEIGHT_LIMIT = 127
ACCUMULATOR_LIMIT = 1 << 30
"""No accumulator exceeds this: half of int32, so that its product with a 23-bit multiplier is exact in float64 too."""

ZERO = 1e-36
"""Weight scales below this have no float32 reciprocal; the weights are zero for every purpose."""

FINEST = 0.05 / (0.29 * 64)
"""Finest weight step, as a step of one product over the result's and times the root of their number: rounding (0.29
steps) all weights of inputs around 64 then adds 0.05 of the result's step, which is itself rounded to 0.29. Channels
that matter little are kept from widening what their neighbours' sums are stored in."""

MAXIMUM_RATIO = 1024.0
"""Requantization ratios above this saturate for every integer but 0, exactly as this one does."""

CORRELATION = 0.5
"""How alike the inputs of one product are taken to be, by the method "mse": neighbouring pixels, or channels that a
ReLU made non-negative, go up and down together, so the sum of the rounding errors counts beside their squares."""

SCALE_STEP = 0.006
"""Relative distance of the weight scales tried by the method "mse", upwards from that of the maximum."""

SCALES, TRIED_ELEMENTS = (9, 51), 3200
"""Fewest and most scales tried for a channel, and how many times a weight of it is rounded for that otherwise: few
weights leave much to chance, and cost little."""

BLOCK = 1 << 18
"""Elements handled at a time: the temporaries stay in the processor's cache."""


@dataclass(frozen=True)
class IntegerProduct:
    """`round((sum(x * weights) + bias) * multiplier >> rshift)` per output channel, before the result's zero point.

    `weights` int8 in the layout they came in; `bias`, `multiplier`, `rshift` int32 (channels); `unit` float64
    (channels) is what 1 in the sum stands for.
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.int32]
    rshift: npt.NDArray[np.int32]
    unit: Float64Array


def requantization(ratio: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """`(multiplier, rshift)` nearest to each ratio, rshift never negative; a ratio that saturates anyway is limited."""
    limited = np.clip(np.asarray(ratio, np.float64), -MAXIMUM_RATIO, MAXIMUM_RATIO)
    multiplier, rshift = fixed_point(limited)
    return multiplier.astype(np.int32), rshift.astype(np.int32)


def integer_product(
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    channel_axis: int,
    x: TensorQuantization,
    y: TensorQuantization,
    method: str = "max",
) -> IntegerProduct:
    """Float `weights` and `bias` (channels) of a convolution or matrix product on x as integers.

    `channel_axis` is 0 for weights (channels, ...) and 1 for (K, channels). A channel whose bias or sum could leave the
    accumulator gets a wider weight scale.
    """
    axis = 1 if channel_axis == 0 else 0
    channels = _channels(weights.astype(np.float32, copy=False), axis)
    offsets = np.zeros(weights.shape[channel_axis]) if bias is None else bias.astype(np.float64).reshape(-1)
    scales = channel_scales(channels, axis, offsets, x, y, method)
    quantized = _rounded(channels, axis, scales)
    return _product(quantized.reshape(weights.shape), axis, scales, offsets, x, y)


def channel_scales(
    channels: Float32Array, axis: int, bias: Float64Array, x: TensorQuantization, y: TensorQuantization, method: str
) -> Float64Array:
    """The scale of each channel's weights, whose terms lie along `axis` of the matrix `channels`."""
    scales = _channel_limits(channels, axis, method) / WEIGHT_LIMIT
    scales = np.maximum(scales, _least_scales(channels, axis, bias, x))
    finest: Float64Array = np.maximum(scales, max(FINEST / np.sqrt(channels.shape[axis]) * y.scale / x.scale, ZERO))
    return finest


def _product(
    quantized: npt.NDArray[np.int8],
    axis: int,
    scales: Float64Array,
    offsets: Float64Array,
    x: TensorQuantization,
    y: TensorQuantization,
) -> IntegerProduct:
    integer_bias = np.rint(offsets / (x.scale * scales)).astype(np.int64)
    if x.zero_point:
        integer_bias -= x.zero_point * _channels(quantized, axis).sum(axis, dtype=np.int64)
    unit = x.scale * scales
    multiplier, rshift = requantization(unit / y.scale)
    return IntegerProduct(quantized, integer_bias.astype(np.int32), multiplier, rshift, unit)


def chosen_product(
    chosen: ChosenWeights, channel_axis: int, x: TensorQuantization, y: TensorQuantization
) -> IntegerProduct:
    """The integers of weights that were chosen already, on x. Raises ValueError where a sum could leave its limit."""
    axis = 1 if channel_axis == 0 else 0
    reach = accumulator_reach(chosen, channel_axis, x)
    if not (reach <= ACCUMULATOR_LIMIT).all():
        raise ValueError(f"sums of channel {int(np.argmax(reach))} can leave the 32-bit accumulator")
    return _product(chosen.weights, axis, chosen.scales, chosen.bias, x, y)


def accumulator_reach(chosen: ChosenWeights, channel_axis: int, x: TensorQuantization) -> Float64Array:
    """The largest magnitude that a sum of each channel can reach in any order of summation."""
    low, high = LIMITS[x.dtype]
    axis = 1 if channel_axis == 0 else 0
    magnitudes = np.abs(_channels(chosen.weights, axis).astype(np.int64)).sum(axis)
    reach: Float64Array = magnitudes * (max(-low, high) + abs(x.zero_point)) + np.abs(chosen.bias) / (
        x.scale * chosen.scales
    )
    return reach


def _channels(weights: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Weights as a matrix whose terms of a sum lie along `axis`."""
    return weights.reshape(len(weights), -1) if axis == 1 else weights


def _least_scales(channels: Float32Array, axis: int, bias: Float64Array, x: TensorQuantization) -> Float64Array:
    """The smallest weight scales for which no accumulator, in any order of summation, exceeds its limit."""
    low, high = LIMITS[x.dtype]
    reach = max(-low, high) + abs(x.zero_point)
    magnitudes = np.abs(channels).sum(axis, dtype=np.float64)
    # Rounding adds at most half to the magnitude of each weight and of the bias.
    room = ACCUMULATOR_LIMIT - (0.5 * channels.shape[axis] + 1) * reach
    if room < ACCUMULATOR_LIMIT / 2:
        raise ValueError(f"{channels.shape[axis]} products do not fit a 32-bit accumulator")
    least: Float64Array = (magnitudes * reach + np.abs(bias) / x.scale) / room
    return least


def _rounded(channels: Float32Array, axis: int, scales: Float64Array) -> npt.NDArray[np.int8]:
    """Weights divided by their channel's scale and rounded."""
    inverse = np.expand_dims((1 / scales).astype(np.float32), axis)
    result = np.empty(channels.shape, np.int8)
    for rows in _blocks(channels.shape):
        factors = inverse[rows] if axis == 1 else inverse
        scaled = channels[rows] * factors
        np.rint(scaled, out=scaled)
        np.clip(scaled, -WEIGHT_LIMIT, WEIGHT_LIMIT, out=scaled)
        result[rows] = scaled
    return result


def _blocks(shape: tuple[int, ...]) -> list[slice]:
    step = max(1, BLOCK // max(1, shape[1]))
    return [slice(i, min(i + step, shape[0])) for i in range(0, shape[0], step)]


def _channel_limits(channels: Float32Array, axis: int, method: str) -> Float64Array:
    """The weight value of each channel that becomes 127."""
    largest: Float32Array = np.maximum(channels.max(axis), -channels.min(axis))
    limits: Float64Array = largest.astype(np.float64)
    if method == "max":
        return limits
    rows = channels if axis == 1 else np.ascontiguousarray(channels.T)
    for block in _blocks(rows.shape):
        limits[block] *= _best_widening(rows[block], largest[block])
    return limits


def _best_widening(rows: Float32Array, largest: Float32Array) -> Float64Array:
    """For each row the factor on its maximum with which products of half correlated inputs err least.

    With rounding errors d the mean squared error is in proportion to (1 - c) sum(d**2) + c sum(d)**2, c = CORRELATION.
    """
    tried = int(np.clip(TRIED_ELEMENTS // rows.shape[1], *SCALES))
    factors = 1 + SCALE_STEP * np.arange(tried)
    steps = np.maximum(largest, np.float32(WEIGHT_LIMIT * ZERO)) / np.float32(WEIGHT_LIMIT)
    errors = np.empty((tried, len(rows)))
    for row, factor in zip(errors, factors, strict=True):
        step = steps * np.float32(factor)
        rounding = rows * (1 / step)[:, None]
        rounding -= np.rint(rounding)
        squares, sums = np.einsum("ij,ij->i", rounding, rounding), rounding.sum(1)
        row[:] = step**2 * ((1 - CORRELATION) * squares + CORRELATION * sums**2)
    best: Float64Array = factors[errors.argmin(0)]
    return best
