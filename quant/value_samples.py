"""Values of tensors drawn from some samples, and what quantizing their channels would cost, without quantizing them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

BINS = 512
"""Bins of a channel's histogram, between its own extremes."""


@dataclass(frozen=True)
class ValueSamples:
    """A tensor on some samples: per sample and channel some values drawn, and the extremes of all.

    `drawn` (samples, channels, positions), `lowest` and `highest` (samples, channels), float32. Tensors without
    channels have one.
    """

    drawn: Float32Array
    lowest: Float32Array
    highest: Float32Array

    def part(self, samples: slice) -> ValueSamples:
        """Only some of the samples."""
        return ValueSamples(self.drawn[samples], self.lowest[samples], self.highest[samples])

    def clipped(self, low: float, high: float) -> ValueSamples:
        """The tensor with all that lies outside a range moved to its ends."""
        return ValueSamples(*(np.clip(a, low, high) for a in (self.drawn, self.lowest, self.highest)))

    @property
    def power(self) -> Float64Array:
        """The mean square of each channel."""
        return np.asarray(np.mean(np.square(self.drawn, dtype=np.float64), axis=(0, 2)))

    @property
    def variance(self) -> Float64Array:
        """The variance of each channel."""
        return np.asarray(np.var(self.drawn, axis=(0, 2), dtype=np.float64))


@dataclass(frozen=True)
class ChannelDistributions:
    """Per channel the number, sum and sum of squares, over the number of all, of values below each bin edge.

    `start` and `width` (channels) place the BINS bins; `moments` is (3, channels, BINS + 1).
    """

    start: Float64Array
    width: Float64Array
    moments: Float64Array

    @classmethod
    def of(cls, samples: ValueSamples) -> ChannelDistributions:
        """The distributions of the values drawn."""
        rows = samples.drawn.transpose(1, 0, 2).reshape(samples.drawn.shape[1], -1).astype(np.float64)
        channels, count = rows.shape
        start = np.minimum(rows.min(1), 0.0)
        width = np.maximum((np.maximum(rows.max(1), 0.0) - start) / BINS, 1e-30)
        bins = np.minimum(((rows - start[:, None]) / width[:, None]).astype(np.int64), BINS - 1)
        bins += BINS * np.arange(channels)[:, None]
        moments = np.zeros((3, channels, BINS + 1))
        for moment, weights in zip(moments, (None, rows, rows * rows), strict=True):
            flat = None if weights is None else weights.reshape(-1)
            sums = np.bincount(bins.reshape(-1), flat, channels * BINS).reshape(channels, BINS)
            np.cumsum(sums / count, axis=1, out=moment[:, 1:])
        return cls(start, width, moments)

    def below(self, limits: Float64Array) -> Float64Array:
        """Number, sum and sum of squares of the values below `limits` (channels, candidates): (3, ...)."""
        places = np.clip((limits - self.start[:, None]) / self.width[:, None], 0, BINS)
        bins = np.minimum(places.astype(np.int64), BINS - 1)
        channels = np.arange(len(bins))[:, None]
        left, right = self.moments[:, channels, bins], self.moments[:, channels, bins + 1]
        return np.asarray(left + (places - bins) * (right - left))

    def noise(self, low: Float64Array, high: Float64Array, step: Float64Array) -> Float64Array:
        """The mean squared error of rounding to multiples of `step` between `low` and `high`, (channels, candidates).

        Values of less than half a step become zero; others err evenly over a step.
        """
        whole = self.moments[:, :, -1:]
        upper, lower = whole - self.below(high), self.below(low)
        small = self.below(np.minimum(step / 2, high)) - self.below(np.maximum(-step / 2, low))
        clipped = upper[2] - 2 * high * upper[1] + high**2 * upper[0]
        clipped += lower[2] - 2 * low * lower[1] + low**2 * lower[0]
        inside = np.maximum(whole[0] - upper[0] - lower[0] - small[0], 0.0)
        return np.asarray(np.maximum(clipped, 0.0) + np.maximum(small[2], 0.0) + step**2 / 12 * inside)
