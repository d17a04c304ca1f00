"""The choice of types for tensors whose channels have factors in common, by what their noise costs who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tpu_deploy.quant.plan import TensorQuantization
from tpu_deploy.quant.value_samples import ChannelDistributions, ValueSamples
from tpu_deploy.quant.weights import WEIGHT_LIMIT

Float64Array = npt.NDArray[np.float64]

POWERS, SLACKS = (0.25, 0.5, 0.75, 1.0), (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Factors tried: `min(1, slack * r) ** power`, r being the range of the channel over that of the tensor.

A channel may go beyond what was seen of it (slack), and small channels make weights large (power).
"""

LEAST_FACTOR = 1 / 128

WEIGHT_SHARE = 0.5
"""How much of the noise that rounding weights to nearest makes is taken to remain after they are fitted."""

LEAST_GAIN = 0.03
"""Factors that take less than this share of the noise away are not worth having."""

NOTHING = 1e-30
"""Ranges and powers below this are those of tensors that are zero."""


@dataclass(frozen=True)
class Reader:
    """What reads a tensor: what noise costs there, over the power of what is made.

    `gains` (channels) weigh the noise of each channel. The `magnitudes` (outputs, channels, taps) of a dense product's
    weights are rounded after they have taken the factors in, and meet values of this `variance` (channels).
    """

    gains: Float64Array
    magnitudes: Float64Array | None = None
    variance: Float64Array | None = None

    def weight_noise(self, factors: Float64Array) -> float:
        """What rounding the weights costs when the channels have these factors."""
        if self.magnitudes is None or self.variance is None:
            return 0.0
        steps = (self.magnitudes * factors[:, None]).max(axis=(1, 2)) / WEIGHT_LIMIT
        rounding = float(np.sum(steps**2)) / 12 * self.magnitudes.shape[2]
        return float(WEIGHT_SHARE * rounding * np.sum(self.variance / factors**2))


@dataclass(frozen=True)
class Extremes:
    """Per channel the smallest and largest value of a tensor over some samples."""

    lowest: Float64Array
    highest: Float64Array

    @classmethod
    def of(cls, samples: ValueSamples) -> Extremes:
        """Those of all the samples."""
        return cls(samples.lowest.min(0).astype(np.float64), samples.highest.max(0).astype(np.float64))


@dataclass(frozen=True)
class Member:
    """A tensor: the type it has, its extremes over the samples types are chosen on (`seen`) and over all (`whole`), how
    its values are distributed in the samples that judge, and who reads it.
    """

    kind: TensorQuantization
    seen: Extremes
    whole: Extremes
    judging: ChannelDistributions
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class _Shape:
    """A choice of factors: `min(1, slack * r) ** power`."""

    power: float = 0.0
    slack: float = 1.0

    def factors(self, extremes: Sequence[Extremes]) -> Float64Array:
        """The factors, r being the widest of all the tensors, each over its own range; a single 1 where none differ."""
        if self.power == 0:
            return np.ones(1)
        spread = np.zeros(len(extremes[0].lowest))
        for ends in extremes:
            reach = np.maximum(ends.highest, -ends.lowest)
            spread = np.maximum(spread, reach / max(float(reach.max()), NOTHING))
        found = np.maximum(np.minimum(1.0, self.slack * spread) ** self.power, LEAST_FACTOR)
        factors: Float64Array = found / found.max()
        return factors


@dataclass(frozen=True)
class _Candidate:
    """A choice of factors with the number of the best type for each set of tensors, and their noise together."""

    noise: float
    shape: _Shape
    chosen: tuple[int, ...]


def chosen_types(parts: Sequence[Sequence[Member]], axis: int, zero_points: bool) -> list[TensorQuantization]:
    """The type of each part, tensors of one type; all of them have the same factors of the channels of `axis`.

    Candidates are made from what was `seen`, judged on other samples, and the best is made anew from the `whole`.
    """
    shapes = [_Shape()]
    if len(parts[0][0].seen.lowest) > 1:
        shapes += [_Shape(power, slack) for power in POWERS for slack in SLACKS]
    plain, *others = [_judged(parts, shape, zero_points) for shape in shapes]
    best = min([plain, *others], key=lambda candidate: candidate.noise)
    if best.noise > (1 - LEAST_GAIN) * plain.noise:
        best = plain
    factors = best.shape.factors([member.whole for part in parts for member in part])
    kinds = []
    for part, index in zip(parts, best.chosen, strict=True):
        kind = _types(part[0].kind, [member.whole for member in part], factors, zero_points)[index]
        has_factors = factors.min() < 1
        kinds.append(replace(kind, factors=tuple(factors.tolist()), axis=axis) if has_factors else kind)
    return kinds


def _judged(parts: Sequence[Sequence[Member]], shape: _Shape, zero_points: bool) -> _Candidate:
    factors = shape.factors([member.seen for part in parts for member in part])
    noise, chosen = 0.0, []
    for part in parts:
        kinds = _types(part[0].kind, [member.seen for member in part], factors, zero_points)
        found = _noise(part, kinds, factors)
        chosen.append(int(found.argmin()))
        noise += float(found.min())
        noise += sum(reader.weight_noise(factors) for member in part for reader in member.readers)
    return _Candidate(noise, shape, tuple(chosen))


def _noise(part: Sequence[Member], kinds: Sequence[TensorQuantization], factors: Float64Array) -> Float64Array:
    """What tensors of one type cost their readers, for each of `kinds`."""
    lows, highs = np.array([k.low for k in kinds]), np.array([k.high for k in kinds])
    steps, wide = np.array([k.scale for k in kinds]), factors[:, None]
    noise = np.zeros(len(kinds))
    for member in part:
        found = member.judging.noise(lows * wide, highs * wide, steps * wide)
        for reader in member.readers:
            noise += reader.gains @ found
    return noise


def _types(
    old: TensorQuantization, extremes: Sequence[Extremes], factors: Float64Array, zero_points: bool
) -> list[TensorQuantization]:
    """The types tried, as many and in the same order for any extremes: the old one where there are no factors, else
    such of the same signedness as reach the whole range.
    """
    low, high = bounds(extremes, factors)
    has_zero_point = zero_points and old.dtype == "int8"
    if factors.min() == 1:
        return [old, between(old, max(low, old.low), min(high, old.high))] if has_zero_point else [old]
    made = [replace(old, scale=max(-low, high, NOTHING) / (255 if old.dtype == "uint8" else 127), zero_point=0)]
    return [*made, between(old, low, high)] if has_zero_point else made


def bounds(extremes: Sequence[Extremes], factors: Float64Array) -> tuple[float, float]:
    """The least and greatest value of any channel over its factor; zero lies between them."""
    low = min(0.0, *(float((e.lowest / factors).min()) for e in extremes))
    high = max(0.0, *(float((e.highest / factors).max()) for e in extremes))
    return low, high


def between(kind: TensorQuantization, low: float, high: float) -> TensorQuantization:
    """The signed type that covers a range around zero, with the factors of `kind`."""
    step = max(high - low, NOTHING) / 255
    zero_point = min(max(round(-128 - low / step), -128), 127)
    return replace(kind, dtype="int8", scale=step, zero_point=zero_point)
