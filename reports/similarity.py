"""How near two tensors are: cosine, signal to noise, relative and largest error, saturation. Nothing is masked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHUNK = 1 << 18
"""Elements compared at a time: their float64 copies stay in the processor's cache."""


@dataclass(frozen=True)
class Similarity:
    """What comparing an actual tensor with the expected one over some samples found.

    `cosine` is that of the worst sample; the others pool all samples. `sqnr_db` is 10 log10(signal / noise), infinite
    for identical tensors, `relative_l2` the norm of the error over that of the expected tensor, `max_error` the largest
    absolute error. `saturated` is the share of expected values that the actual type cannot hold. A NaN or infinity on
    either side makes cosine and errors NaN and counts in `not_finite`. Where the expected tensor is zero throughout,
    the cosine is 1 if the actual one is too, else 0.
    """

    samples: int
    elements: int
    cosine: float
    sqnr_db: float
    relative_l2: float
    max_error: float
    saturated: float
    not_finite: int
    expected_min: float
    expected_max: float
    is_constant: bool
    expected_is_constant: bool


@dataclass
class _Sums:
    """Running sums of one sample."""

    signal: float = 0.0
    actual: float = 0.0
    product: float = 0.0
    noise: float = 0.0


class Comparison:
    """Similarity of two tensors gathered sample by sample."""

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        """Expected values outside [low, high] cannot be held by the actual type."""
        self._low, self._high = low, high
        self._samples = self._elements = self._not_finite = self._saturated = 0
        self._signal = self._noise = self._max_error = 0.0
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
        self._signal += sums.signal
        self._noise += sums.noise
        cosine = _cosine(sums)
        self._cosine = cosine if math.isnan(cosine) else min(self._cosine, cosine)
        return cosine

    def _add_chunk(self, expected: Array, actual: Array, sums: _Sums) -> None:
        x, y = expected.astype(np.float64), actual.astype(np.float64)
        error = y - x
        sums.signal += float(x @ x)
        sums.actual += float(y @ y)
        sums.product += float(x @ y)
        sums.noise += float(error @ error)
        self._max_error = max(self._max_error, float(np.abs(error).max()), key=_nan_last)
        if not math.isfinite(sums.signal + sums.actual):
            self._not_finite += int(x.size - np.count_nonzero(np.isfinite(x) & np.isfinite(y)))
        if self._low > -math.inf:
            self._saturated += int(np.count_nonzero((x < self._low) | (x > self._high)))
        self._expected = min(self._expected[0], float(x.min())), max(self._expected[1], float(x.max()))
        self._actual = min(self._actual[0], float(y.min())), max(self._actual[1], float(y.max()))

    def result(self) -> Similarity:
        """The similarity over all samples so far."""
        elements = max(self._elements, 1)
        return Similarity(
            samples=self._samples,
            elements=self._elements,
            cosine=self._cosine,
            sqnr_db=signal_to_noise(self._signal, self._noise),
            relative_l2=_relative(self._signal, self._noise),
            max_error=self._max_error,
            saturated=self._saturated / elements,
            not_finite=self._not_finite,
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


def _relative(signal: float, noise: float) -> float:
    if noise == 0:
        return 0.0
    return math.sqrt(noise / signal) if signal else math.inf


def _cosine(sums: _Sums) -> float:
    if not math.isfinite(sums.signal + sums.actual):
        return math.nan
    if sums.signal == 0 or sums.actual == 0:
        return float(sums.signal == sums.actual)
    cosine = sums.product / math.sqrt(sums.signal) / math.sqrt(sums.actual)
    return 1.0 if sums.noise == 0 else min(1.0, cosine)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
