"""`tpu_deploy.calibrate_shard` and `tpu_deploy.merge_shards`: one calibration on several machines or processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tpu_deploy import calibration
from tpu_deploy.calibration.advice import advise
from tpu_deploy.calibration.preprocessing import suspicions
from tpu_deploy.calibration.shards import PartialStatistics, Shard, fingerprint, joined
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.calibration.thresholds import METHODS
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.options import METHOD, SILENT, Progress, choice, writable_file
from tpu_deploy.pipeline.samples import Data, held_back
from tpu_deploy.pipeline.source import InputShapes, Model, Source, canonical_network, input_specs, settled_shapes
from tpu_deploy.pipeline.tables import collect, write_table

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing


def calibrate_shard(
    model: Model,
    data: Data,
    shard: str | Shard,
    *,
    samples: int | None = None,
    batch_size: int = 1,
    preprocessing: Preprocessing | None = None,
    input_shapes: InputShapes | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> PartialStatistics:
    """The statistics of one part of `data`, such as "2/4"; all else is as in `calibrate`, and the same for all shards.

    Only this part is decoded and run, and the first samples. With `output` they are written there. Raises as
    `calibrate` does.
    """
    part = shard if isinstance(shard, Shard) else Shard.parse(shard)
    target = None if output is None else writable_file(output, "-o", model, data)
    source = Source.of(model)
    progress.stage("Import the ONNX model")
    network = canonical_network(source, settled_shapes(source, input_shapes, batch_size, progress))
    specs = input_specs(network)
    opened, first = held_back(calibration.open_samples(data, specs, preprocessing, samples), specs)
    progress.stage(f"Calibrate shard {part}")
    spread = SpreadSamples(opened.count)
    found = collect(network, source, opened, batch_size, progress, part, spread)
    for suspected in suspicions(source.file.proto, spread.feeds()):
        progress.note(f"suspected: {suspected.message}")
    run = {
        "model": source.hash,
        "shape of inputs": ", ".join(f"{name} {spec.described}" for name, spec in specs.items()),
        "batch size": str(batch_size),
        "number of samples": "unknown" if opened.count is None else str(opened.count),
        "first sample, or preprocessing of it": fingerprint(first[:1]),
    }
    partial = PartialStatistics(part, found, run, tuple(first) if part.number == 1 else ())
    if target is not None:
        partial.save(target)
    return partial


def merge_shards(
    parts: Sequence[str | os.PathLike[str] | PartialStatistics],
    *,
    method: str = METHOD,
    output: str | os.PathLike[str] | None = None,
) -> CalibrationTable:
    """The calibration table of all shards of one calibration, in any order: that of one run, bit for bit.

    With `output` it is written with its statistics and first samples, as by `calibrate`. Raises BadInput when a shard
    is missing, comes twice, or was made with another model, shape, version or other samples.
    """
    method = choice("--method", method, tuple(METHODS))
    target = None if output is None else writable_file(output, "-o", *parts)
    if not parts:
        raise BadInput("--merge: give the files written with --shard")
    loaded: dict[str, PartialStatistics] = {}
    for number, given in enumerate(parts, 1):
        label = f"part {number}" if isinstance(given, PartialStatistics) else os.fspath(given)
        if label in loaded:
            raise BadInput(f"--merge: {label} is given twice")
        loaded[label] = given if isinstance(given, PartialStatistics) else PartialStatistics.load(given)
    statistics, first = joined(loaded)
    table = replace(CalibrationTable.of(statistics, method), first_samples=first)
    table = replace(table, advice=advise(statistics, method, first[0] if first else ()))
    if target is not None:
        write_table(table, target)
    return table
