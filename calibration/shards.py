"""Calibration in parts: which samples a shard takes, its statistics as a file, and all shards joined to one run's.

Batches are dealt out in turn, and a batch is counted as it would be in one run: every shard knows its number among all
samples and takes its cutoffs from the first of all. So the joined statistics are those of one run, bit for bit, on
machines whose onnxruntime computes the same bits.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from os import PathLike
from typing import Any, BinaryIO, cast

import numpy as np

from tpu_deploy.calibration.arrays import why_unreadable
from tpu_deploy.calibration.feeds import Array, Feed
from tpu_deploy.calibration.statistics import Statistics, merge
from tpu_deploy.calibration.table import tool_version
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing

SAMPLE_KEY, STATISTICS_KEY = "sample.", "statistics."


@dataclass(frozen=True)
class Shard:
    """Number `number` (from 1) of `count` equal parts of the samples."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard written as `2/4`. Raises BadInput for anything else."""
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise BadInput(f"--shard {text}: is not NUMBER/COUNT; write for example 2/4 for the second of four parts")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def owns(self, batch: int) -> bool:
        """Whether the batch of this number (from 0) is one of the shard's."""
        return batch % self.count == self.number - 1

    def share(self, samples: int, slots: int) -> int:
        """How many of `samples` samples in batches of `slots` are the shard's."""
        return sum(
            min(slots, samples - first) for first in range((self.number - 1) * slots, samples, self.count * slots)
        )


WHOLE = Shard(1, 1)
"""All samples."""


@dataclass(frozen=True)
class PartialStatistics:
    """What one shard found. `run` describes the whole run: what differs in it does not belong together.

    `first_samples` are the first of all samples, which the first shard alone holds.
    """

    shard: Shard
    statistics: Statistics
    run: Mapping[str, str]
    first_samples: tuple[Feed, ...] = ()

    def save(self, path: str | PathLike[str]) -> None:
        """Writes an .npz whose bytes depend on the content alone. Raises BadInput when it cannot be written."""
        names = sorted(self.first_samples[0]) if self.first_samples else []
        header = {
            "shard": asdict(self.shard),
            "run": dict(self.run),
            "version": tool_version(),
            "inputs": names,
            "kept": len(self.first_samples),
        }
        arrays = {"part": np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)}
        arrays |= {STATISTICS_KEY + key: array for key, array in self.statistics.to_arrays().items()}
        for number, feed in enumerate(self.first_samples):
            arrays |= {f"{SAMPLE_KEY}{number}.{index}": feed[name] for index, name in enumerate(names)}
        with replacing(path) as stream:
            np.savez(cast(BinaryIO, stream), allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "PartialStatistics":
        """What `save` wrote. Raises BadInput when the file is anything else, or of another version."""
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return cls._of(arrays, str(path))
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; write it with --shard") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(
                f"{path}: is no part of a calibration ({why_unreadable(error)}); write it with --shard"
            ) from error

    @classmethod
    def _of(cls, arrays: Mapping[str, Array], path: str) -> "PartialStatistics":
        header: dict[str, Any] = json.loads(bytes(arrays["part"]))
        if header["version"] != tool_version():
            raise BadInput(f"{path}: written by version {header['version']}, this is {tool_version()}; calibrate again")
        first = tuple(
            {name: arrays[f"{SAMPLE_KEY}{number}.{index}"] for index, name in enumerate(header["inputs"])}
            for number in range(header["kept"])
        )
        held = {key.removeprefix(STATISTICS_KEY): arrays[key] for key in arrays if key.startswith(STATISTICS_KEY)}
        statistics = Statistics.from_arrays(held, path)
        return cls(Shard(**header["shard"]), statistics, header["run"], first)


def joined(parts: Mapping[str, PartialStatistics]) -> tuple[Statistics, tuple[Feed, ...]]:
    """The statistics and first samples of one run over all samples; `parts` by what messages call them.

    Raises BadInput when a part is of another run, comes twice or is missing.
    """
    (first_name, first), *others = parts.items()
    for name, part in others:
        _check_same_run(first_name, first, name, part)
    by_number: dict[int, str] = {}
    for name, part in parts.items():
        if part.shard.number in by_number:
            raise BadInput(f"{name}: is shard {part.shard}, and so is {by_number[part.shard.number]}; give each once")
        by_number[part.shard.number] = name
    missing = [str(number) for number in range(1, first.shard.count + 1) if number not in by_number]
    if missing:
        listed = ", ".join(missing)
        raise BadInput(f"--merge: {first_name} is one of {first.shard.count} shards; missing: {listed}")
    held = next((part.first_samples for part in parts.values() if part.shard.number == 1), ())
    return reduce(merge, [part.statistics for part in parts.values()]), held


def _check_same_run(first_name: str, first: PartialStatistics, name: str, part: PartialStatistics) -> None:
    if part.shard.count != first.shard.count:
        raise BadInput(f"{name}: is shard {part.shard}, but {first_name} is {first.shard}; split all runs alike")
    for key in sorted({*first.run, *part.run}):
        ours, theirs = first.run.get(key, "unknown"), part.run.get(key, "unknown")
        if ours != theirs:
            raise BadInput(f"{name}: has another {key} than {first_name} ({theirs}, not {ours}); run all shards alike")


def fingerprint(feeds: Sequence[Feed]) -> str:
    """What tells samples apart: a digest of their names, shapes and bits."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            digest.update(f"{name} {feed[name].dtype} {feed[name].shape}".encode())
            digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()[:16]
