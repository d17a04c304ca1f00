"""`tpu_deploy.search`: the cheapest mixture of INT8 and float operations that reaches a target."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.errors import BadInput, CheckFailed
from tpu_deploy.ir.network import Network
from tpu_deploy.pipeline import search_front
from tpu_deploy.pipeline.evaluation import imported
from tpu_deploy.pipeline.labels import Given, labelled
from tpu_deploy.pipeline.options import METHOD, SILENT, Progress, choice
from tpu_deploy.pipeline.plans import plan_of
from tpu_deploy.pipeline.samples import Data
from tpu_deploy.pipeline.search_engine import Engine, Figures, Measured, Task
from tpu_deploy.pipeline.search_front import Point
from tpu_deploy.pipeline.search_material import Files, Material, given_ranges, identity, own_ranges
from tpu_deploy.pipeline.search_record import SearchRecord
from tpu_deploy.pipeline.search_samples import digest, digest_of_data, repeatable
from tpu_deploy.pipeline.search_target import Drop, SimilarityJudge, Target, target_of
from tpu_deploy.pipeline.source import InputShapes, Model, Source, canonical_network, input_specs, settled_shapes
from tpu_deploy.pipeline.tpu_mlir_names import names_by_value
from tpu_deploy.pipeline.tuned_tables import CHOICES
from tpu_deploy.quant import QuantizationPlan
from tpu_deploy.quant.plan import FLOATS
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.reports.metrics import Metric, metric_named

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing

PRECISIONS = ("f16", "f32")
"""Float precisions of a search that is not told one: the second where the first does not reach the target."""


@dataclass(frozen=True)
class Search:
    """What a search found: the plan of `chosen`, and the front of cheapest plans, the cheapest first.

    `path` is the quantize table, `calibration` where the table lies that it goes with (None: it was given in memory).
    `integer` is the network as it was planned, with nothing in float for the target's sake. All were judged on
    `samples` samples of `source`.
    """

    path: Path
    calibration: Path | None
    target: Target
    is_reached: bool
    front: tuple[Point, ...]
    integer: Point
    plan: QuantizationPlan
    samples: int
    source: str

    @property
    def chosen(self) -> Point:
        """The point of the front that the quantize table holds."""
        return next(each for each in self.front if each.chosen)


class TargetMissed(CheckFailed):
    """No plan reaches the target; the best one is written all the same: `search` has it."""

    def __init__(self, message: str, search: Search) -> None:
        super().__init__(message)
        self.search = search


def search(
    model: Model,
    data: Data,
    target: str | None = None,
    *,
    metric: str | None = None,
    drop: str | None = None,
    less_is_better: bool = False,
    labels: Given | None = None,
    output: str | os.PathLike[str] | None = None,
    calibration: CalibrationTable | str | os.PathLike[str] | None = None,
    method: str = METHOD,
    precision: str | None = None,
    chip: str = "bm1684x",
    samples: int | None = None,
    preprocessing: Preprocessing | None = None,
    input_shapes: InputShapes | None = None,
    tpu_mlir_names: bool = False,
    progress: Progress = SILENT,
) -> Search:
    """The cheapest plan of INT8 and float operations that reaches a target, casts included in its estimated cycles.

    `target` is `similarity>=0.99` (cosine of the worst output and sample) or `sqnr>=20` (of the worst output, all
    samples together); or `metric`, as `evaluate` takes it, may be worse by `drop` (`0.5%`) than the float model's.
    Without a `calibration` table thresholds come from three quarters of `data`, and the table is written beside the
    result; plans are judged on the others. With the method "auto", or a table that was tuned with it, all plans are the
    tuned one with parts of it in float. `precision` (f16, bf16, f32) is that of float operations; by default f16, bf16
    where values leave its range, f32 where that is not near enough.

    Writes to `output` (default: MODEL.qtable) the quantize table, and beside it the front as .front.json and .front.csv
    and what was measured as .search.json: an interrupted search, or one for another target, goes on from that.

    Raises BadInput for anything unusable, TargetMissed (after writing) when no plan reaches the target.
    """
    method = choice("--method", method, CHOICES)
    precisions = PRECISIONS if precision is None else (choice("--precision", precision, tuple(map(str.lower, FLOATS))),)
    goal, measure = _goal(target, metric, drop)
    source, chip = Source.of(model), chip_named(chip).name
    files = Files(Path(_default_output(source) if output is None else output))
    files.check(model, data, calibration, labels)
    progress.stage("Import the ONNX model")
    top = canonical_network(source, settled_shapes(source, input_shapes, 1, progress))
    opened = labelled(data := repeatable(data), input_specs(top), preprocessing, samples, labels)
    material = Material(source, top, opened, calibration is None)
    if measure is not None:
        _try_metric(measure.metric, material)
    if calibration is None:
        known = digest_of_data(data)
        told = f"{known} {preprocessing}" if known else ""
        ranges = own_ranges(material, method, told, chip, files, tpu_mlir_names, progress)
    else:
        ranges = given_ranges(material, calibration)
    material.load(progress)
    record = SearchRecord(files.record, identity(material, ranges, chip), progress, ranges.origin)
    judges: dict[str, Figures] = {"similarity": SimilarityJudge(top, material.judging).figures}
    if measure is not None:
        kind, judge = _kind_of_fact(measure.metric, material, data), material.judge(measure.metric)
        judges[kind] = judge.figures
        goal = measure.drop.target(measure.metric, record.fact(kind, "float", judge.exact), less_is_better)
    assert goal is not None
    task = _task(top, ranges.table, chip, material.ranking, judges, goal, precisions)
    found = _written(task, Engine(task, record, progress), files, ranges.path, material, tpu_mlir_names)
    if not found.is_reached:
        raise TargetMissed(_missed(source, found, goal), found)
    return found


def _task(
    top: Network,
    table: CalibrationTable,
    chip: str,
    ranking: Sequence[Feed],
    judges: Mapping[str, Figures],
    goal: Target,
    precisions: Sequence[str],
) -> Task:
    """What the engine works on: plans are made as `deploy` makes them."""
    return Task(
        top=top,
        planned=lambda scheme: plan_of(top, table, scheme),
        chip=chip,
        ranking=ranking,
        judges=judges,
        target=goal,
        peaks={name: max(abs(entry.min), abs(entry.max)) for name, entry in table.items()},
        precisions=[each.upper() for each in precisions],
    )


@dataclass(frozen=True)
class Measure:
    """A metric, and how much worse it may be."""

    metric: Metric
    drop: Drop


def _goal(target: str | None, metric: str | None, drop: str | None) -> tuple[Target | None, Measure | None]:
    """What is to be reached: a target, or a metric that becomes one. Raises BadInput."""
    if (target is None) == (metric is None):
        raise BadInput("give either --target 'similarity>=0.99' or --metric NAME with --drop 0.5%")
    if metric is None:
        if drop is not None:
            raise BadInput(f"--drop {drop}: is for a --metric; a --target says itself what is enough")
        assert target is not None
        return target_of(target), None
    if drop is None:
        raise BadInput(f"--metric {metric}: how much worse may it be? give --drop 0.5%")
    found = metric_named(metric, imported)
    if found.name == "sqnr":
        raise BadInput("--metric sqnr: has no float figure to drop from; write --target 'sqnr>=20'")
    return None, Measure(found, Drop.of(drop))


def _try_metric(metric: Metric, material: Material) -> None:
    """Raises BadInput for a metric that does not suit the samples, before any work is done."""
    if metric.needs_labels and not material.labelled.has_labels:
        raise BadInput(f"--metric {metric.name}: needs labels; give --labels, or an array 'labels' in the data")
    material.judge(metric, 1).exact()


def _default_output(source: Source) -> str:
    return f"{'model' if source.path is None else source.path.stem}.qtable"


def _kind_of_fact(metric: Metric, material: Material, data: Data) -> str:
    """What the figures of a metric are kept under: other files, labels or code of the metric make another kind."""
    module = sys.modules.get(metric.name.partition(":")[0]) if ":" in metric.name else None
    code = Path(module.__file__).read_bytes() if module is not None and module.__file__ else b""
    labels = digest([{"labels": each} for each in material.labelled.table or ()])
    known = [digest_of_data(data), hashlib.sha256(code).hexdigest(), labels, str(material.held_out)]
    return f"metric {metric.name} {hashlib.sha256(' '.join(known).encode()).hexdigest()[:16]}"


def _written(
    task: Task, engine: Engine, files: Files, table: Path | None, material: Material, tpu_mlir_names: bool
) -> Search:
    """The result of a search, written down."""
    outcome = engine.outcome()

    def plan_of(found: Measured) -> QuantizationPlan:
        return task.planned(engine.scheme(found.mixture, found.precision))

    def point_of(found: Measured) -> Point:
        return search_front.point(found, plan_of(found), found == outcome.chosen)

    points = tuple(map(point_of, search_front.front(outcome, task.target)))
    plan = plan_of(outcome.chosen)
    names = names_by_value(material.source.file.proto.graph) if tpu_mlir_names else None
    search_front.write(points, task.target, files.front_json, files.front_csv)
    QuantizeTable.of(plan).write(files.qtable, names)
    count = len(material.held_out if len(task.judges) > 1 else material.judged)
    return Search(
        path=files.qtable,
        calibration=table,
        target=task.target,
        is_reached=outcome.is_reached,
        front=points,
        integer=point_of(outcome.integer),
        plan=plan,
        samples=count,
        source=material.opened.source,
    )


def _missed(source: Source, found: Search, target: Target) -> str:
    best = found.chosen
    return (
        f"{source.label}: no plan reaches {target.words}; the best found has {target.told(best.figures)} "
        f"({best.label}, {best.cycles:,} cycles) and is written to {found.path}"
    )
