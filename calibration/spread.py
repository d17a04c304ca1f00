"""A few samples from all over the data, kept while they pass by."""

from collections.abc import Sequence

from tpu_deploy.calibration.feeds import Feed

MOST_SAMPLES, MOST_BYTES = 64, 48 << 20
"""How many are kept, and how large they may be together."""


class SpreadSamples:
    """Every n-th sample, so that all parts of the data are represented; the first ones where nobody knows how many."""

    def __init__(self, total: int | None, most: int = MOST_SAMPLES) -> None:
        """`total` is the number of samples where it is known; `most` are kept."""
        self._total = total
        self._most = most
        self._kept: dict[int, Feed] = {}

    def offer(self, number: int, feed: Feed) -> None:
        """Keeps the sample or not; several threads may offer theirs."""
        if not self._most:
            return
        size = sum(array.nbytes for array in feed.values())
        most = max(1, min(self._most, MOST_BYTES // max(1, size)))
        stride = 1 if self._total is None else -(-self._total // most)
        if number % stride == 0 and number // stride < most:
            self._kept[number] = feed

    def feeds(self) -> Sequence[Feed]:
        """The samples kept, in order."""
        return [self._kept[number] for number in sorted(self._kept)]
