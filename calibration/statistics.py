"""What one pass over the samples leaves behind: exact ranges and histograms per tensor, saved, loaded and merged."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.histogram import BINS, Counts, coarsened
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing

SCHEMA = 1
"""Version of the file layout: a reader refuses a newer one."""

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelRange:
    """Exact range of each channel of one tensor: `minimum` and `maximum` of shape (channels,) along `axis`."""

    axis: int
    minimum: Reals
    maximum: Reals


@dataclass(frozen=True)
class Statistics:
    """Ranges and histograms of the tensors `names` over `samples` samples of the model with hash `model_hash`.

    `minimum` and `maximum` (tensors,) are exact; a tensor that never had an element has inf and -inf. `counts`
    (tensors, 2 * BINS) are histograms on the grids `exponent` (tensors,), of which `zeros` (tensors,) count values that
    are exactly zero (histogram.py says what a bin is). They are estimated from about `values_per_tensor` values a
    sample and the tail (recorder.py says how), or with 0 count every value.
    """

    names: tuple[str, ...]
    minimum: Reals
    maximum: Reals
    exponent: npt.NDArray[np.int32]
    counts: Counts
    zeros: Counts
    samples: int
    model_hash: str
    values_per_tensor: int = 0
    channels: Mapping[str, ChannelRange] = field(default_factory=dict)

    @property
    def magnitude(self) -> Reals:
        """The exact largest absolute value of each tensor, of shape (tensors,); 0 for one without elements."""
        return np.where(self.minimum <= self.maximum, np.maximum(np.abs(self.minimum), np.abs(self.maximum)), 0.0)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes an .npz whose bytes depend on the content alone. Raises BadInput when it cannot be written."""
        with replacing(path) as stream:
            np.savez(cast(BinaryIO, stream), allow_pickle=False, **self._arrays())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Statistics":
        """The statistics that `save` wrote. Raises BadInput when the file is anything else."""
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                header = json.loads(bytes(arrays["header"]))
                if header["schema"] > SCHEMA:
                    raise BadInput(f"{path}: written by a newer version (schema {header['schema']}); calibrate again")
                return cls._from_arrays(header, arrays)
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; calibrate first") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path}: is not a statistics file ({error}); calibrate again") from error

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        header = {
            "schema": SCHEMA,
            "model_hash": self.model_hash,
            "samples": self.samples,
            "bins": BINS,
            "values_per_tensor": self.values_per_tensor,
            "tensors": list(self.names),
            "channels": {name: entry.axis for name, entry in self.channels.items()},
        }
        used = self.counts != 0
        first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
        last = np.where(used.any(axis=1), 2 * BINS - used[:, ::-1].argmax(axis=1), 0)
        spans = [row[start:end] for row, start, end in zip(self.counts, first, last, strict=True)]
        arrays: dict[str, npt.NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "minimum": self.minimum,
            "maximum": self.maximum,
            "exponent": self.exponent,
            "zeros": self.zeros,
            "span": np.stack([first, last], axis=1).astype(np.int32),
            "counts": np.concatenate([*spans, np.zeros(0, np.int64)]),
        }
        for index, entry in enumerate(self.channels.values()):
            arrays[f"channel_minimum.{index}"] = entry.minimum
            arrays[f"channel_maximum.{index}"] = entry.maximum
        return arrays

    @classmethod
    def _from_arrays(cls, header: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> "Statistics":
        names = tuple(header["tensors"])
        if header["bins"] != BINS:
            raise ValueError(f"histograms of {header['bins']} bins, not {BINS}")
        counts = np.zeros((len(names), 2 * BINS), np.int64)
        spans, packed = arrays["span"], arrays["counts"]
        ends = np.cumsum(spans[:, 1] - spans[:, 0])
        for row, (first, last), end in zip(counts, spans, ends, strict=True):
            row[first:last] = packed[end - (last - first) : end]
        channels = {
            name: ChannelRange(axis, arrays[f"channel_minimum.{index}"], arrays[f"channel_maximum.{index}"])
            for index, (name, axis) in enumerate(header["channels"].items())
        }
        vectors = {key: arrays[key] for key in ("minimum", "maximum", "exponent", "zeros")}
        if any(vector.shape != (len(names),) for vector in vectors.values()):
            raise ValueError("array lengths differ from the number of tensors")
        return cls(
            names=names,
            counts=counts,
            samples=int(header["samples"]),
            model_hash=str(header["model_hash"]),
            values_per_tensor=int(header["values_per_tensor"]),
            channels=channels,
            **vectors,
        )


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both sets of samples together; associative, and the order does not matter.

    Raises BadInput when they are of different models, tensors or sampling.
    """
    if a.model_hash != b.model_hash:
        raise BadInput(f"statistics of two models cannot be merged ({a.model_hash} and {b.model_hash})")
    if a.names != b.names or a.channels.keys() != b.channels.keys():
        odd = sorted(set(a.names) ^ set(b.names)) or ["their order"]
        raise BadInput(f"statistics of different tensors cannot be merged (they differ in {odd[0]})")
    if a.values_per_tensor != b.values_per_tensor:
        raise BadInput("statistics that sample a different number of values per tensor cannot be merged")
    exponent = np.maximum(a.exponent, b.exponent)
    channels = {}
    for name, x in a.channels.items():
        y = b.channels[name]
        if x.minimum.shape != y.minimum.shape:
            raise BadInput(f"statistics cannot be merged: tensor {name} has another number of channels")
        low, high = np.minimum(x.minimum, y.minimum), np.maximum(x.maximum, y.maximum)
        channels[name] = ChannelRange(x.axis, low, high)
    return replace(
        a,
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
        exponent=exponent,
        counts=_regridded(a, exponent) + _regridded(b, exponent),
        zeros=a.zeros + b.zeros,
        samples=a.samples + b.samples,
        channels=channels,
    )


def _regridded(statistics: Statistics, exponent: npt.NDArray[np.int32]) -> Counts:
    """The counts of all tensors on the grids `exponent`."""
    steps = exponent - statistics.exponent
    return np.stack([coarsened(row, int(step)) for row, step in zip(statistics.counts, steps, strict=True)])
