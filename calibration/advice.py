"""What calibration can tell of its samples: are there enough, which stand out or repeat, are they preprocessed well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tpu_deploy.calibration.histogram import BINS, Counts
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.thresholds import thresholds

ENOUGH = 0.1
"""The relative standard error that nine of ten thresholds shall not exceed: the noise of INT8 hardly feels it."""

FEWEST_FOR_OUTLIERS = 8
"""Of fewer samples none is usual."""

STRANGE = 4.5
"""Robust deviations from the median, of half of the tensors, from which on a sample stands out."""

STRANGE_INPUT = 8.0
"""How many times larger or smaller than the median an input's largest value must be to stand out by itself."""

NAMED = 3
"""How many samples a line of advice names."""


@dataclass(frozen=True)
class Confidence:
    """How sure thresholds are: relative standard errors, from those of both halves of the samples.

    `errors` is by tensor; `median` and `most` are what half and nine of ten of them do not exceed, `worst` names the
    largest. `wanted` is about how many samples would bring `most` to ENOUGH.
    """

    method: str
    errors: Mapping[str, float]
    median: float
    most: float
    worst: str
    wanted: int

    @property
    def is_enough(self) -> bool:
        """Whether more samples would change little."""
        return self.most <= ENOUGH


@dataclass(frozen=True)
class Outlier:
    """Sample number `sample` (from 0), and in words what is unlike the others."""

    sample: int
    reason: str


@dataclass(frozen=True)
class Suspicion:
    """A mistake of preprocessing that the samples look like: `kind` is scale, mean, colour order or layout."""

    kind: str
    message: str


@dataclass(frozen=True)
class Advice:
    """All that is to be said; `duplicates` are pairs of samples, the later one first. Numbers count from 0."""

    samples: int
    confidence: Confidence | None = None
    outliers: tuple[Outlier, ...] = ()
    duplicates: tuple[tuple[int, int], ...] = ()
    suspicions: tuple[Suspicion, ...] = ()

    def lines(self) -> list[str]:
        """The advice for a terminal, the gravest first."""
        lines = [f"suspected: {each.message}" for each in self.suspicions]
        lines += _listed("outlier", [f"sample {each.sample} {each.reason}" for each in self.outliers])
        lines += _listed("repeated", [f"sample {again} is sample {first}" for again, first in self.duplicates])
        return [*lines, self._samples_line()]

    def _samples_line(self) -> str:
        count = f"samples: {self.samples}"
        if self.duplicates:
            count += f", {self.samples - len(self.duplicates)} of them different"
        if self.confidence is None:
            return f"{count}, too few to know how sure the thresholds are; some 20 to 100 are usual"
        found = self.confidence
        sure = f"half of the thresholds are known to {found.median:.1%}, nine of ten to {found.most:.1%}"
        verdict = "enough" if found.is_enough else f"about {found.wanted} would be enough (worst: {found.worst})"
        return f"{count}, {verdict}; {sure}"

    def to_json(self) -> dict[str, Any]:
        """The advice as plain data."""
        return asdict(self)


def _listed(title: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return [f"{title}: {'; '.join(found[:NAMED])}{more}"]


def advise(
    statistics: Statistics, method: str, inputs: Iterable[str] = (), suspicions: Sequence[Suspicion] = ()
) -> Advice:
    """The advice on the samples behind `statistics`, for thresholds by `method`; `inputs` are the network's.

    Where most samples are copies nothing is said of how sure thresholds are: both halves hold the same.
    """
    repeated = duplicates(statistics)
    sure = confidence(statistics, method) if 2 * len(repeated) < statistics.samples else None
    return Advice(statistics.samples, sure, outliers(statistics, inputs), repeated, tuple(suspicions))


def confidence(statistics: Statistics, method: str) -> Confidence | None:
    """How sure the thresholds by `method` are; None when only one half of the samples has any.

    The error of the mean of two halves is half their difference: taken on a logarithmic scale. It holds for what
    varies from sample to sample; that of a single tensor is rough, those of all tensors together are not.
    """
    even = _part(statistics, statistics.even_counts, statistics.even_zeros)
    odd_counts = statistics.counts - statistics.even_counts
    odd = _part(statistics, odd_counts, statistics.zeros - statistics.even_zeros)
    seen = (statistics.even_counts.any(axis=1) & odd_counts.any(axis=1)) | (statistics.magnitude == 0)
    if not len(seen) or not seen.all():
        return None
    ours, theirs = (thresholds(half, method) for half in (even, odd))
    errors = {name: abs(math.log(ours[name].threshold / theirs[name].threshold)) / 2 for name in statistics.names}
    values = np.array(list(errors.values()))
    most = float(np.quantile(values, 0.9))
    wanted = math.ceil(statistics.samples * max(1.0, most / ENOUGH) ** 2)
    worst = statistics.names[int(values.argmax())]
    return Confidence(method, errors, float(np.median(values)), most, worst, _rounded(wanted))


def _rounded(count: int) -> int:
    """The count with one digit, as an estimate deserves."""
    unit: int = 10 ** (len(str(count)) - 1)
    return -(-count // unit) * unit


def _part(statistics: Statistics, counts: Counts, zeros: Counts) -> Statistics:
    """The statistics of one half: its own histograms, and ranges no wider than these."""
    width = np.ldexp(1.0 / BINS, statistics.exponent)
    used = counts != 0
    top = (2 * BINS - used[:, ::-1].argmax(axis=1) - BINS) * width
    bottom = (used.argmax(axis=1) - BINS) * width
    low = np.where(statistics.minimum >= 0, statistics.minimum, np.maximum(statistics.minimum, bottom))
    high = np.maximum(np.minimum(statistics.maximum, top), low)
    return replace(statistics, counts=counts, zeros=zeros, minimum=low, maximum=high)


def outliers(statistics: Statistics, inputs: Iterable[str] = ()) -> tuple[Outlier, ...]:
    """Samples whose largest values are unlike the others' in most tensors, or whose input is, or is one value."""
    extremes, named = statistics.extremes, set(inputs)
    magnitudes = extremes.magnitude.astype(np.float64)
    if len(magnitudes) < FEWEST_FOR_OUTLIERS:
        return ()
    ours = np.array([name in named for name in statistics.names], bool)
    usual = np.median(magnitudes, axis=0)
    used = usual > 0
    logs = np.log2(np.maximum(magnitudes[:, used], 1e-30) / usual[used])
    spread = np.maximum(1.4826 * np.median(np.abs(logs), axis=0), 0.05)
    strange = np.median(np.abs(logs) / spread, axis=1) if used.any() else np.zeros(len(magnitudes))
    found = []
    for row, number in enumerate(extremes.numbers.tolist()):
        factors = 2.0 ** logs[row, ours[used]]
        far = [factor for factor in factors if not 1 / STRANGE_INPUT < factor < STRANGE_INPUT]
        if ours.any() and (extremes.minimum[row, ours] == extremes.maximum[row, ours]).all():
            found.append(Outlier(number, "is a single value throughout"))
        elif far:
            found.append(Outlier(number, f"has an input whose largest value is {far[0]:.3g} times the usual"))
        elif strange[row] > STRANGE:
            times = 2.0 ** float(np.median(logs[row]))
            found.append(Outlier(number, f"reaches {times:.2g} times the usual range in the middle tensor"))
    return tuple(found)


def duplicates(statistics: Statistics) -> tuple[tuple[int, int], ...]:
    """Samples that have the very range of an earlier one in every tensor: (sample, earlier sample)."""
    extremes = statistics.extremes
    first: dict[bytes, int] = {}
    found = []
    for row, number in enumerate(extremes.numbers.tolist()):
        key = extremes.minimum[row].tobytes() + extremes.maximum[row].tobytes()
        if key in first:
            found.append((number, first[key]))
        first.setdefault(key, number)
    return tuple(found)
