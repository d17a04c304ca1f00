"""Minimum, maximum and sum of each channel of a tensor, in a walk by pieces that fit a core's cache."""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LONG = 2048
"""About how many values are carried along: enough for numpy's inner loop, few enough for the nearest cache."""

CACHED_BYTES = 1 << 20
"""How much of a tensor is reduced at a time."""


def channel_axis(rank: int) -> int:
    """The axis of channels: the last of (batch, position, channel), else axis 1."""
    return 2 if rank == 3 else min(rank - 1, 1)


def channel_count(shape: tuple[int, ...]) -> int:
    """How many channels a tensor of `shape` has; 1 where there is no axis of them."""
    return shape[channel_axis(len(shape))] if len(shape) > 1 else 1


def channel_reductions(values: Array, block: int = 1) -> tuple[Array, Array, Array]:
    """Minima and maxima (channels,), and sums (rows, channels) for each row of the batch, of a tensor with elements.

    Of a tensor of 4 axes or more the channels come in blocks of `block`: (rows, channels / block, positions, block).
    """
    rows, channels = values.shape[0] if values.ndim else 1, channel_count(values.shape)
    lanes = block if values.ndim > 3 else channels
    positions = values.size // (rows * channels)
    outer = rows * channels // lanes
    view = values.reshape(outer, positions if lanes == 1 else _divisor(positions, positions * lanes / LONG), -1)
    low, high, total = (np.empty((outer, view.shape[2]), kind) for kind in (values.dtype, values.dtype, _wide(values)))
    step = max(1, CACHED_BYTES * outer // values.nbytes)
    with np.errstate(over="ignore"):
        for start in range(0, outer, step):
            part = slice(start, start + step)
            _extremes(view[part], low[part], high[part])
            np.add.reduce(view[part], axis=1, dtype=total.dtype, out=total[part])
        sums = np.add.reduce(total.reshape(outer, -1, lanes), axis=1)
        if not np.isfinite(sums).all():
            sums = np.add.reduce(values.reshape(outer, positions, lanes), axis=1, dtype=np.float64)
    by_group = (rows, channels // lanes, -1, lanes)
    minimum = np.minimum.reduce(low.reshape(by_group), axis=(0, 2)).reshape(channels)
    maximum = np.maximum.reduce(high.reshape(by_group), axis=(0, 2)).reshape(channels)
    return minimum, maximum, sums.reshape(rows, channels)


def _wide(values: Array) -> type[np.floating[Any]]:
    return np.float64 if values.dtype == np.float64 else np.float32


def _extremes(values: Array, low: Array, high: Array) -> None:
    """Puts minima and maxima over axis 1 into `low` and `high`, by the bits of float32 as integers.

    numpy's maxima of floats ask the processor for its floating-point status in each inner loop, which takes longer than
    the loop. Bits order like the floats they stand for, but for the sign: below zero they descend.
    """
    if values.dtype != np.float32:
        np.minimum.reduce(values, axis=1, out=low)
        np.maximum.reduce(values, axis=1, out=high)
        return
    bits, smallest, largest = (array.view(np.int32) for array in (values, low, high))
    np.minimum.reduce(bits, axis=1, out=smallest)
    if np.minimum.reduce(smallest, axis=None) >= 0:
        np.maximum.reduce(bits, axis=1, out=largest)
        return
    ascending = _turned(bits)
    np.minimum.reduce(ascending, axis=1, out=smallest)
    np.maximum.reduce(ascending, axis=1, out=largest)
    smallest[...], largest[...] = _turned(smallest), _turned(largest)


def _turned(bits: Array) -> Array:
    """Bits of floats as integers that ascend with them, and back."""
    turned: Array = bits >> 31
    turned &= 0x7FFFFFFF
    turned ^= bits
    return turned


@functools.cache
def _divisor(number: int, near: float) -> int:
    """The divisor of `number` with the least ratio to `near`, above 1 where there is one."""
    divisors = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors += [number // d for d in divisors]
    return min((d for d in divisors if d > 1), key=lambda d: abs(math.log(d / near)), default=1)
