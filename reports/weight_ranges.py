"""What the weights of each output channel span, and in what steps they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST_ROWS = 256
"""Rows of a range that is written down: with more channels several neighbours share one."""


def weight_ranges(weights: Array, steps: Array, axis: int) -> dict[str, Any]:
    """Smallest and largest real weight and the step of each channel along `axis`, as plain data.

    Several neighbouring channels share a row, the widest of theirs, where there are more than MOST_ROWS. Numbers have
    four digits. A step of 0 is that of floats.
    """
    rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    channels = len(rows)
    shared = -(-channels // MOST_ROWS)
    starts = np.arange(0, channels, shared)
    return {
        "channels": channels,
        "minimum": _plain(np.minimum.reduceat(rows.min(1), starts)),
        "maximum": _plain(np.maximum.reduceat(rows.max(1), starts)),
        "step": _plain(np.maximum.reduceat(steps, starts)),
    }


def _plain(values: Array) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
