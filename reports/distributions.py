"""Histograms of tensors over the calibration samples, small enough to draw, beside what their types hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.histogram import BINS
from tpu_deploy.calibration.statistics import Statistics

DRAWN_BINS = 64
"""Bins of a drawn histogram, from the smallest to the largest value seen."""

Float64Array = npt.NDArray[np.float64]


def distributions(statistics: Statistics, ends: Mapping[str, tuple[float, float] | None]) -> dict[str, dict[str, Any]]:
    """A histogram of each tensor that `ends` names and the statistics have, as plain data.

    `ends` are the smallest and largest value that the tensor's type holds, None for a float type. Of a histogram:
    `low` and `high`, the range seen; `counts` (DRAWN_BINS); `represented`, the ends; `clipped`, the share of the values
    beyond them, estimated from the sampled histogram.
    """
    rows = {name: row for row, name in enumerate(statistics.names)}
    found = {}
    for name, limits in ends.items():
        row = rows.get(name)
        if row is not None and statistics.minimum[row] <= statistics.maximum[row]:
            found[name] = _drawn(statistics, row, limits)
    return found


def _drawn(statistics: Statistics, row: int, limits: tuple[float, float] | None) -> dict[str, Any]:
    low, high = float(statistics.minimum[row]), float(statistics.maximum[row])
    edges, below = _cumulative(statistics, row)
    drawn = np.interp(np.linspace(low, high, DRAWN_BINS + 1), edges, below)
    drawn[0], drawn[-1] = 0.0, below[-1]
    total = float(below[-1]) or 1.0
    clipped = 0.0
    if limits is not None:
        under, over = np.interp(limits, edges, below)
        clipped = float(under * (limits[0] > low) + (below[-1] - over) * (limits[1] < high)) / total
    return {
        "low": low,
        "high": high,
        "counts": np.rint(np.diff(drawn)).astype(np.int64).tolist(),
        "represented": None if limits is None else list(limits),
        "clipped": clipped,
    }


def _cumulative(statistics: Statistics, row: int) -> tuple[Float64Array, Float64Array]:
    """Bin edges and the number of values below each. Bin 0 reaches to both sides of zero."""
    width = float(np.ldexp(1.0 / BINS, int(statistics.exponent[row])))
    counts = statistics.counts[row].astype(np.float64)
    edges = np.concatenate([np.arange(-BINS + 1, 0), np.arange(1, BINS + 1)]) * width
    # counts[0] is never used; counts[BINS] is the bin around zero, between the edges -1 and 1.
    edges = np.concatenate([[-BINS * width], edges])
    below = np.concatenate([[0.0], np.cumsum(counts[1:])])
    return edges, below
