"""The feeds a deployment is verified on: the user's, the first of the calibration data, or seeded noise."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tpu_deploy import calibration
from tpu_deploy.calibration.feeds import Feed, InputSpec
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.calibration.thresholds import Threshold
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.ir.weights import WeightStore
from tpu_deploy.pipeline.source import input_specs

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing, Samples

Data = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]
"""Samples: a folder, list file, .npz or .npy, a mapping of input names to batches, or any iterable of feeds."""

BATCHES = 4
"""How many batches a deployment is verified on at most."""

SEED = 2024

STANDARD = Threshold(3.0, -3.0, 3.0)
"""The range of noise of standard deviation 1."""


@dataclass(frozen=True)
class VerificationInputs:
    """Whole batches for the network, and what they are in words. On noise no trained network can be judged."""

    feeds: tuple[Feed, ...]
    source: str
    is_noise: bool = False


def given_inputs(
    network: Network, data: Data, count: int = BATCHES, preprocessing: Preprocessing | None = None
) -> VerificationInputs:
    """The first `count` batches of what the user gives. Raises BadInput as calibration data would."""
    specs = input_specs(network)
    samples = calibration.open_samples(data, specs, preprocessing)
    feeds = batches(_enough(iter(samples), specs, count), specs)
    if not feeds:
        raise BadInput(f"--inputs {samples.source}: holds no samples")
    return VerificationInputs(tuple(feeds), _counted(len(feeds), samples.source))


def held_back(samples: Samples, specs: Mapping[str, InputSpec], count: int = BATCHES) -> tuple[Samples, list[Feed]]:
    """The samples, to be used once, and the first of them, loaded: as many as verification on `count` batches takes."""
    loaders = samples.loaders()
    first = _enough((load() for load in loaders), specs, count)
    again = (partial(_itself, feed) for feed in first)
    return calibration.Samples(samples.source, samples.count, lambda: itertools.chain(again, loaders)), first


def _enough(feeds: Iterator[Feed], specs: Mapping[str, InputSpec], count: int = BATCHES) -> list[Feed]:
    """As many feeds as make `count` batches, or all there are."""
    first = next(feeds, None)
    if first is None:
        return []
    slots = _batch_slots(first, specs)
    return [first, *itertools.islice(feeds, count * slots - 1)]


def _itself(feed: Feed) -> Feed:
    return feed


def samples_path(table: str | os.PathLike[str]) -> Path:
    """Where the first samples of the calibration behind a table lie."""
    path = Path(table)
    return path.with_name(f"{path.name}.samples.npz")


def keep(feeds: Sequence[Feed], path: Path) -> None:
    """Writes the samples, each input's one after another."""
    WeightStore({name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}).save(path)


def kept(path: Path, specs: Mapping[str, InputSpec]) -> list[Feed]:
    """The samples kept in a file; none when there is no such file, or it does not fit the inputs."""
    if not path.exists():
        return []
    try:
        return _enough(iter(calibration.open_samples(path, specs)), specs)
    except BadInput:
        return []


def from_calibration(first: Sequence[Feed], specs: Mapping[str, InputSpec], source: str) -> VerificationInputs:
    """The first batches of the calibration data."""
    feeds = batches(first, specs)
    return VerificationInputs(tuple(feeds), _counted(len(feeds), source))


def noise(network: Network, table: CalibrationTable) -> VerificationInputs:
    """Seeded normal noise that spans the calibrated range of each input; standard where it was not calibrated."""
    generator = np.random.default_rng(SEED)
    feeds = []
    for _ in range(BATCHES):
        feed = {}
        for value in network.inputs:
            entry = table.get(name_of(value), STANDARD)
            middle, spread = (entry.min + entry.max) / 2, (entry.max - entry.min) / 6
            drawn = generator.normal(middle, max(spread, 0.0), shape_of(value))
            feed[name_of(value)] = np.clip(drawn, entry.min, entry.max).astype(np.float32)
        feeds.append(feed)
    what = "seeded noise over the calibrated input ranges" if table else "seeded standard normal noise"
    return VerificationInputs(tuple(feeds), _counted(BATCHES, what), is_noise=True)


def batches(samples: Sequence[Feed], specs: Mapping[str, InputSpec]) -> list[Feed]:
    """Feeds of the network's batch size; the last sample fills what is left of the last batch."""
    if not samples:
        return []
    slots = _batch_slots(samples[0], specs)
    made: list[Feed] = []
    for start in range(0, len(samples), slots):
        rows = list(samples[start : start + slots])
        rows += rows[-1:] * (slots - len(rows))
        made.append(rows[0] if slots == 1 else {name: np.concatenate([row[name] for row in rows]) for name in specs})
    return made


def _counted(count: int, source: str) -> str:
    return f"{count} batch{'es' if count > 1 else ''} of {source}"


def _batch_slots(feed: Feed, specs: Mapping[str, InputSpec]) -> int:
    """How many samples like `feed` make a batch."""
    from tpu_deploy.calibration.streams import batch_slots

    return batch_slots(feed, specs, 1)[0]
