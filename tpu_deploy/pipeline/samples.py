"""The feeds a deployment is verified on: the user's, the first of the calibration data, or seeded noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tpu_deploy import calibration
from tpu_deploy.calibration.feeds import Feed, InputSpec
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.pipeline.source import input_specs
from tpu_deploy.pipeline.tables import Data

if TYPE_CHECKING:
    from tpu_deploy.calibration import Samples

BATCHES = 4
"""How many batches a deployment is verified on at most."""

SEED = 2024


@dataclass(frozen=True)
class VerificationInputs:
    """Whole batches for the network, and what they are in words."""

    feeds: tuple[Feed, ...]
    source: str


def given_inputs(network: Network, data: Data) -> VerificationInputs:
    """The first batches of what the user gives. Raises BadInput as calibration data would."""
    specs = input_specs(network)
    samples = calibration.open_samples(data, specs)
    feeds = batches(_enough(iter(samples), specs), specs)
    if not feeds:
        raise BadInput(f"--inputs {samples.source}: holds no samples")
    return VerificationInputs(tuple(feeds), _counted(len(feeds), samples.source))


def held_back(samples: Samples, specs: Mapping[str, InputSpec]) -> tuple[Samples, list[Feed]]:
    """The samples, to be used once, and the first of them, loaded: as many as verification takes."""
    loaders = samples.loaders()
    first = _enough((load() for load in loaders), specs)
    again = (partial(_itself, feed) for feed in first)
    return calibration.Samples(samples.source, samples.count, lambda: itertools.chain(again, loaders)), first


def _enough(feeds: Iterator[Feed], specs: Mapping[str, InputSpec]) -> list[Feed]:
    """As many feeds as make `BATCHES` batches, or all there are."""
    first = next(feeds, None)
    if first is None:
        return []
    slots = _batch_slots(first, specs)
    return [first, *itertools.islice(feeds, BATCHES * slots - 1)]


def _itself(feed: Feed) -> Feed:
    return feed


def from_calibration(first: Sequence[Feed], specs: Mapping[str, InputSpec], source: str) -> VerificationInputs:
    """The first batches of the calibration data."""
    feeds = batches(first, specs)
    return VerificationInputs(tuple(feeds), _counted(len(feeds), source))


def noise(network: Network, table: CalibrationTable) -> VerificationInputs:
    """Seeded normal noise that spans the calibrated range of each input."""
    generator = np.random.default_rng(SEED)
    feeds = []
    for _ in range(BATCHES):
        feed = {}
        for value in network.inputs:
            entry = table[name_of(value)]
            middle, spread = (entry.min + entry.max) / 2, (entry.max - entry.min) / 6
            drawn = generator.normal(middle, max(spread, 0.0), shape_of(value))
            feed[name_of(value)] = np.clip(drawn, entry.min, entry.max).astype(np.float32)
        feeds.append(feed)
    return VerificationInputs(tuple(feeds), _counted(BATCHES, "seeded noise over the calibrated input ranges"))


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
