"""tpu.Softmax: the float32 sequence of the chip kernel, every step one rounding.

Source: the chip model, compared bit for bit over rows of 2 to 1000 elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel

Float32Array = npt.NDArray[np.float32]

LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
"""log(2) in two parts, the first exact in few bits. Source: Cephes expf."""

LOWEST = np.float32(-64)
"""Arguments of the exponential are cut here: what lies below leaves no trace in a float32 sum of 1 or more."""

TAYLOR = np.array([1 / math.factorial(power) for power in range(8)], np.float32)
"""Coefficients of exp on [-log(2) / 2, log(2) / 2]."""

ROOT_START = np.uint32(0x5F3759DF)
"""Less half the bits of a float32, the first approximation of its reciprocal square root."""

ROOT_STEPS = 4


def maximum_chip(left: Float32Array, right: Float32Array) -> Float32Array:
    """The larger of both; of equal ones (zeros of either sign) the right one."""
    return np.where(left > right, left, right)


def fold(x: Float32Array, operation: Callable[[Float32Array, Float32Array], Float32Array]) -> Float32Array:
    """`operation` over the last axis, which stays with length 1: what lies beyond the largest power of two below the
    length is folded onto the beginning, until one element is left."""
    folded, length = x.copy(), x.shape[-1]
    while length > 1:
        half = 1 << (length - 1).bit_length() - 1
        folded[..., : length - half] = operation(folded[..., : length - half], folded[..., half:length])
        length = half
    return folded[..., :1]


def exponential_chip(x: Float32Array) -> Float32Array:
    """exp(x) for x in [-64, 0]: a Taylor polynomial of the remainder by log(2), then the exponent's bits."""
    power = np.rint(x * np.float32(1 / math.log(2)))
    rest = x - power * LN2_HIGH
    rest = rest - power * LN2_LOW
    value = np.full(x.shape, TAYLOR[-1], np.float32)
    for coefficient in TAYLOR[-2::-1]:
        value = value * rest + coefficient
    scaled: Float32Array = (value.view(np.int32) + (power.astype(np.int32) << 23)).view(np.float32)
    return scaled


def reciprocal_chip(x: Float32Array) -> Float32Array:
    """1 / x for positive x, as the square of Newton's reciprocal square root."""
    half = x * np.float32(0.5)
    root = (ROOT_START - (x.view(np.uint32) >> np.uint32(1))).view(np.float32)
    for _ in range(ROOT_STEPS):
        root = root * (np.float32(1.5) - (root * half) * root)
    square: Float32Array = root * root
    return square


def softmax_chip(x: Float32Array, axis: int) -> Float32Array:
    """Softmax of finite float32 numbers over `axis`, with the bits that the chip kernel gives."""
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    with np.errstate(over="ignore"):
        distance = rows - fold(rows, maximum_chip)
    exponential = exponential_chip(maximum_chip(distance, np.broadcast_to(LOWEST, distance.shape)))
    result = exponential * reciprocal_chip(fold(exponential, np.add))
    return np.ascontiguousarray(np.moveaxis(result, -1, axis))


@kernel("tpu.Softmax")
def build_softmax(site: Site) -> Kernel:
    """The float sequence of the chip."""
    axis = site.attributes["axis"]

    def run(operands: Sequence[Array]) -> Array:
        return softmax_chip(operands[0], axis)

    return run
