"""Calibration tables: collected, written and read with all that lies beside them."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import GraphProto
from xdsl.ir import Operation, SSAValue

from tpu_deploy import calibration
from tpu_deploy.calibration.advice import advise
from tpu_deploy.calibration.preprocessing import suspicions
from tpu_deploy.calibration.shards import WHOLE, Shard
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, is_absent, name_of
from tpu_deploy.pipeline.options import SILENT, Progress, writable_file
from tpu_deploy.pipeline.plans import plan_path, with_plan
from tpu_deploy.pipeline.samples import keep, samples_path
from tpu_deploy.pipeline.source import Source
from tpu_deploy.pipeline.tpu_mlir_names import folded_tensors, names_by_value
from tpu_deploy.quant import Scheme
from tpu_deploy.quant.plan import weights_path
from tpu_deploy.quant.precision import precisions_of
from tpu_deploy.quant.ranges import reach
from tpu_deploy.quant.ties import MOVEMENTS

if TYPE_CHECKING:
    from tpu_deploy.calibration import Samples


def collect(
    network: Network,
    source: Source,
    samples: Samples,
    batch_size: int = 1,
    progress: Progress = SILENT,
    shard: Shard = WHOLE,
    spread: SpreadSamples | None = None,
) -> Statistics:
    """The statistics of all values of a canonical network over a shard of `samples`, in one pass of onnxruntime."""
    return calibration.collect_statistics(
        export_onnx(network),
        samples,
        tensors=[name_of(value) for value in network.values()],
        batch_size=batch_size,
        progress=progress.samples,
        model_hash=source.hash,
        shard=shard,
        spread=spread,
    )


def advised(
    table: CalibrationTable, statistics: Statistics, source: Source, spread: SpreadSamples, progress: Progress = SILENT
) -> CalibrationTable:
    """The table with what its statistics, and the samples kept of them, say about the samples."""
    progress.stage("Look at the samples")
    suspected = suspicions(source.file.proto, spread.feeds())
    return replace(table, advice=advise(statistics, table.method, source.inputs, suspected))


def statistics_path(table: str | os.PathLike[str]) -> Path:
    """Where the statistics behind a table lie."""
    path = Path(table)
    return path.with_name(f"{path.name}.statistics.npz")


def writable_table(output: str | os.PathLike[str], *given: object) -> Path:
    """The path of a table that can be written with all that lies beside it. Raises BadInput."""
    target = writable_file(output, "-o", *given)
    for beside in _beside(target):
        writable_file(beside, "-o", *given)
    return target


def _beside(table: Path) -> tuple[Path, Path, Path, Path]:
    """Where statistics, first samples, plan and weights of the plan lie."""
    plan = plan_path(table)
    return statistics_path(table), samples_path(table), plan, weights_path(plan)


def write_table(table: CalibrationTable, target: Path, graph: GraphProto | None = None) -> None:
    """Writes the table, under the names that TPU-MLIR gives the tensors of `graph`, and beside it its statistics, first
    samples and plan. What of an earlier table lay there and this one lacks goes.

    All are written elsewhere first: whoever fails or is interrupted leaves the earlier files as they were. Raises
    BadInput.
    """
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        partial = Path(folder, target.name)
        try:
            _write_all(table, partial, graph)
        except BadInput as error:
            raise BadInput(str(error).replace(str(partial), str(target))) from error
        for path in (*_beside(target), target):
            made = Path(folder, path.name)
            if made.exists():
                made.replace(path)
            else:
                path.unlink(missing_ok=True)


def _write_all(table: CalibrationTable, target: Path, graph: GraphProto | None) -> None:
    assert table.statistics is not None
    statistics, samples, plan, _ = _beside(target)
    table.statistics.save(statistics)
    if table.first_samples:
        keep(table.first_samples, samples)
    if table.plan is not None:
        table.plan.save(plan)
    if graph is None:
        table.write(target)
    else:
        _with_folded_tensors(table, graph).write(target, names_by_value(graph))


def _with_folded_tensors(table: CalibrationTable, graph: GraphProto) -> CalibrationTable:
    """The table with a line for each tensor that TPU-MLIR may know and we have folded into another."""
    more = {name: table[value] for value, names in folded_tensors(graph, table).items() for name in names}
    return replace(table, entries={**table.entries, **more})


def read_table(
    path: str | os.PathLike[str], source: Source, network: Network, scheme: Scheme | None = None
) -> CalibrationTable:
    """The table in a file, ours or TPU-MLIR's, with the plan that was tuned with it.

    Raises BadInput when it is none, or of another model, or its plan is not there.
    """
    table = CalibrationTable.read(path)
    needed = tensors_that_need_a_range(network, scheme)
    if not all(name in table for name in needed):
        graph = source.file.proto.graph
        theirs = names_by_value(graph)
        known = {name: theirs.get(name, name) for name in map(name_of, network.values())}
        table = CalibrationTable.read(path, known)
        folded = folded_tensors(graph, known)
        known |= {name: theirs[folded[name][-1]] for name in needed if name not in table and name in folded}
        table = CalibrationTable.read(path, known)
    check_table(table, source, network, scheme)
    return with_plan(table, path)


def check_table(table: CalibrationTable, source: Source, network: Network, scheme: Scheme | None = None) -> None:
    """Raises BadInput when a table is another model's, or lacks a tensor that needs a range (with the nearest name)."""
    table.require(tensors_that_need_a_range(network, scheme))
    if table.model_hash.startswith("sha256:") and table.model_hash != source.hash:
        raise BadInput(
            f"{table.source}: belongs to another model than {source.label}, or to another version of it; "
            "calibrate again (or delete its `# model` line to use it all the same)"
        )


def tensors_that_need_a_range(network: Network, scheme: Scheme | None = None) -> list[str]:
    """The names of the values whose quantized type must come from a table: read by an INT8 operation or made by one as
    integers, and neither moved from another value nor bounded by what makes them.
    """
    options = scheme or Scheme()
    precisions = precisions_of(network, options.precision, options.operations, options.results)
    needed: dict[str, None] = {}
    for op in network.operations:
        if precisions[name_of(op)] != "INT8":
            continue
        read = [v for v in op.operands if network.weight(v) is None and not is_absent(v)]
        made = [] if name_of(op) in options.results else op.results
        needed |= dict.fromkeys(name_of(v) for v in [*read, *made] if not _follows(v))
    return list(needed)


def _follows(value: SSAValue) -> bool:
    """Whether a value's range follows from what makes it."""
    owner = value.owner
    if not isinstance(owner, Operation) or owner.name == "top.Input":
        return False
    return owner.name in MOVEMENTS - {"top.Concat"} or all(math.isfinite(end) for end in reach(owner))
