"""Integer and rounding arithmetic exactly as the chip performs it, vectorized over numpy arrays."""

from enum import IntEnum
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
"""The upper half of a float32: 8 bits of exponent, 8 of significand."""

TINY = np.finfo(np.float32).tiny
"""The smallest normal float32."""

MULTIPLIER_BITS = 23
"""Significant bits of a requantization multiplier.

With 23 bits the product with any accumulator below 2**30 is below 2**53, so that a float64 evaluation is exact too;
the relative error of the represented ratio is at most 2**-23.
"""


class RoundMode(IntEnum):
    """How a right shift or a float-to-integer conversion rounds; the values are those of the field `opd2_n_str`.

    Source: chip model, all modes tried.
    """

    HALF_EVEN = 0
    HALF_AWAY = 1
    TO_ZERO = 2
    FLOOR = 3
    CEIL = 4
    HALF_UP = 5
    HALF_DOWN = 6


def round_shift(values: Int64Array, shift: npt.ArrayLike, mode: RoundMode = RoundMode.HALF_UP) -> Int64Array:
    """`values / 2**shift` rounded to int64; a negative shift multiplies. Broadcasts `shift` over `values`."""
    amount = np.asarray(shift, np.int64)
    left = np.maximum(-amount, 0)
    right = np.maximum(amount, 0)
    scaled = values << left
    floor = scaled >> right
    if mode is RoundMode.HALF_UP:
        carry: Int64Array = (scaled >> np.maximum(right - 1, 0)) & (right > 0)
        return floor + carry
    remainder, half = scaled - (floor << right), np.int64(1) << np.maximum(right - 1, 0)
    if mode is RoundMode.FLOOR:
        up = np.zeros_like(remainder, bool)
    elif mode is RoundMode.CEIL:
        up = remainder > 0
    elif mode is RoundMode.TO_ZERO:
        up = (scaled < 0) & (remainder > 0)
    elif mode is RoundMode.HALF_AWAY:
        up = (remainder > half) | ((remainder == half) & (scaled >= 0))
    elif mode is RoundMode.HALF_EVEN:
        up = (remainder > half) | ((remainder == half) & (floor & 1 == 1))
    else:
        up = remainder > half
    return floor + (up & (right > 0))


def saturate(values: Int64Array, dtype: npt.DTypeLike) -> npt.NDArray[np.integer]:
    """`values` clipped to the range of the integer `dtype` and converted to it."""
    limits = np.iinfo(np.dtype(dtype))
    return np.clip(values, limits.min, limits.max).astype(dtype)


def requantize(
    values: npt.NDArray[np.integer],
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int,
    dtype: npt.DTypeLike,
    mode: RoundMode = RoundMode.HALF_UP,
) -> npt.NDArray[np.integer]:
    """`saturate(round(values * multiplier / 2**shift) + zero_point)`; multiplier and shift broadcast over `values`.

    Source: instruction RQ (integer form): 64-bit product, rounding before the zero point.
    """
    product = values.astype(np.int64) * np.asarray(multiplier, np.int64)
    return saturate(round_shift(product, shift, mode) + zero_point, dtype)


def fixed_point(ratio: npt.ArrayLike, bits: int = MULTIPLIER_BITS) -> tuple[Int64Array, Int64Array]:
    """Integer `(multiplier, shift)` with `multiplier / 2**shift` nearest to each ratio, `|multiplier| < 2**bits`.

    Raises ValueError when a ratio is not finite. A ratio too small for a shift of 62 becomes multiplier 0.
    """
    real = np.asarray(ratio, np.float64)
    if not np.isfinite(real).all():
        raise ValueError("a requantization ratio is not finite")
    mantissa, exponent = np.frexp(real)
    multiplier = np.rint(mantissa * (1 << bits)).astype(np.int64)
    shift = (bits - exponent).astype(np.int64)
    carried = np.abs(multiplier) == 1 << bits
    multiplier = np.where(carried, multiplier >> 1, multiplier)
    shift = np.where(carried, shift - 1, shift)
    excess = np.maximum(shift - 62, 0)
    multiplier = round_shift(multiplier, np.minimum(excess, 62), RoundMode.HALF_EVEN)
    return multiplier, np.minimum(shift, 62)


def quantize(
    values: npt.NDArray[np.float32], scale: npt.ArrayLike, zero_point: int, dtype: npt.DTypeLike
) -> npt.NDArray[np.integer]:
    """Float32 values as integers: `saturate(round_half_away(f32(values * f32(1 / scale))) + zero_point)`.

    `scale` is a number or broadcasts over `values`. NaN becomes the zero point, as on the chip.
    """
    inverse = (1.0 / np.asarray(scale, np.float64)).astype(np.float32)
    scaled = (values.astype(np.float32) * inverse).astype(np.float64)
    rounded = np.trunc(scaled + np.copysign(0.5, scaled))
    bounded = np.nan_to_num(np.clip(rounded, -(2**31), 2**31 - 1), copy=False, nan=0.0)
    return saturate(bounded.astype(np.int64) + zero_point, dtype)


def dequantize(values: npt.NDArray[np.integer], scale: npt.ArrayLike, zero_point: int) -> npt.NDArray[np.float32]:
    """Integers as float32: `f32(values - zero_point) * f32(scale)`, one rounding; `scale` as of `quantize`."""
    single: npt.NDArray[np.float32] = (values.astype(np.int32) - np.int32(zero_point)).astype(np.float32)
    return single * np.asarray(scale, np.float32)


def flushed(values: Float32Array) -> Float32Array:
    """`values` with denormals replaced by zeros of their sign, as the chip takes them; the array itself if none."""
    small = np.abs(values) < TINY
    return np.where(small, np.copysign(np.float32(0), values), values) if small.any() else values


def widened(values: npt.NDArray[Any]) -> Float32Array:
    """float32, float16 or BFLOAT16 numbers as float32, exactly; the array itself where it is float32."""
    if values.dtype == BFLOAT16:
        return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def rounded(values: Float32Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """float32 numbers in the float type `dtype`, half to even; the array itself for float32.

    float16 overflows to infinity; denormals of BFLOAT16 become zero.
    """
    kind = np.dtype(dtype)
    if kind != BFLOAT16:
        with np.errstate(over="ignore"):
            return values.astype(kind, copy=False)
    bits = values.view(np.uint32)
    near = ((bits + (0x7FFF + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)
    near = np.where(near & 0x7F80, near, near & 0x8000)
    return np.where(np.isnan(values), np.uint16(0x7FFF), near).view(BFLOAT16)
