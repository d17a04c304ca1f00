"""What a stream of samples leaves behind, tensor by tensor: exact ranges, and histograms of sampled bulk and full tail.

Thresholds hang on the tail, so all values beyond a cutoff are counted, found by folding the tensor while its maximum is
taken. Of those below, one in `stride` is counted that many times: the counts estimate those of all values.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.channel_walk import channel_axis, channel_count
from tpu_deploy.calibration.channels import ChannelRecord
from tpu_deploy.calibration.extremes import SampleExtremes
from tpu_deploy.calibration.histogram import Histogram
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.errors import CheckFailed

WAITING_ARRAYS, WAITING_VALUES = 8, 1 << 16
"""How much waits to be counted together: counting few values at a time costs more than moving them twice."""

FOLD = 16
"""Values folded into one maximum."""

FOLDS_SEARCHED, SHARE_SEARCHED = 1024, 16
"""So many folds, or one in so many of a large tensor, are searched for their tail; of more, a sample counts for all."""

SAMPLES_REMEMBERED = 4096
"""Samples whose own extremes are kept, from the first on."""

CHANNEL_STRIDE = 8
"""Channels are looked at in one batch out of so many: it takes longer than all else that is recorded."""

LARGEST = float(np.finfo(np.float32).max)

Array = npt.NDArray[Any]
Part = Literal["all", "below", "beyond"]
Waiting = tuple[int, int, int, Part]


class Recorder:
    """Ranges and histograms of the tensors `names`, each recorded by its index."""

    def __init__(
        self,
        names: Sequence[str],
        values_per_tensor: int,
        *,
        cutoffs: Sequence[float] = (),
        blocks: Mapping[str, int] | None = None,
    ) -> None:
        """Counts about `values_per_tensor` values a sample, or with 0 all, and all beyond the tensor's cutoff.

        The channels of the tensors `blocks` names come in blocks of so many.
        """
        self.names = tuple(names)
        self._values_per_tensor = values_per_tensor
        self._cutoffs = [np.float32(cutoff) for cutoff in cutoffs or [math.inf] * len(names)]
        self._blocks = [(blocks or {}).get(name, 1) for name in names]
        self._minimum = [math.inf] * len(names)
        self._maximum = [-math.inf] * len(names)
        self._histograms = [(Histogram(), Histogram()) for _ in names]
        self._waiting: dict[Waiting, list[Array]] = {}
        self._channels: dict[int, ChannelRecord] = {}
        self._samples: dict[int, tuple[Array, Array]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded."""
        return not np.isfinite(self._minimum).any()

    def record(self, index: int, values: Array, sample: int, rows: int = 1, batch: int | None = None) -> None:
        """Takes in the `values` of one run: `rows` samples, the first of which is number `sample`.

        `batch` is the number of the run where that is another than the sample's. Raises CheckFailed when a value is NaN
        or infinite.
        """
        flat = values.reshape(-1)
        if not flat.size:
            return
        number = sample if batch is None else batch
        step = stride(flat.size, self._values_per_tensor * rows) if self._values_per_tensor else 1
        folds = flat[: flat.size // FOLD * FOLD if step > 1 else 0].reshape(FOLD, -1)
        rest = flat[folds.size :]
        peaks = np.maximum.reduce(folds, axis=0)
        low = float(np.minimum.reduce(flat))
        high = float(np.maximum.reduce(peaks if not rest.size else np.concatenate((peaks, rest))))
        if not (low >= -LARGEST and high <= LARGEST):  # also when NaN, which low is then
            raise self._breakdown(index, low, sample, rows)
        self._minimum[index] = min(low, self._minimum[index])
        self._maximum[index] = max(high, self._maximum[index])
        self._record_samples(index, (low, high), values, sample, rows)
        if number % CHANNEL_STRIDE == 0:
            self._record_channels(index, values)
        half = number % 2
        if step == 1:
            for start in range(0, flat.size, WAITING_VALUES):
                self._wait((index, half, 1, "all"), flat[start : start + WAITING_VALUES])
            return
        self._wait((index, half, step, "below"), flat[sample * 40503 % step :: step])
        cutoff = self._cutoffs[index]
        beyond = peaks > cutoff
        if low < -cutoff:
            beyond |= np.minimum.reduce(folds, axis=0) < -cutoff
        (found,) = beyond.nonzero()
        weight = 1 << (found.size // max(FOLDS_SEARCHED, peaks.size // SHARE_SEARCHED)).bit_length()
        self._wait((index, half, weight, "beyond"), folds[:, found[sample % weight :: weight]].reshape(-1))
        self._wait((index, half, 1, "beyond"), rest)

    def statistics(self, model_hash: str) -> Statistics:
        """All that was recorded, as statistics of 0 samples."""
        for waiting in list(self._waiting):
            self._count(waiting)
        wholes = [_united(*halves) for halves in self._histograms]
        evens = [even for even, _ in self._histograms]
        return Statistics(
            names=self.names,
            minimum=np.array(self._minimum, np.float64),
            maximum=np.array(self._maximum, np.float64),
            exponent=np.array([histogram.exponent for histogram in wholes], np.int32),
            counts=np.stack([histogram.counts for histogram in wholes]),
            zeros=np.array([histogram.zeros for histogram in wholes], np.int64),
            even_counts=np.stack([histogram.counts for histogram in evens]),
            even_zeros=np.array([histogram.zeros for histogram in evens], np.int64),
            extremes=self._extremes(),
            samples=0,
            model_hash=model_hash,
            values_per_tensor=self._values_per_tensor,
            channels={self.names[index]: record.statistics() for index, record in sorted(self._channels.items())},
        )

    def _record_samples(self, index: int, whole: tuple[float, float], values: Array, sample: int, rows: int) -> None:
        """Notes the range on each sample; where the first axis is not the batch, that of all rows for each."""
        low, high = ([end] for end in whole)
        if rows > 1 and values.shape[0] % rows == 0:
            low, high = values.reshape(rows, -1).min(axis=1), values.reshape(rows, -1).max(axis=1)
        for row in range(min(rows, SAMPLES_REMEMBERED - sample)):
            if sample + row not in self._samples:
                empty = np.full(len(self.names), np.inf, np.float32)
                self._samples[sample + row] = empty, -empty
            minimum, maximum = self._samples[sample + row]
            minimum[index], maximum[index] = low[row % len(low)], high[row % len(high)]

    def _record_channels(self, index: int, values: Array) -> None:
        if index not in self._channels:
            self._channels[index] = ChannelRecord.of(channel_axis(values.ndim), channel_count(values.shape))
        self._channels[index].add(values, self._blocks[index])

    def _extremes(self) -> SampleExtremes:
        if not self._samples:
            return SampleExtremes.none(len(self.names))
        numbers = sorted(self._samples)
        low, high = (np.stack([self._samples[number][side] for number in numbers]) for side in (0, 1))
        return SampleExtremes(np.array(numbers, np.int64), low, high)

    def _wait(self, key: Waiting, values: Array) -> None:
        """Remembers the values until enough of them wait."""
        if values.size:
            waiting = self._waiting.setdefault(key, [])
            waiting.append(values.astype(np.float32))
            if len(waiting) >= WAITING_ARRAYS or values.size >= WAITING_VALUES:
                self._count(key)

    def _count(self, key: Waiting) -> None:
        """Puts those of the waiting values that are in the part into the histogram."""
        index, half, weight, part = key
        values = np.concatenate(self._waiting.pop(key))
        if part == "below":
            values = values[np.abs(values) <= self._cutoffs[index]]
        elif part == "beyond":
            values = values[np.abs(values) > self._cutoffs[index]]
        magnitude = np.float32(max(-self._minimum[index], self._maximum[index]))
        self._histograms[index][half].add(values, float(magnitude), weight)

    def _breakdown(self, index: int, low: float, sample: int, rows: int) -> CheckFailed:
        what = "NaN" if math.isnan(low) else "infinity"
        where = f"sample {sample}" if rows == 1 else f"one of the samples {sample} to {sample + rows - 1}"
        return CheckFailed(
            f"tensor {self.names[index]!r} holds {what} on {where}: the float network breaks there, "
            "before any quantization; check its weights and the sample"
        )


def _united(even: Histogram, odd: Histogram) -> Histogram:
    """Both halves in one histogram; the even one is brought onto its grid."""
    whole = Histogram()
    whole.merge(even)
    whole.merge(odd)
    even.grow(whole.exponent)
    return whole


@functools.cache
def stride(size: int, wanted: int) -> int:
    """The distance between sampled values: about `wanted` of `size`, and sharing no divisor with `size`.

    So that the samples of any tensor wander through all its rows, columns and channels.
    """
    step = max(1, size // wanted)
    while math.gcd(step, size) > 1:
        step += 1
    return step
