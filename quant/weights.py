"""Integer weights of products: per-output-channel symmetric INT8, 32-bit bias, the ratio back to the result's scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.numbers import fixed_point
from tpu_deploy.quant.plan import LIMITS, TensorQuantization

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

WEIGHT_METHODS = ("max", "mse")
"""How the largest weight of a channel is chosen: the absolute maximum, or the clip of least squared error."""

WEIGHT_LIMIT = 127
ACCUMULATOR_LIMIT = 1 << 30
"""No accumulator exceeds this: half of int32, so that its product with a 23-bit multiplier is exact in float64 too."""

ZERO = 1e-36
"""Weight scales below this have no float32 reciprocal; the weights are zero for every purpose."""

MAXIMUM_RATIO = 1024.0
"""Requantization ratios above this saturate for every integer but 0, exactly as this one does."""

CLIPS = np.linspace(1.0, 0.5, 11, dtype=np.float32)
"""Fractions of the absolute maximum tried by the method "mse"."""

BLOCK = 1 << 18
"""Elements handled at a time: the temporaries stay in the processor's cache."""


@dataclass(frozen=True)
class IntegerProduct:
    """`round((sum(x * weights) + bias) * multiplier >> rshift)` per output channel, before the result's zero point.

    `weights` int8 in the layout they came in; `bias`, `multiplier`, `rshift` int32 (channels).
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.int32]
    rshift: npt.NDArray[np.int32]


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
    floats = weights.astype(np.float32, copy=False)
    channels = floats.reshape(floats.shape[0], -1) if channel_axis == 0 else floats
    offsets = np.zeros(weights.shape[channel_axis]) if bias is None else bias.astype(np.float64).reshape(-1)
    axis = 1 if channel_axis == 0 else 0
    scales = _channel_limits(channels, axis, method) / WEIGHT_LIMIT
    scales = np.maximum(scales, _least_scales(channels, axis, offsets, x))
    # A channel that is all zero, bias too: any scale will do.
    scales[scales < ZERO] = y.scale / x.scale
    quantized = _rounded(channels, axis, scales)
    integer_bias = np.rint(offsets / (x.scale * scales)).astype(np.int64)
    if x.zero_point:
        integer_bias -= x.zero_point * quantized.sum(axis, dtype=np.int64)
    multiplier, rshift = requantization(x.scale * scales / y.scale)
    return IntegerProduct(quantized.reshape(weights.shape), integer_bias.astype(np.int32), multiplier, rshift)


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
    best = np.ones(len(rows), np.float32)
    for block in _blocks(rows.shape):
        best[block] = _best_clip(rows[block], largest[block])
    limits *= best
    return limits


def _best_clip(rows: Float32Array, largest: Float32Array) -> Float32Array:
    """Of CLIPS, for each row, the fraction of its maximum with the least squared error."""
    errors = []
    safe = np.maximum(largest, np.float32(WEIGHT_LIMIT * ZERO))[:, None]
    for clip in CLIPS:
        scale = clip * safe / WEIGHT_LIMIT
        error = np.clip(np.rint(rows / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT) * scale - rows
        errors.append(np.einsum("ij,ij->i", error, error))
    best: Float32Array = CLIPS[np.argmin(errors, axis=0)]
    return best
