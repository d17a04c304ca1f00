"""How near two tensors are: cosine, signal to noise, errors, gain, saturation. Nothing is masked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHUNK = 1 << 13
"""Elements compared at a time: their float64 copies stay in the cache, and no dot product of so few wakes threads."""


@dataclass(frozen=True)
class Similarity:
    """What comparing an actual tensor with the expected one over some samples found.

    `cosine` is that of the worst sample; the others pool all samples. `sqnr_db` is 10 log10(signal / noise), infinite
    for identical tensors, `relative_l2` the norm of the error over that of the expected tensor, `max_error` the largest
    absolute error, `mean_error` the mean of actual - expected. `gain` is the factor on the expected tensor that comes
    nearest to the actual one: 1 is right, and no cosine sees it. `saturated_low` and `saturated_high` are the shares of
    expected values below and above what the actual type can hold. A NaN or infinity on either side makes cosines and
    errors NaN and counts in `not_finite`. Where the expected tensor is zero throughout, the cosines are 1 if the actual
    one is too, else 0, and the gain is 1.
    """

    samples: int
    elements: int
    cosine: float
    pooled_cosine: float
    sqnr_db: float
    relative_l2: float
    max_error: float
    mean_error: float
    gain: float
    saturated_low: float
    saturated_high: float
    not_finite: int
    expected_rms: float
    expected_min: float
    expected_max: float
    is_constant: bool
    expected_is_constant: bool

    @property
    def saturated(self) -> float:
        """The share of expected values that the actual type cannot hold."""
        return self.saturated_low + self.saturated_high


@dataclass
class _Sums:
    """Running sums of one sample, or of all."""

    signal: float = 0.0
    actual: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    error: float = 0.0

    def add(self, other: _Sums) -> None:
        self.signal += other.signal
        self.actual += other.actual
        self.product += other.product
        self.noise += other.noise
        self.error += other.error

    @property
    def cosine(self) -> float:
        if not math.isfinite(self.signal + self.actual):
            return math.nan
        if self.signal == 0 or self.actual == 0:
            return float(self.signal == self.actual)
        cosine = self.product / math.sqrt(self.signal) / math.sqrt(self.actual)
        return 1.0 if self.noise == 0 else min(1.0, cosine)


class Comparison:
    """Similarity of two tensors gathered sample by sample."""

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        """Expected values outside [low, high] cannot be held by the actual type."""
        self._low, self._high = low, high
        self._samples = self._elements = self._not_finite = self._below = self._above = 0
        self._sums = _Sums()
        self._max_error = 0.0
        self._cosine = math.inf
        self._expected = (math.inf, -math.inf)
        self._actual = (math.inf, -math.inf)

    def add(self, expected: Array, actual: Array) -> float:
        """Takes in one sample, arrays of one shape; returns its cosine."""
        if expected.shape != actual.shape:
            raise ValueError(f"shapes {expected.shape} and {actual.shape} cannot be compared")
        x, y = expected.reshape(-1), actual.reshape(-1)
        sums = _Sums()
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, x.size, CHUNK):
                self._add_chunk(x[start : start + CHUNK], y[start : start + CHUNK], sums)
        self._samples += 1
        self._elements += x.size
        self._sums.add(sums)
        cosine = sums.cosine
        self._cosine = cosine if math.isnan(cosine) else min(self._cosine, cosine)
        return cosine

    def _add_chunk(self, expected: Array, actual: Array, sums: _Sums) -> None:
        x, y = expected.astype(np.float64), actual.astype(np.float64)
        error = y - x
        sums.signal += float(x @ x)
        sums.actual += float(y @ y)
        sums.product += float(x @ y)
        sums.noise += float(error @ error)
        sums.error += float(error.sum())
        self._max_error = max(self._max_error, float(error.max()), -float(error.min()), key=_nan_last)
        if not math.isfinite(sums.signal + sums.actual):
            self._not_finite += int(x.size - np.count_nonzero(np.isfinite(x) & np.isfinite(y)))
        if self._low > -math.inf:
            self._below += int(np.count_nonzero(x < self._low))
            self._above += int(np.count_nonzero(x > self._high))
        self._expected = min(self._expected[0], float(x.min())), max(self._expected[1], float(x.max()))
        self._actual = min(self._actual[0], float(y.min())), max(self._actual[1], float(y.max()))

    def result(self) -> Similarity:
        """The similarity over all samples so far."""
        elements, sums = max(self._elements, 1), self._sums
        return Similarity(
            samples=self._samples,
            elements=self._elements,
            cosine=self._cosine,
            pooled_cosine=sums.cosine,
            sqnr_db=signal_to_noise(sums.signal, sums.noise),
            relative_l2=relative(sums.signal, sums.noise),
            max_error=self._max_error,
            mean_error=sums.error / elements,
            gain=sums.product / sums.signal if sums.signal else 1.0,
            saturated_low=self._below / elements,
            saturated_high=self._above / elements,
            not_finite=self._not_finite,
            expected_rms=math.sqrt(sums.signal / elements),
            expected_min=self._expected[0],
            expected_max=self._expected[1],
            is_constant=self._actual[0] == self._actual[1] and elements > 1,
            expected_is_constant=self._expected[0] == self._expected[1] and elements > 1,
        )


def similarity(expected: Array, actual: Array) -> Similarity:
    """The similarity of two tensors of one shape."""
    comparison = Comparison()
    comparison.add(expected, actual)
    return comparison.result()


def signal_to_noise(signal: float, noise: float) -> float:
    """10 log10(signal / noise) in dB: infinite without noise, minus infinite for noise where no signal is."""
    if math.isnan(signal) or math.isnan(noise) or math.isinf(signal):
        return math.nan
    if noise == 0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio else -math.inf


def relative(signal: float, noise: float) -> float:
    """The norm of the noise over that of the signal, from their energies; infinite for noise where no signal is."""
    if noise == 0:
        return 0.0
    return math.sqrt(noise / signal) if signal else math.inf


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
