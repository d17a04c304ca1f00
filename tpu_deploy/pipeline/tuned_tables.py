"""Calibration that tunes: a table, and beside it the plan that `auto` made of the same samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tpu_deploy import calibration
from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.calibration.thresholds import METHODS
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network
from tpu_deploy.pipeline.options import Progress
from tpu_deploy.pipeline.samples import batches
from tpu_deploy.pipeline.source import Source, input_specs
from tpu_deploy.pipeline.tables import METHOD, advised, collect
from tpu_deploy.quant import QuantizationPlan

if TYPE_CHECKING:
    from tpu_deploy.calibration import Samples
    from tpu_deploy.pipeline.tuning_recipe import Pass

AUTO = "auto"
"""The method that tries all others, and passes over types and weights, on held-out samples."""

CHOICES = (*METHODS, AUTO)
"""Every `--method`."""


@dataclass(frozen=True)
class Tuned:
    """A table of the samples that plans were made from, their statistics, and the plan that was best on the others."""

    table: CalibrationTable
    statistics: Statistics
    plan: QuantizationPlan


def tuned(
    network: Network,
    source: Source,
    samples: Samples,
    chip: str,
    passes: Sequence[Pass] | None,
    batch_size: int,
    progress: Progress,
) -> Tuned:
    """What `auto` finds on `samples`, which are all held in memory; some of them judge and are not calibrated on.

    `passes` None: all.
    """
    from tpu_deploy.pipeline.tuning import split, tune
    from tpu_deploy.pipeline.tuning_recipe import PASSES

    specs = input_specs(network)
    feeds = list(samples)
    whole = batches(feeds, specs)
    makers, judges = split(len(whole))
    chosen = [whole[k] for k in makers]
    spread = SpreadSamples(len(chosen))
    statistics = collect(network, source, _held(samples.source, chosen), batch_size, progress, spread=spread)
    plan = tune(
        network, statistics, chosen, [whole[k] for k in judges], chip, PASSES if passes is None else passes, progress
    )
    table = advised(CalibrationTable.of(statistics, METHOD), statistics, source, spread, progress)
    return Tuned(replace(table, method=AUTO), statistics, plan)


def passes_of(
    method: str, passes: Sequence[str] | None, without: Sequence[str], symmetric: bool
) -> tuple[Pass, ...] | None:
    """The passes that `auto` shall try, None for another method. Raises BadInput for names that are none."""
    if method != AUTO:
        given = [name for name, value in (("--passes", passes), ("--without", without)) if value]
        if given:
            raise BadInput(f"{given[0]}: chooses among the passes of --method auto; give that too")
        return None
    from tpu_deploy.pipeline.tuning_recipe import chosen_passes

    return chosen_passes(passes, without, symmetric)


def plan_path(table: str | os.PathLike[str]) -> Path:
    """Where the plan that was tuned with a table lies."""
    path = Path(table)
    return path.with_name(f"{path.name}.plan.json")


def _held(source: str, feeds: Sequence[Feed]) -> Samples:
    """Samples that are in memory already."""
    return calibration.Samples(source, len(feeds), lambda: (partial(_itself, feed) for feed in feeds))


def _itself(feed: Feed) -> Feed:
    return feed
