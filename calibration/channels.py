"""What is known of each channel of a tensor, recorded and merged in any order: exact range, exactly summed values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.channel_walk import channel_count, channel_reductions
from tpu_deploy.calibration.exact_sums import ExactSums

WAITING_TOTALS = 32
"""How many tensors' sums wait to be added together: a few numbers at a time cost as much as many."""

Array = npt.NDArray[Any]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStatistics:
    """Exact range and sum of each channel of one tensor: `minimum`, `maximum` and `sums` of (channels,) along `axis`.

    Each channel had `elements` values. `sums` adds, without rounding, what each sample's channel sums to in float32. A
    tensor whose samples differ in their number of channels has none.
    """

    axis: int
    minimum: Reals
    maximum: Reals
    sums: ExactSums
    elements: int

    @property
    def mean(self) -> Reals:
        """The mean of each channel, of shape (channels,)."""
        return self.sums.divided(max(self.elements, 1))

    def merged(self, other: "ChannelStatistics") -> "ChannelStatistics":
        """The statistics of both sets of samples."""
        if self.minimum.shape != other.minimum.shape:
            return ChannelStatistics(self.axis, np.zeros(0), np.zeros(0), ExactSums(0), 0)
        sums = self.sums.copy()
        sums.merge(other.sums)
        low, high = np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum)
        return ChannelStatistics(self.axis, low, high, sums, self.elements + other.elements)


ByTensor = Mapping[str, ChannelStatistics]


def merged(names: Sequence[str], a: ByTensor, b: ByTensor) -> dict[str, ChannelStatistics]:
    """By tensor, in the order of `names`, the statistics of both sets of samples; one may never have met a tensor."""
    both = {name: [each[name] for each in (a, b) if name in each] for name in names}
    return {name: found[0].merged(found[1]) if found[1:] else found[0] for name, found in both.items() if found}


@dataclass
class ChannelRecord:
    """The channels of one tensor, while samples come in; their sums wait until there are enough to add together."""

    axis: int
    minimum: Array
    maximum: Array
    sums: ExactSums
    elements: int = 0
    _waiting: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, axis: int, channels: int) -> "ChannelRecord":
        """The record before any sample."""
        empty = np.full(channels, np.inf, np.float32)
        return cls(axis, empty, -empty, ExactSums(channels))

    def add(self, values: Array, block: int) -> None:
        """Takes in a tensor whose channels come in blocks; once their number differs, there are none."""
        if channel_count(values.shape) != self.sums.size:
            self.minimum = self.maximum = np.zeros(0, np.float32)
            self.sums, self.elements = ExactSums(0), 0
            self._waiting.clear()
            return
        low, high, totals = channel_reductions(values, block)
        self.minimum, self.maximum = np.minimum(self.minimum, low), np.maximum(self.maximum, high)
        self.elements += values.size // self.sums.size
        self._waiting.append(totals)
        if len(self._waiting) >= WAITING_TOTALS:
            self._settle()

    def statistics(self) -> ChannelStatistics:
        """All that came in."""
        self._settle()
        low, high = self.minimum.astype(np.float64), self.maximum.astype(np.float64)
        return ChannelStatistics(self.axis, low, high, self.sums, self.elements)

    def _settle(self) -> None:
        if self._waiting:
            self.sums.add(np.concatenate(self._waiting))
            self._waiting.clear()


def packed(channels: ByTensor) -> tuple[dict[str, list[int]], dict[str, Array]]:
    """For a file: axis, channels and elements by tensor, and all tensors' numbers one after another.

    The arrays are `channel_minimum` and `channel_maximum` (channels of all,), and `channel_sums` (places, channels of
    all) of the places `channel_places` (exact_sums.py says what a place is).
    """
    entries = list(channels.values())
    shapes = {name: [each.axis, len(each.minimum), each.elements] for name, each in channels.items()}
    places = sorted({place for each in entries for place in each.sums.settled()})
    sums = np.zeros((len(places), sum(each.sums.size for each in entries)), np.int64)
    for row, place in zip(sums, places, strict=True):
        row[:] = np.concatenate([each.sums.places.get(place, np.zeros(each.sums.size, np.int64)) for each in entries])
    return shapes, {
        "channel_minimum": np.concatenate([np.zeros(0), *(each.minimum for each in entries)]),
        "channel_maximum": np.concatenate([np.zeros(0), *(each.maximum for each in entries)]),
        "channel_places": np.array(places, np.int64),
        "channel_sums": sums,
    }


def unpacked(shapes: Mapping[str, list[int]], arrays: Mapping[str, Array]) -> dict[str, ChannelStatistics]:
    """What `packed` made arrays of. Raises ValueError when they do not fit each other."""
    found, start = {}, 0
    places, sums = arrays["channel_places"].tolist(), arrays["channel_sums"]
    if sums.shape != (len(places), sum(size for _, size, _ in shapes.values())):
        raise ValueError("channels differ in number from their sums")
    for name, (axis, size, elements) in shapes.items():
        part = slice(start, start + size)
        exact = ExactSums(size, dict(zip(places, sums[:, part], strict=True)))
        low, high = arrays["channel_minimum"][part], arrays["channel_maximum"][part]
        found[name] = ChannelStatistics(axis, low, high, exact, elements)
        start += size
    return found
