"""Where a layer's error comes from: shares that sum to 1, and what is born in it rather than passed on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.reports import similarity
from tpu_deploy.reports.channels import by_channel, channel_count
from tpu_deploy.reports.similarity import relative

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]

PARTS = ("activation_clipping", "activation_rounding", "weight_rounding", "requantization", "table")
"""What an error can come from, in the order in which a layer is made less exact."""

TOLERANCE = 1e-6
"""How far from 1 the shares of an error may sum: float64 sums of some ten million products."""


@dataclass(frozen=True)
class Executions:
    """A layer's real results on one sample of float operands, each execution less exact than the one before.

    `exact`: float operands and weights. `clipped`: operands cut to what their stored types hold. `rounded`: operands as
    they are stored. `weighted`: weights as they are stored, too, sums in real numbers. `cut`: this cut to what the type
    of the result holds. `actual`: the arithmetic of the chip. None where a step changes nothing. `by_table` says that
    a table of function values makes the last step.
    """

    exact: Array
    clipped: Array | None
    rounded: Array | None
    weighted: Array | None
    cut: Array | None
    actual: Array
    by_table: bool


@dataclass(frozen=True)
class Shares:
    """Shares of the energy of a layer's isolated error; the first five sum to 1, or are all 0 without an error.

    A share is <e_k, e> / <e, e>, where e is the whole error over all samples and e_k the difference between two
    successive executions; e is the sum of the e_k, hence the sum. A negative share makes up for part of another.
    `requantization` is everything behind the sums: multiplier, shift, rounding and saturation of the result; in a layer
    that is a look-up `table` stands in its place. `result_clipping` is the part of these two that is saturation.
    """

    activation_clipping: float = 0.0
    activation_rounding: float = 0.0
    weight_rounding: float = 0.0
    requantization: float = 0.0
    table: float = 0.0
    result_clipping: float = 0.0


class Attribution:
    """The shares of one layer's error, gathered sample by sample."""

    def __init__(self) -> None:
        self._energy = self._result_clipping = 0.0
        self._parts = dict.fromkeys(PARTS, 0.0)

    def add(self, made: Executions) -> None:
        """Takes in the executions of one sample."""
        last = "table" if made.by_table else "requantization"
        steps = [
            ("activation_clipping", made.clipped),
            ("activation_rounding", made.rounded),
            ("weight_rounding", made.weighted),
            (last, made.actual),
        ]
        flat = [(part, array.reshape(-1)) for part, array in steps if array is not None]
        exact, actual = made.exact.reshape(-1), made.actual.reshape(-1)
        cut = None if made.cut is None else made.cut.reshape(-1)
        chunk = similarity.CHUNK
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, exact.size, chunk):
                index = slice(start, start + chunk)
                before = exact[index].astype(np.float64)
                error = actual[index] - before
                self._energy += float(error @ error)
                for part, array in flat:
                    if part == last and cut is not None:
                        self._result_clipping += float((cut[index] - before) @ error)
                    after = array[index].astype(np.float64)
                    self._parts[part] += float((after - before) @ error)
                    before = after

    def shares(self) -> Shares:
        """The shares over all samples so far; all NaN where the error is not finite."""
        if self._energy == 0:
            return Shares()
        parts = {part: product / self._energy for part, product in self._parts.items()}
        return Shares(**parts, result_clipping=self._result_clipping / self._energy)


@dataclass(frozen=True)
class Origin:
    """How much of a tensor's accumulated error its layer adds, and how much it is given.

    `born` is the norm of what the chip's layer makes of its actual operands less what the float layer makes of them,
    `passed` that of the latter less the float tensor; both over the norm of the float tensor. The accumulated error is
    their sum, as vectors. `gain` is the factor the layer's own arithmetic has over the float layer's; 1 is right.
    `channel` has the largest part of the born energy, `channel_share`; -1 where there are no channels or no error.
    """

    born: float
    passed: float
    gain: float
    channel: int = -1
    channel_share: float = 0.0

    @property
    def born_share(self) -> float:
        """The born energy over the sum of both; 0 without any."""
        total = self.born**2 + self.passed**2
        return self.born**2 / total if total and math.isfinite(total) else float(math.isinf(self.born))


class OriginSums:
    """The origin of one tensor's error, gathered sample by sample."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._channels = channel_count(shape)
        self._signal = self._passed = self._given = self._product = 0.0
        self._born: Float64Array = np.zeros(max(self._channels, 1))

    def add(self, exact: Array, given: Array, actual: Array) -> None:
        """Takes in one sample: the float tensor, the float layer on actual operands, the chip's tensor."""
        planes = [by_channel(array) for array in (exact, given, actual)]
        images, channels, positions = planes[0].shape
        step = max(1, similarity.CHUNK // channels)
        with np.errstate(invalid="ignore", over="ignore"):
            for image in range(images):
                for start in range(0, positions, step):
                    self._add_chunk(*(plane[image, :, start : start + step].astype(np.float64) for plane in planes))

    def _add_chunk(self, exact: Float64Array, given: Float64Array, actual: Float64Array) -> None:
        born = actual - given
        self._born += np.einsum("cx,cx->c", born, born)
        self._signal += float(np.vdot(exact, exact))
        self._given += float(np.vdot(given, given))
        self._product += float(np.vdot(given, actual))
        passed = given - exact
        self._passed += float(np.vdot(passed, passed))

    def origin(self) -> Origin:
        """What was found over all samples."""
        total = float(self._born.sum())
        gain = self._product / self._given if self._given else 1.0
        channel, share = -1, 0.0
        if self._channels > 1 and total > 0:
            channel = int(self._born.argmax())
            share = float(self._born[channel]) / total
        return Origin(relative(self._signal, total), relative(self._signal, self._passed), gain, channel, share)
