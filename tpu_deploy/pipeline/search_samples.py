"""The samples of a search, in parts that share none: for calibration, for ranking, and for judging."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.samples import Loader, Samples
from tpu_deploy.pipeline.labels import LabelledSamples
from tpu_deploy.pipeline.samples import Data

HELD_OUT = 4
"""One sample in so many is held out where the others are calibrated on; where none are, all but one in so many."""

JUDGED = 24
"""On how many of the samples held out similarity is measured at most, evenly spread over them."""


def repeatable(data: Data) -> Data:
    """`data`, as a list where it is an iterable that may be used up or does not tell its length."""
    if isinstance(data, str | os.PathLike | Mapping | Sized):
        return data
    return list(data)


def divided(count: int, calibrates: bool) -> tuple[list[int], list[int]]:
    """The numbers of the samples to learn from, and of those held out for judging.

    All serve for both where there are too few. `calibrates`: whether thresholds come from these samples too.
    """
    numbers = list(range(count))
    some = numbers[HELD_OUT - 1 :: HELD_OUT]
    most = [number for number in numbers if number % HELD_OUT != HELD_OUT - 1]
    if not some:
        return numbers, numbers
    return (most, some) if calibrates else (some, most)


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of the numbers, evenly spread over them."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[index * len(numbers) // count] for index in range(count)]


def unlabelled(samples: LabelledSamples, inputs: Collection[str]) -> Samples:
    """The samples with nothing but what a network takes."""

    def load(whole: Loader) -> Feed:
        feed = whole()
        return {name: feed[name] for name in inputs}

    def start() -> Iterator[Loader]:
        return (partial(load, whole) for whole in opened.loaders())

    opened = samples.samples
    return Samples(opened.source, opened.count, start, opened.files)


def part(samples: Samples, numbers: Sequence[int]) -> Samples:
    """The samples of these numbers alone."""
    kept = frozenset(numbers)

    def start() -> Iterator[Loader]:
        return (load for number, load in enumerate(samples.loaders()) if number in kept)

    files = [file for number, file in enumerate(samples.files) if number in kept]
    return Samples(samples.source, len(numbers), start, files)


def labelled_part(samples: LabelledSamples, numbers: Sequence[int]) -> LabelledSamples:
    """The labelled samples of these numbers alone."""
    table = None if samples.table is None else [samples.table[number] for number in numbers]
    return replace(samples, samples=part(samples.samples, numbers), table=table)


def loaded(samples: Samples, numbers: Sequence[int]) -> dict[int, Feed]:
    """The feeds of the samples of these numbers. Raises BadInput for one that cannot be used."""
    wanted = frozenset(numbers)
    last = max(wanted, default=-1)
    return {n: load() for n, load in zip(range(last + 1), samples.loaders(), strict=False) if n in wanted}


def digest(feeds: Iterable[Feed]) -> str:
    """What tells these feeds from others: the SHA-256 of their arrays."""
    found = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(array.data)
    return found.hexdigest()


def digest_of_data(data: Data) -> str:
    """What tells `data` from others: names, sizes and times of files, the content of arrays, else "": nothing does."""
    if isinstance(data, Mapping):
        return digest([{str(name): np.asarray(array) for name, array in data.items()}])
    if not isinstance(data, str | os.PathLike):
        return ""
    path = Path(data)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    rows = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.exists()]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
