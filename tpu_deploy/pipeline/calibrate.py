"""`tpu_deploy.calibrate`: samples through the canonical network to a table, with the statistics kept beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tpu_deploy import calibration
from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.options import METHOD, SILENT, Progress, choice
from tpu_deploy.pipeline.plans import AUTO
from tpu_deploy.pipeline.samples import Data, held_back, kept, samples_path
from tpu_deploy.pipeline.source import InputShapes, Model, Source, canonical_network, input_specs, settled_shapes
from tpu_deploy.pipeline.tables import advised, collect, writable_table, write_table
from tpu_deploy.pipeline.tuned_tables import CHOICES, passes_of, tuned

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing

CHIP = "bm1684x"
"""The chip on whose cycles `auto` weighs what costs any."""


def calibrate(
    model: Model,
    data: Data | None = None,
    *,
    method: str = METHOD,
    passes: Sequence[str] | None = None,
    without: Sequence[str] = (),
    symmetric: bool = False,
    samples: int | None = None,
    batch_size: int = 1,
    preprocessing: Preprocessing | None = None,
    input_shapes: InputShapes | None = None,
    statistics: str | os.PathLike[str] | Statistics | None = None,
    output: str | os.PathLike[str] | None = None,
    tpu_mlir_names: bool = False,
    progress: Progress = SILENT,
) -> CalibrationTable:
    """The calibration table of `model` over the first `samples` (default: all) of `data`, keyed by ONNX tensor names.

    `preprocessing`, a `tpu_deploy.Preprocessing`, is for images. `input_shapes` fills dynamic dimensions; a dynamic
    batch needs none. With `output` the table is written there, under TPU-MLIR's tensor names if asked for, and the
    statistics of the pass and its first samples beside it (`statistics_path`, `samples_path`): the former, given as
    `statistics` in place of `data`, they make the table of another method without a pass.

    The method "auto" tries passes over types and weights (`passes`, default all, less those in `without`; `symmetric`
    leaves out zero points), keeps what brings held-out samples nearer to the float network, and keeps the plan in the
    table; it is written beside it (`plans.plan_path`), where whatever reads the table finds it.
    Raises BadInput for anything unusable, CheckFailed naming the first tensor with NaN or infinity.
    """
    method = choice("--method", method, CHOICES)
    tried = passes_of(method, passes, without, symmetric)
    target = None if output is None else writable_table(output, model, data)
    source = Source.of(model)
    if (data is None) == (statistics is None):
        raise BadInput("give either calibration data or the statistics of an earlier pass (--data or --statistics)")
    if data is not None:
        progress.stage("Import the ONNX model")
        network = canonical_network(source, settled_shapes(source, input_shapes, batch_size, progress))
        specs = input_specs(network)
        opened, first = held_back(calibration.open_samples(data, specs, preprocessing, samples), specs)
        progress.stage("Calibrate")
        if method == AUTO:
            table = tuned(network, source, opened, CHIP, tried, batch_size, progress)
        else:
            spread = SpreadSamples(opened.count)
            found = collect(network, source, opened, batch_size, progress, spread=spread)
            table = advised(CalibrationTable.of(found, method), found, source, spread, progress)
    elif method == AUTO:
        raise BadInput("--statistics: --method auto needs the samples themselves; give --data")
    else:
        assert statistics is not None
        found, first = _earlier(statistics, source), _earlier_samples(statistics, source, input_shapes)
        table = advised(CalibrationTable.of(found, method), found, source, SpreadSamples(0), progress)
    table = replace(table, first_samples=tuple(first))
    if target is not None:
        write_table(table, target, source.file.proto.graph if tpu_mlir_names else None)
    return table


def _earlier(statistics: str | os.PathLike[str] | Statistics, source: Source) -> Statistics:
    found = statistics if isinstance(statistics, Statistics) else Statistics.load(statistics)
    if found.model_hash != source.hash:
        label = "the statistics" if isinstance(statistics, Statistics) else os.fspath(statistics)
        raise BadInput(f"{label}: are of another model than {source.label}; calibrate this one with --data")
    return found


def _earlier_samples(
    statistics: str | os.PathLike[str] | Statistics, source: Source, input_shapes: InputShapes | None
) -> list[Feed]:
    """The samples that were kept when the statistics were, where they still lie beside them."""
    if isinstance(statistics, Statistics):
        return []
    path = Path(statistics)
    beside = samples_path(path.with_name(path.name.removesuffix(".statistics.npz")))
    if not beside.exists():
        return []
    return kept(beside, input_specs(canonical_network(source, source.shapes_for_batch(input_shapes, 1))))
