"""The range of each tensor on each sample alone: what tells outliers, repeated samples and how much samples differ."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SampleExtremes:
    """`minimum` and `maximum` (samples, tensors) of the samples `numbers` (samples,), which count from 0 and ascend.

    A tensor without elements on a sample has inf and -inf there.
    """

    numbers: npt.NDArray[np.int64]
    minimum: Singles
    maximum: Singles

    @classmethod
    def none(cls, tensors: int) -> "SampleExtremes":
        """Of no sample."""
        empty = np.zeros((0, tensors), np.float32)
        return cls(np.zeros(0, np.int64), empty, empty)

    @property
    def magnitude(self) -> Singles:
        """The largest absolute values, (samples, tensors); 0 without elements."""
        return np.maximum(np.maximum(-self.minimum, self.maximum), np.float32(0))

    def merged(self, other: "SampleExtremes") -> "SampleExtremes":
        """The extremes on all samples of both, in order; the order of two of one number follows from their values."""
        numbers = np.concatenate([self.numbers, other.numbers])
        low, high = np.concatenate([self.minimum, other.minimum]), np.concatenate([self.maximum, other.maximum])
        order = sorted(range(len(numbers)), key=lambda row: (numbers[row], low[row].tobytes(), high[row].tobytes()))
        return SampleExtremes(numbers[order], low[order], high[order])
