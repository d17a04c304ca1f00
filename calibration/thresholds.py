"""Thresholds of all tensors from their statistics: max, percentile, kl, mse and aciq, vectorized over the tensors.

A threshold is the magnitude that maps to the end of the integer grid: to 127 for signed tensors, to 255 for those whose
exact minimum is not negative. Larger magnitudes saturate.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.histogram import BINS
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.errors import BadInput

SMALLEST_THRESHOLD = float(np.float32(1e-5))
"""Of a tensor that is zero on all samples: a scale must be positive. Source: tables written by TPU-MLIR 1.30."""

SIGNED_LEVELS, UNSIGNED_LEVELS = 127, 255

TENSORS_AT_ONCE = 16
"""Keeps the tables of candidates of kl and mse within the cache."""

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """How far a tensor's integer grid reaches, and the exact range seen; float32 values, as tables are written."""

    threshold: float
    min: float
    max: float


@dataclass(frozen=True)
class Magnitudes:
    """The distributions of |x|, one row a tensor, in units of the row's bin width.

    Of the values, `zeros` (tensors,) are exactly 0; the others, `counts` (tensors, BINS), spread evenly over their bin,
    but none exceeds `limit` (tensors,), the largest magnitude. The integer grid has `levels` (tensors,) steps.
    """

    counts: Reals
    zeros: Reals
    limit: Reals
    levels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, statistics: Statistics, width: Reals) -> "Magnitudes":
        """The distributions in `statistics` in units of `width`, negative values folded onto positive ones."""
        counts = statistics.counts[:, BINS:].astype(np.float64)
        counts[:, 1:] += statistics.counts[:, BINS - 1 : 0 : -1]
        counts[:, 0] -= statistics.zeros
        levels = np.where(statistics.minimum >= 0, UNSIGNED_LEVELS, SIGNED_LEVELS)
        return cls(counts, statistics.zeros.astype(np.float64), statistics.magnitude / width, levels)

    def parts(self) -> Iterator["Magnitudes"]:
        """The same, few tensors at a time."""
        for start in range(0, len(self.limit), TENSORS_AT_ONCE):
            rows = slice(start, start + TENSORS_AT_ONCE)
            yield Magnitudes(self.counts[rows], self.zeros[rows], self.limit[rows], self.levels[rows])

    @property
    def extents(self) -> Reals:
        """How far values spread in each bin, (tensors, BINS): 1 but for the bin of the largest."""
        return np.clip(self.limit[:, None] - np.arange(BINS), 1e-9, 1.0)

    @property
    def below(self) -> Reals:
        """The number of values below each bin edge, (tensors, BINS + 1)."""
        below = np.empty((len(self.limit), BINS + 1))
        below[:, 0] = self.zeros
        np.cumsum(self.counts, axis=1, out=below[:, 1:])
        below[:, 1:] += self.zeros[:, None]
        return below


def thresholds(statistics: Statistics, method: str = "mse", **options: Any) -> dict[str, Threshold]:
    """The threshold of each tensor by `method`, with its exact range.

    max: the largest magnitude. percentile (`percentile`=99.99): the magnitude that so many percent of the values do not
    exceed. kl (`bins`=2048, `levels`=128): the least divergence of the quantized distribution from the clipped one.
    mse: the least mean squared error on the very integer grid, clipping and rounding together. aciq: the same in closed
    form for the Laplace or the normal distribution, whichever has the tensor's moments.
    Raises BadInput for an unknown method or option. Cost: below 0.1 s for a hundred tensors.
    """
    if method not in METHODS:
        raise BadInput(f"unknown calibration method {method!r}; choose one of {', '.join(METHODS)}")
    width = np.ldexp(1.0 / BINS, statistics.exponent)
    magnitudes = Magnitudes.of(statistics, width)
    try:
        found = METHODS[method](magnitudes, **options)
    except TypeError as error:
        raise BadInput(f"calibration method {method} does not take these options ({error})") from error
    found = np.minimum(np.where(found > 0, found, magnitudes.limit), magnitudes.limit) * width
    found = np.where(found > 0, found, SMALLEST_THRESHOLD).astype(np.float32)
    seen = statistics.minimum <= statistics.maximum
    low, high = np.where(seen, statistics.minimum, 0.0), np.where(seen, statistics.maximum, 0.0)
    columns = (values.astype(np.float32).tolist() for values in (found, low, high))
    rows = zip(*columns, strict=True)
    return {name: Threshold(*row) for name, row in zip(statistics.names, rows, strict=True)}


def by_maximum(magnitudes: Magnitudes) -> Reals:
    """The largest magnitudes, in bins, (tensors,)."""
    return magnitudes.limit


def by_percentile(magnitudes: Magnitudes, percentile: float = 99.99) -> Reals:
    """The magnitudes that `percentile` percent of the values do not exceed, in bins, (tensors,)."""
    if not 0 < percentile <= 100:
        raise BadInput(f"a percentile lies above 0 and up to 100, not at {percentile}")
    if percentile == 100:
        return magnitudes.limit
    below = magnitudes.below
    wanted = below[:, -1] * (percentile / 100)
    at = np.arange(len(wanted)), np.argmax(below[:, 1:] >= wanted[:, None], axis=1)
    into = (wanted - below[at]) / np.maximum(magnitudes.counts[at], 1e-300)
    found: Reals = at[1] + np.clip(into, 0.0, 1.0) * magnitudes.extents[at]
    return found


def by_divergence(magnitudes: Magnitudes, bins: int = 2048, levels: int = 128) -> Reals:
    """The thresholds, in bins, (tensors,), of least Kullback-Leibler divergence among every 16th of `bins`.

    The reference is the distribution with everything above the threshold in its last bin; the candidate is the part
    below it averaged over `levels` groups of bins. Exact zeros count for neither: no grid misrepresents them.
    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """
    if not 1 < levels <= bins:
        raise BadInput(f"kl needs 1 < levels <= bins, not {levels} levels and {bins} bins")
    candidates = np.arange(levels, bins + 1, 16)
    groups = candidates[:, None] * np.arange(levels + 1) // levels
    divergences = [_divergences(_rebinned(part, bins), candidates, groups) for part in magnitudes.parts()]
    found: Reals = candidates[np.argmin(np.concatenate(divergences), axis=1)] / bins * magnitudes.limit
    return found


def _rebinned(magnitudes: Magnitudes, bins: int) -> Reals:
    """Counts in `bins` equal bins from 0 to the largest magnitude, (tensors, bins)."""
    edges = magnitudes.limit[:, None] * np.linspace(0, 1, bins + 1)
    at = np.minimum(edges.astype(np.int64), BINS - 1)
    inside = np.clip((edges - at) / np.take_along_axis(magnitudes.extents, at, 1), 0.0, 1.0)
    below = np.take_along_axis(magnitudes.below, at, 1) + inside * np.take_along_axis(magnitudes.counts, at, 1)
    return np.diff(below, axis=1)


def _divergences(counts: Reals, candidates: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Reals:
    """The divergence times the number of values, up to a constant, (tensors, candidates).

    With the reference p, group sums S over n bins in use, and N values of which C lie below the candidate, it is
    sum p log p - sum_group (sum p) log(S / n) + N log C, all of it from running sums.
    """
    total = counts.sum(axis=1)[:, None]
    last = counts[:, candidates - 1]
    below = _running(counts)
    clipped = total - below[:, candidates]
    entropy = _running(_x_log_x(counts))[:, candidates - 1] + _x_log_x(last + clipped)
    sums = np.diff(below[:, groups], axis=2)
    used = np.diff(_running((counts > 0).astype(np.float64))[:, groups], axis=2)
    used[:, :, -1] += (last == 0) & (clipped > 0)
    reference = sums.copy()
    reference[:, :, -1] += clipped
    quantized = np.log(np.maximum(sums, 1e-9) / np.maximum(used, 1.0))
    divergence: Reals = entropy - (reference * quantized).sum(axis=2)
    divergence += total * np.log(np.maximum(below[:, candidates], 1e-9))
    return divergence


def by_squared_error(magnitudes: Magnitudes) -> Reals:
    """The thresholds, in bins, (tensors,), of least squared error on the integer grid, to about half a percent."""
    return np.concatenate([_least_squared_error(part) for part in magnitudes.parts()])


def _least_squared_error(magnitudes: Magnitudes) -> Reals:
    """As `by_squared_error`: a logarithmic search over 1/32 to 1 of the largest magnitude, then two finer ones."""
    error = SquaredError.of(magnitudes)
    best: Reals = magnitudes.limit / np.sqrt(32.0)
    reach = np.sqrt(32.0)
    for points in (33, 9, 9):
        tried = np.minimum(best[:, None] * reach ** np.linspace(-1, 1, points), magnitudes.limit[:, None])
        best = tried[np.arange(len(best)), np.argmin(error.at(tried), axis=1)]
        reach = reach ** (2 / (points - 1))
    return best


@dataclass(frozen=True)
class SquaredError:
    """The squared error of quantization as a function of the threshold, from the integral of the distribution.

    With steps s = T / L, values below (j - 1/2) s round to less than j s, and with F the number of values below x
    the error is sum (x - T)^2 - 2 s sum_j integral_0^((j - 1/2) s) F(x) dx, by parts; the integral is quadratic
    in each bin.
    """

    integral: Reals
    below: Reals
    curvature: Reals
    moments: tuple[Reals, Reals, Reals]
    levels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, magnitudes: Magnitudes) -> "SquaredError":
        """The function for each of the tensors."""
        counts, extents, below = magnitudes.counts, magnitudes.extents, magnitudes.below
        lower = np.arange(BINS)
        moments = (
            below[:, -1],
            (counts * (lower + extents / 2)).sum(axis=1),
            (counts * (lower**2 + lower * extents + extents**2 / 3)).sum(axis=1),
        )
        integral = _running(below[:, :-1] + counts / 2)
        return cls(integral, below, counts / (2 * extents), moments, magnitudes.levels)

    def at(self, candidates: Reals) -> Reals:
        """The squared error for thresholds (tensors, candidates)."""
        error = np.empty_like(candidates)
        zeroth, first, second = self.moments
        for row, levels in enumerate(self.levels):
            step = candidates[row, :, None] / levels
            edges = step * (np.arange(levels) + 0.5)
            bins = edges.astype(np.int64)
            inside = edges - bins
            integral = self.curvature[row][bins] * inside
            integral += self.below[row][bins]
            integral *= inside
            integral += self.integral[row][bins]
            spread = second[row] - 2 * candidates[row] * first[row] + candidates[row] ** 2 * zeroth[row]
            error[row] = spread - 2 * step[:, 0] * integral.sum(axis=1)
        return error


def by_moments(magnitudes: Magnitudes) -> Reals:
    """The thresholds, in bins, (tensors,), of least squared error if the values were Laplacian or normal.

    Which of the two is told by E[x^2] / E[|x|]^2, which is 2 for the one and pi / 2 for the other. Exact zeros count
    for neither moment: they are neither clipped nor rounded.
    Source: Banner, Nahshan, Soudry, Post training 4-bit quantization of convolutional networks (ACIQ), NeurIPS 2019.
    """
    counts, extents, lower = magnitudes.counts, magnitudes.extents, np.arange(BINS)
    number = np.maximum(counts.sum(axis=1), 1.0)
    mean = (counts * (lower + extents / 2)).sum(axis=1) / number
    square = (counts * (lower**2 + lower * extents + extents**2 / 3)).sum(axis=1) / number
    grids = {levels: _clips(levels) for levels in (SIGNED_LEVELS, UNSIGNED_LEVELS)}
    laplace, normal = np.array([grids[int(levels)] for levels in magnitudes.levels]).T
    is_laplace = square > math.sqrt(math.pi) * mean**2
    found: Reals = np.where(is_laplace, laplace * mean, normal * np.sqrt(square))
    return found


def _clips(levels: int) -> tuple[float, float]:
    """Where a grid of `levels` steps best ends: in mean magnitudes of a Laplacian, and in deviations of a normal.

    There the loss by clipping falls as fast as the rounding noise T^2 / (12 levels^2) rises with the threshold T.
    """

    def laplacian_fall(threshold: float) -> float:
        return 2 * math.exp(-threshold)

    def normal_fall(threshold: float) -> float:
        density, beyond = math.sqrt(2 / math.pi) * math.exp(-(threshold**2) / 2), math.erfc(threshold / math.sqrt(2))
        return 2 * (density - threshold * beyond)

    def balance(fall: Callable[[float], float]) -> float:
        low, high = 1.0, 20.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if middle / (6 * levels**2) < fall(middle) else (low, middle)
        return low

    return balance(laplacian_fall), balance(normal_fall)


def _running(values: Reals) -> Reals:
    """Sums of the first 0, 1, ... values of each row."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _x_log_x(values: Reals) -> Reals:
    return values * np.log(np.maximum(values, 1e-300))


METHODS: dict[str, Callable[..., Reals]] = {
    "max": by_maximum,
    "percentile": by_percentile,
    "kl": by_divergence,
    "mse": by_squared_error,
    "aciq": by_moments,
}
