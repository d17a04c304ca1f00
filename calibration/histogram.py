"""Streaming histograms on power-of-two grids: counts over any split of the data, merged in any order, are identical.

A value lies in bin `trunc(value * BINS / 2**exponent)`, so bins are `2**exponent / BINS` wide and bin 0, which covers
both sides of zero, is twice as wide. The exponent is the smallest whose range holds the largest magnitude seen.
Truncation commutes with halving, so doubling the range merges bins without moving a single value.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BINS = 4096
"""Bins on each side of zero: between 2048 and 4096 of them lie below the largest magnitude."""

SMALLEST_EXPONENT = -100
"""Magnitudes below 2**-100 share one grid, which keeps the scale a normal float32."""

Counts = npt.NDArray[np.int64]


def exponent_of(magnitude: float) -> int:
    """The smallest grid exponent with `magnitude < 2**exponent`."""
    return max(SMALLEST_EXPONENT, math.frexp(magnitude)[1]) if magnitude else SMALLEST_EXPONENT


def coarsened(counts: Counts, doublings: int) -> Counts:
    """The same values counted on a grid whose range was doubled `doublings` times: int64 of shape (2 * BINS,)."""
    if doublings == 0:
        return counts
    group = 1 << min(doublings, BINS.bit_length() - 1)
    kept = BINS // group
    result = np.zeros_like(counts)
    result[BINS : BINS + kept] = counts[BINS:].reshape(kept, group).sum(axis=1)
    below = np.concatenate(([0], counts[BINS - 1 : 0 : -1])).reshape(kept, group).sum(axis=1)
    result[BINS] += below[0]
    result[BINS - 1 : BINS - kept : -1] = below[1:]
    return result


@dataclass
class Histogram:
    """Counts of one tensor's values: `counts[BINS + bin]`, int64 of shape (2 * BINS,); index 0 is never used.

    `zeros` of the values in bin 0 are exactly zero: quantization represents them without error, however many they are.
    """

    exponent: int = SMALLEST_EXPONENT
    counts: Counts = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    zeros: int = 0

    def add(self, values: npt.NDArray[np.float32], magnitude: float, weight: int = 1) -> None:
        """Counts each of `values` `weight` times; none exceeds `magnitude`, and all are finite."""
        self.grow(exponent_of(magnitude))
        bins = np.multiply(values, np.float32(2.0 ** (BINS.bit_length() - 1 - self.exponent))).astype(np.int64)
        bins += BINS
        counts = np.bincount(bins, minlength=2 * BINS)
        self.counts += counts if weight == 1 else counts * weight
        self.zeros += weight * (values.size - int(np.count_nonzero(values)))

    def grow(self, exponent: int) -> None:
        """Makes the range at least `2**exponent`."""
        if exponent > self.exponent:
            self.counts = coarsened(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def merge(self, other: "Histogram") -> None:
        """Adds the values `other` counted."""
        self.grow(other.exponent)
        self.counts += coarsened(other.counts, self.exponent - other.exponent)
        self.zeros += other.zeros
