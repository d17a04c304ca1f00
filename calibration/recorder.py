"""What a stream of samples leaves behind, tensor by tensor: exact ranges, and histograms of sampled bulk and full tail.

Thresholds hang on the tail, so all values beyond a cutoff are counted, found by folding the tensor while its maximum is
taken. Of those below, one in `stride` is counted that many times: the counts estimate those of all values.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.histogram import Histogram
from tpu_deploy.calibration.statistics import ChannelRange, Statistics
from tpu_deploy.errors import BadInput, CheckFailed

WAITING_ARRAYS, WAITING_VALUES = 8, 1 << 16
"""How much waits to be counted together: counting few values at a time costs more than moving them twice."""

FOLD = 16
"""Values folded into one maximum; multiples of 16 channels leave no remainder."""

FOLDS_SEARCHED, SHARE_SEARCHED = 1024, 16
"""So many folds, or one in so many of a large tensor, are searched for their tail; of more, a sample counts for all."""

LARGEST = float(np.finfo(np.float32).max)

Array = npt.NDArray[Any]
Part = Literal["all", "below", "beyond"]


class Recorder:
    """Ranges and histograms of the tensors `names`, each recorded by its index."""

    def __init__(
        self, names: Sequence[str], values_per_tensor: int, *, per_channel: bool = False, cutoffs: Sequence[float] = ()
    ) -> None:
        """Counts about `values_per_tensor` values a sample, or with 0 all, and all beyond the tensor's cutoff."""
        self.names = tuple(names)
        self._values_per_tensor = values_per_tensor
        self._per_channel = per_channel
        self._cutoffs = [np.float32(cutoff) for cutoff in cutoffs or [math.inf] * len(names)]
        self._minimum = [math.inf] * len(names)
        self._maximum = [-math.inf] * len(names)
        self._histograms = [Histogram() for _ in names]
        self._waiting: dict[tuple[int, int, Part], list[Array]] = {}
        self._channels: dict[int, tuple[int, Array, Array]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded."""
        return not np.isfinite(self._minimum).any()

    def record(self, index: int, values: Array, sample: int, rows: int = 1) -> None:
        """Takes in the `values` of one run: `rows` samples, the first of which is number `sample`.

        Raises CheckFailed when one of them is NaN or infinite.
        """
        flat = values.reshape(-1)
        if not flat.size:
            return
        step = stride(flat.size, self._values_per_tensor * rows) if self._values_per_tensor else 1
        folds = flat[: flat.size // FOLD * FOLD if step > 1 else 0].reshape(FOLD, -1)
        rest = flat[folds.size :]
        peaks = np.maximum.reduce(folds, axis=0)
        low = float(np.minimum.reduce(flat))
        high = float(max(np.maximum.reduce(part) for part in (peaks, rest) if part.size))
        if not (low >= -LARGEST and high <= LARGEST):  # also when NaN, which low is then
            raise self._breakdown(index, low, sample, rows)
        self._minimum[index] = min(low, self._minimum[index])
        self._maximum[index] = max(high, self._maximum[index])
        if self._per_channel and values.ndim > 1:
            self._record_channels(index, values)
        if step == 1:
            for start in range(0, flat.size, WAITING_VALUES):
                self._wait(index, flat[start : start + WAITING_VALUES], 1, "all")
            return
        self._wait(index, flat[sample * 40503 % step :: step], step, "below")
        cutoff = self._cutoffs[index]
        beyond = peaks > cutoff
        if low < -cutoff:
            beyond |= np.minimum.reduce(folds, axis=0) < -cutoff
        found = np.flatnonzero(beyond)
        weight = 1 << (found.size // max(FOLDS_SEARCHED, peaks.size // SHARE_SEARCHED)).bit_length()
        self._wait(index, folds[:, found[sample % weight :: weight]].reshape(-1), weight, "beyond")
        self._wait(index, rest, 1, "beyond")

    def statistics(self, model_hash: str) -> Statistics:
        """All that was recorded, as statistics of 0 samples."""
        for index, weight, part in list(self._waiting):
            self._count(index, weight, part)
        channels = {
            self.names[index]: ChannelRange(axis, low.astype(np.float64), high.astype(np.float64))
            for index, (axis, low, high) in sorted(self._channels.items())
        }
        return Statistics(
            names=self.names,
            minimum=np.array(self._minimum, np.float64),
            maximum=np.array(self._maximum, np.float64),
            exponent=np.array([histogram.exponent for histogram in self._histograms], np.int32),
            counts=np.stack([histogram.counts for histogram in self._histograms]),
            zeros=np.array([histogram.zeros for histogram in self._histograms], np.int64),
            samples=0,
            model_hash=model_hash,
            values_per_tensor=self._values_per_tensor,
            channels=channels,
        )

    def _wait(self, index: int, values: Array, weight: int, part: Part) -> None:
        """Remembers the values until enough of them wait."""
        if values.size:
            waiting = self._waiting.setdefault((index, weight, part), [])
            waiting.append(values.astype(np.float32))
            if len(waiting) >= WAITING_ARRAYS or values.size >= WAITING_VALUES:
                self._count(index, weight, part)

    def _count(self, index: int, weight: int, part: Part) -> None:
        """Puts those of the waiting values that are in `part` into the histogram."""
        values = np.concatenate(self._waiting.pop((index, weight, part)))
        if part == "below":
            values = values[np.abs(values) <= self._cutoffs[index]]
        elif part == "beyond":
            values = values[np.abs(values) > self._cutoffs[index]]
        magnitude = np.float32(max(-self._minimum[index], self._maximum[index]))
        self._histograms[index].add(values, float(magnitude), weight)

    def _record_channels(self, index: int, values: Array) -> None:
        axis = channel_axis(values.ndim)
        others = tuple(other for other in range(values.ndim) if other != axis)
        low, high = values.min(axis=others), values.max(axis=others)
        if index in self._channels:
            _, old_low, old_high = self._channels[index]
            if old_low.shape != low.shape:
                raise BadInput(
                    f"tensor {self.names[index]!r} has {low.size} channels on one sample, {old_low.size} on another; "
                    "calibrate without per-channel ranges"
                )
            low, high = np.minimum(low, old_low), np.maximum(high, old_high)
        self._channels[index] = (axis, low, high)

    def _breakdown(self, index: int, low: float, sample: int, rows: int) -> CheckFailed:
        what = "NaN" if math.isnan(low) else "infinity"
        where = f"sample {sample}" if rows == 1 else f"one of the samples {sample} to {sample + rows - 1}"
        return CheckFailed(
            f"tensor {self.names[index]!r} holds {what} on {where}: the float network breaks there, "
            "before any quantization; check its weights and the sample"
        )


def channel_axis(rank: int) -> int:
    """The axis of channels: the last of (batch, position, channel), else axis 1."""
    return 2 if rank == 3 else 1


@functools.cache
def stride(size: int, wanted: int) -> int:
    """The distance between sampled values: about `wanted` of `size`, and sharing no divisor with `size`.

    So that the samples of any tensor wander through all its rows, columns and channels.
    """
    step = max(1, size // wanted)
    while math.gcd(step, size) > 1:
        step += 1
    return step
