"""Tensors by channel, and which channels of a quantized tensor have died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FEWEST_VALUES = 4
"""A channel of which fewer values were seen may be constant by chance."""

VISIBLE_STEPS = 4.0
"""So many steps must a float channel's range span before a constant one is taken for dead: less may be rounded off."""


def channel_count(shape: Sequence[int]) -> int:
    """How many channels a tensor has, along axis 1, of three axes along the last; 0 for one of less than two axes."""
    return shape[_axis(len(shape))] if len(shape) > 1 else 0


def _axis(rank: int) -> int:
    return 2 if rank == 3 else 1


def by_channel(array: Array) -> Array:
    """The array as (images, channels, positions); without channels (1, 1, elements)."""
    if array.ndim < 2:
        return array.reshape(1, 1, -1)
    axis = _axis(array.ndim)
    moved = np.moveaxis(array, axis, 1) if axis != 1 else array
    return moved.reshape(*moved.shape[:2], -1)


class ChannelExtremes:
    """The range of each channel of the float tensor, and of the quantized one, over samples."""

    def __init__(self, shape: Sequence[int], step: float) -> None:
        """`step` is the distance of neighbouring values of the quantized tensor, 0 for a float one."""
        self._channels = channel_count(shape)
        self._visible = VISIBLE_STEPS * step
        self._values = 0
        count = max(self._channels, 1)
        self._expected = np.full(count, np.inf), np.full(count, -np.inf)
        self._actual = np.full(count, np.inf), np.full(count, -np.inf)

    def add(self, expected: Array, actual: Array) -> None:
        """Takes in one sample of both; the actual one as it is stored."""
        self._values += expected.size // max(self._channels, 1)
        for array, (low, high) in ((expected, self._expected), (actual, self._actual)):
            planes = by_channel(array)
            np.minimum(low, planes.min(axis=(0, 2)), out=low)
            np.maximum(high, planes.max(axis=(0, 2)), out=high)

    def dead(self) -> list[int]:
        """Channels that are constant although the float network's vary by more than rounding could hide."""
        if self._channels == 0 or self._values < FEWEST_VALUES:
            return []
        varies = self._expected[1] - self._expected[0] > self._visible
        return [int(k) for k in np.flatnonzero((self._actual[0] == self._actual[1]) & varies)]
