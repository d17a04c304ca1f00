"""What one pass over the samples leaves behind: exact ranges and histograms per tensor, saved, loaded and merged."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.arrays import why_unreadable
from tpu_deploy.calibration.channels import ChannelStatistics, merged, packed, unpacked
from tpu_deploy.calibration.extremes import SampleExtremes
from tpu_deploy.calibration.histogram import BINS, Counts, coarsened
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing

SCHEMA = 2
"""Version of the file layout: a reader refuses any other."""

Array = npt.NDArray[Any]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Ranges and histograms of the tensors `names` over `samples` samples of the model with hash `model_hash`.

    `minimum` and `maximum` (tensors,) are exact; a tensor that never had an element has inf and -inf. `counts`
    (tensors, 2 * BINS) are histograms on the grids `exponent` (tensors,), of which `zeros` (tensors,) count values that
    are exactly zero (histogram.py says what a bin is). They are estimated from about `values_per_tensor` values a
    sample and the tail (recorder.py says how), or with 0 count every value. `even_counts` and `even_zeros` are the part
    of them from batches of even number: how much halves of the samples differ tells how sure a threshold is.
    `channels` holds range and sum of each channel in one batch out of a few, and `extremes` the range of each tensor on
    each sample alone.
    """

    names: tuple[str, ...]
    minimum: Reals
    maximum: Reals
    exponent: npt.NDArray[np.int32]
    counts: Counts
    zeros: Counts
    even_counts: Counts
    even_zeros: Counts
    extremes: SampleExtremes
    samples: int
    model_hash: str
    values_per_tensor: int = 0
    channels: Mapping[str, ChannelStatistics] = field(default_factory=dict)

    @property
    def magnitude(self) -> Reals:
        """The exact largest absolute value of each tensor, of shape (tensors,); 0 for one without elements."""
        return np.where(self.minimum <= self.maximum, np.maximum(np.abs(self.minimum), np.abs(self.maximum)), 0.0)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes an .npz whose bytes depend on the content alone. Raises BadInput when it cannot be written."""
        with replacing(path) as stream:
            np.savez(cast(BinaryIO, stream), allow_pickle=False, **self.to_arrays())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Statistics":
        """The statistics that `save` wrote. Raises BadInput when the file is anything else."""
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return cls.from_arrays(arrays, str(path))
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; calibrate first") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path}: is not a statistics file ({why_unreadable(error)}); calibrate again") from error

    def to_arrays(self) -> dict[str, Array]:
        """The statistics as arrays by name, the names of tensors and such in a header of JSON."""
        shapes, channels = packed(self.channels)
        header = {
            "schema": SCHEMA,
            "model_hash": self.model_hash,
            "samples": self.samples,
            "bins": BINS,
            "values_per_tensor": self.values_per_tensor,
            "tensors": list(self.names),
            "channels": shapes,
        }
        return {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "minimum": self.minimum,
            "maximum": self.maximum,
            "exponent": self.exponent,
            "zeros": self.zeros,
            **_spans("", self.counts),
            "even_zeros": self.even_zeros,
            **_spans("even_", self.even_counts),
            **channels,
            "sample_numbers": self.extremes.numbers,
            "sample_minimum": self.extremes.minimum,
            "sample_maximum": self.extremes.maximum,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], source: str) -> "Statistics":
        """What `to_arrays` gave. Raises BadInput for those of another version, ValueError or KeyError for others."""
        header: dict[str, Any] = json.loads(bytes(arrays["header"]))
        if header["schema"] != SCHEMA:
            age = "a newer" if header["schema"] > SCHEMA else "an older"
            raise BadInput(f"{source}: written by {age} version (schema {header['schema']}); calibrate again")
        names = tuple(header["tensors"])
        if header["bins"] != BINS:
            raise ValueError(f"histograms of {header['bins']} bins, not {BINS}")
        vectors = {key: arrays[key] for key in ("minimum", "maximum", "exponent", "zeros", "even_zeros")}
        if any(vector.shape != (len(names),) for vector in vectors.values()):
            raise ValueError("array lengths differ from the number of tensors")
        return cls(
            names=names,
            counts=_counts("", arrays, len(names)),
            even_counts=_counts("even_", arrays, len(names)),
            extremes=SampleExtremes(*(arrays[f"sample_{key}"] for key in ("numbers", "minimum", "maximum"))),
            samples=int(header["samples"]),
            model_hash=str(header["model_hash"]),
            values_per_tensor=int(header["values_per_tensor"]),
            channels=unpacked(header["channels"], arrays),
            **vectors,
        )


def _spans(prefix: str, counts: Counts) -> dict[str, Array]:
    """Of each row the part between its first and last count, and where that lies."""
    used = counts != 0
    first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
    last = np.where(used.any(axis=1), 2 * BINS - used[:, ::-1].argmax(axis=1), 0)
    spans = [row[start:end] for row, start, end in zip(counts, first, last, strict=True)]
    return {
        f"{prefix}span": np.stack([first, last], axis=1).astype(np.int32),
        f"{prefix}counts": np.concatenate([*spans, np.zeros(0, np.int64)]),
    }


def _counts(prefix: str, arrays: Mapping[str, Array], tensors: int) -> Counts:
    """What `_spans` cut out, whole again: (tensors, 2 * BINS)."""
    counts = np.zeros((tensors, 2 * BINS), np.int64)
    spans, cut = arrays[f"{prefix}span"], arrays[f"{prefix}counts"]
    ends = np.cumsum(spans[:, 1] - spans[:, 0])
    for row, (first, last), end in zip(counts, spans, ends, strict=True):
        row[first:last] = cut[end - (last - first) : end]
    return counts


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both sets of samples together; associative, and the order does not matter.

    Raises BadInput when they are of different models, tensors or sampling.
    """
    if a.model_hash != b.model_hash:
        raise BadInput(f"statistics of two models cannot be merged ({a.model_hash} and {b.model_hash})")
    if a.names != b.names:
        odd = sorted(set(a.names) ^ set(b.names)) or ["their order"]
        raise BadInput(f"statistics of different tensors cannot be merged (they differ in {odd[0]})")
    if a.values_per_tensor != b.values_per_tensor:
        raise BadInput("statistics that sample a different number of values per tensor cannot be merged")
    exponent = np.maximum(a.exponent, b.exponent)
    return replace(
        a,
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
        exponent=exponent,
        counts=_regridded(a, a.counts, exponent) + _regridded(b, b.counts, exponent),
        zeros=a.zeros + b.zeros,
        even_counts=_regridded(a, a.even_counts, exponent) + _regridded(b, b.even_counts, exponent),
        even_zeros=a.even_zeros + b.even_zeros,
        extremes=a.extremes.merged(b.extremes),
        samples=a.samples + b.samples,
        channels=merged(a.names, a.channels, b.channels),
    )


def _regridded(statistics: Statistics, counts: Counts, exponent: npt.NDArray[np.int32]) -> Counts:
    """The counts of all tensors on the grids `exponent`."""
    steps = exponent - statistics.exponent
    return np.stack([coarsened(row, int(step)) for row, step in zip(counts, steps, strict=True)])
