"""Calibration that tunes: a table with the plan that `auto` made of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from tpu_deploy import calibration
from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.calibration.thresholds import METHODS
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network
from tpu_deploy.pipeline.options import METHOD, Progress
from tpu_deploy.pipeline.plans import AUTO, tuned_table
from tpu_deploy.pipeline.samples import batches
from tpu_deploy.pipeline.source import Source, input_specs
from tpu_deploy.pipeline.tables import advised, collect

if TYPE_CHECKING:
    from tpu_deploy.calibration import Samples
    from tpu_deploy.pipeline.tuning_recipe import Pass

CHOICES = (*METHODS, AUTO)
"""Every `--method`; AUTO tries passes over types and weights on held-out samples."""


def tuned(
    network: Network,
    source: Source,
    samples: Samples,
    chip: str,
    passes: Sequence[Pass] | None,
    batch_size: int,
    progress: Progress,
) -> CalibrationTable:
    """What `auto` finds on `samples`, which are all held in memory: their table, with the plan that was made from most
    of them and was best on the others. `passes` None: all; a single sample can judge none.
    """
    from tpu_deploy.pipeline.tuning import split, tune
    from tpu_deploy.pipeline.tuning_recipe import PASSES

    whole = batches(list(samples), input_specs(network))
    tried = PASSES if passes is None else passes
    if len(whole) == 1:
        progress.note("one batch of samples: --method auto has none to judge by, and fits nothing")
        tried = ()
    spread = SpreadSamples(len(whole))
    statistics = collect(network, source, _held(samples.source, whole), batch_size, progress, spread=spread)
    makers, judges = ([whole[k] for k in numbers] for numbers in split(len(whole)))
    plan = tune(network, statistics, makers, judges, chip, tried, progress)
    return tuned_table(advised(CalibrationTable.of(statistics, METHOD), statistics, source, spread, progress), plan)


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


def _held(source: str, feeds: Sequence[Feed]) -> Samples:
    """Samples that are in memory already."""
    return calibration.Samples(source, len(feeds), lambda: (partial(_itself, feed) for feed in feeds))


def _itself(feed: Feed) -> Feed:
    return feed
