"""`tpu_deploy.evaluate`: how good a network's answers are over a data set, beside the float network's."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tpu_deploy.calibration.arrays import LABELS
from tpu_deploy.calibration.feeds import Feed, InputSpec
from tpu_deploy.calibration.streams import Batch, BatchQueue, run_streams
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.float_model import OriginalModel
from tpu_deploy.pipeline.labels import Given, LabelledSamples, labelled
from tpu_deploy.pipeline.options import PRECISIONS, SILENT, Progress, choice
from tpu_deploy.pipeline.plans import plan_of
from tpu_deploy.pipeline.precisions import is_integer, scheme_of
from tpu_deploy.pipeline.samples import Data
from tpu_deploy.pipeline.source import InputShapes, Model, Source, canonical_network, input_specs
from tpu_deploy.pipeline.tables import check_table, read_table
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.reports.metrics import Array, Metric, Outputs, Score, mean, metric_named
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.reference.workers import available_threads

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing

Run = Callable[[Feed], Mapping[str, Array]]
"""A network: outputs by ONNX name for a feed of its batch; several threads may call it at once."""


@dataclass(frozen=True)
class Result:
    """A figure of the network, of the float network where it has one, and how it changed (the samples paired)."""

    score: Score
    float_score: Score | None = None
    change: Score | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `samples` samples of `data` came to; `arithmetic` says what computed them. `seconds` is for all of it."""

    model: str
    arithmetic: str
    data: str
    samples: int
    workers: int
    seconds: float
    results: tuple[Result, ...]

    @property
    def images_per_second(self) -> float:
        """Samples a second: decoding, the network, and the float network where it is asked for."""
        return self.samples / max(self.seconds, 1e-9)

    def __getitem__(self, metric: str) -> Score:
        """The figure of this name. Raises KeyError."""
        return {each.score.metric: each.score for each in self.results}[metric]

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        results = [
            {key: None if score is None else score.to_json() for key, score in vars(each).items()}
            for each in self.results
        ]
        return asdict(self) | {"results": results, "images_per_second": self.images_per_second}


@dataclass(frozen=True)
class Subject:
    """A network to be evaluated, what its samples must be, and what messages call it and its arithmetic.

    `outputs` are the names of its outputs, for whoever holds it against another model.
    """

    run: Run
    specs: Mapping[str, InputSpec]
    label: str
    arithmetic: str
    is_float: bool = False
    outputs: Sequence[str] = ()


def evaluate(
    model: Model,
    data: Data,
    metrics: str | Sequence[str] = (),
    *,
    calibration: CalibrationTable | str | os.PathLike[str] | None = None,
    precision: str | None = None,
    qtable: QuantizeTable | str | os.PathLike[str] | None = None,
    against: Model | None = None,
    labels: Given | None = None,
    samples: int | None = None,
    preprocessing: Preprocessing | None = None,
    input_shapes: InputShapes | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """The `metrics` (default: all that can be told) of `model` over the first `samples` (default: all) of `data`.

    An ONNX model is computed by the integer reference, bit for bit as its bmodel would be, in `precision` (default:
    int8 where there is a calibration table, else the float model itself on onnxruntime) and with `qtable`. A bmodel
    runs on the simulator, which takes many times longer; `against` is the ONNX model it is held against. `labels` are
    as `pipeline.labels.labelled` takes them. `workers` threads (default: one a core) take samples in turn, so memory
    does not grow with them. A metric `module:function` is called with the outputs of one sample by name and its label,
    and returns a number. Raises BadInput for anything unusable, the user's own function included.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers}: must be at least 1")
    wanted = [metrics] if isinstance(metrics, str) else list(metrics)
    chosen = [metric_named(each, imported) for each in wanted]
    subject, original = _subject(model, calibration, precision, qtable, against, input_shapes, progress)
    found = labelled(data, subject.specs, preprocessing, samples, labels)
    compared = not subject.is_float and original is not None
    chosen = chosen or [metric_named(each, imported) for each in _defaults(found, compared)]
    _check(chosen, found, compared)
    count = workers or available_threads()
    progress.stage(f"Evaluate on {subject.arithmetic}")
    started = time.perf_counter()
    exact = OriginalModel(original) if original is not None and compared else None
    if original is not None and exact is not None:
        _check_alike(subject, original, exact)
    scoring = Scoring(subject, exact, chosen, found)
    queue = BatchQueue(found.samples, found.specs, 1)
    done = run_streams(queue, [scoring] * count, progress.samples)
    seconds = time.perf_counter() - started
    return Evaluation(subject.label, subject.arithmetic, found.samples.source, done, count, seconds, scoring.results())


class Scoring:
    """Takes in batches on several threads; keeps a few numbers of each sample."""

    def __init__(
        self, subject: Subject, exact: OriginalModel | None, metrics: Sequence[Metric], samples: LabelledSamples
    ) -> None:
        self._subject = subject
        self._exact = exact
        self._metrics = metrics
        self._samples = samples
        self._rows: dict[int, list[tuple[float, ...]]] = {}
        self._float_rows: dict[int, list[tuple[float, ...]]] = {}

    def record(self, batch: Batch) -> None:
        """Runs a batch and scores each of its samples. Raises BadInput for a metric that cannot be told."""
        feed = {name: batch.feed[name] for name in self._subject.specs}
        outputs = self._subject.run(feed)
        exact = self._exact.run(feed) if self._exact is not None else {}
        for row in range(batch.samples):
            number = batch.first + row
            ours, theirs = _sample(outputs, row, batch.slots), _sample(exact, row, batch.slots)
            label = self._samples.label(number, batch.feed, row)
            self._rows[number] = [metric.row(ours, label, theirs) for metric in self._metrics]
            if exact:
                kept = [metric for metric in self._metrics if not metric.needs_float]
                self._float_rows[number] = [metric.row(theirs, label, theirs) for metric in kept]

    def results(self) -> tuple[Result, ...]:
        """The figures of all samples, in the order of the metrics."""
        rows = list(zip(*(self._rows[number] for number in sorted(self._rows)), strict=True))
        float_rows = iter(list(zip(*(self._float_rows[number] for number in sorted(self._float_rows)), strict=True)))
        found = []
        for metric, ours in zip(self._metrics, rows, strict=True):
            theirs = None if metric.needs_float else next(float_rows, None)
            score = metric.score(ours)
            if theirs is None:
                found.append(Result(score))
                continue
            differences = np.array([a[0] - b[0] for a, b in zip(ours, theirs, strict=True)])
            found.append(Result(score, metric.score(theirs), Score(metric.name, *mean(differences), metric.unit)))
        return tuple(found)


def _sample(outputs: Mapping[str, Array], row: int, slots: int) -> Outputs:
    """The part of one sample of a batch's outputs; all of one whose first axis is not the batch."""
    found = {}
    for name, array in outputs.items():
        rows = array.shape[0] // slots if array.ndim and array.shape[0] % slots == 0 else 0
        found[name] = array[row * rows : (row + 1) * rows] if rows else array
    return found


def _subject(
    model: Model,
    calibration: CalibrationTable | str | os.PathLike[str] | None,
    precision: str | None,
    qtable: QuantizeTable | str | os.PathLike[str] | None,
    against: Model | None,
    input_shapes: InputShapes | None,
    progress: Progress,
) -> tuple[Subject, Source | None]:
    """What is evaluated, and the ONNX model it can be held against."""
    if isinstance(model, str | os.PathLike) and Path(model).suffix.lower() == ".bmodel":
        given = {"--calibration": calibration, "--precision": precision, "--qtable": qtable}
        for option, value in given.items():
            if value is not None:
                raise BadInput(f"{option}: is for ONNX models; {os.fspath(model)} is compiled already")
        return _bmodel(model), None if against is None else Source.of(against)
    source = Source.of(model)
    network = canonical_network(source, source.shapes_for_batch(input_shapes, 1))
    original = source if against is None else Source.of(against)
    if calibration is None and precision is None and qtable is None:
        float_model = OriginalModel(source)
        return Subject(float_model.run, input_specs(network), source.label, FLOAT, True, float_model.names), original
    chosen = choice("--precision", precision or "int8", PRECISIONS)
    table = QuantizeTable.read(qtable) if isinstance(qtable, str | os.PathLike) else qtable
    lowered = _lowered(source, network, chosen, table, calibration)
    reference = Reference(lowered, threads=1)
    progress.stage("Prepare the reference")
    reference.load()
    arithmetic = f"{chosen.upper()}{', mixed' if table is not None else ''} (reference)"
    return Subject(reference.run, input_specs(network), source.label, arithmetic, False, network.output_names), original


FLOAT = "float32 (onnxruntime)"


def _lowered(
    source: Source,
    network: Network,
    precision: str,
    qtable: QuantizeTable | None,
    calibration: CalibrationTable | str | os.PathLike[str] | None,
) -> Network:
    """The TPU network of a canonical one, as `deploy` makes it."""
    scheme = scheme_of(precision, qtable, source, network)
    table = CalibrationTable({})
    if isinstance(calibration, CalibrationTable):
        table = calibration
        check_table(table, source, network, scheme)
    elif calibration is not None:
        table = read_table(calibration, source, network, scheme)
    elif is_integer(network, scheme):
        raise BadInput("INT8 operations need ranges: give a calibration table (--calibration)")
    return lower_to_tpu(network, plan_of(network, table, scheme))


def _bmodel(path: str | os.PathLike[str]) -> Subject:
    from tpu_deploy.runtime.session import load

    session = load(path)
    specs = {info.name: InputSpec(info.name, info.shape, np.dtype(np.float32)) for info in session.inputs}
    outputs = [info.name for info in session.outputs]
    return Subject(session.run, specs, os.fspath(path), "bmodel (simulator)", False, outputs)


def _check_alike(subject: Subject, original: Source, exact: OriginalModel) -> None:
    """Raises BadInput for a float model that has other inputs or outputs than the network held against it."""
    pairs = {"inputs": (original.inputs, subject.specs), "outputs": (exact.names, subject.outputs)}
    for what, (theirs, ours) in pairs.items():
        if set(theirs) != set(ours):
            listed, wanted = (", ".join(names) for names in (theirs, ours))
            raise BadInput(
                f"{original.label}: has {what} {listed}, but {subject.label} has {wanted}; "
                "give the model it was made of (--against)"
            )


def _defaults(samples: LabelledSamples, compared: bool) -> list[str]:
    """What can be told: classes where labels are whole numbers, and how near the float network is."""
    names = ["topk"] if samples.has_classes else ["psnr"] if samples.has_labels else []
    names += ["agreement", "sqnr"] if compared else []
    if not names:
        raise BadInput("--metric: there is nothing to tell without labels (--labels) or a model to compare with")
    return names


def _check(metrics: Sequence[Metric], samples: LabelledSamples, compared: bool) -> None:
    """Raises BadInput for a metric that lacks labels or a float network."""
    for metric in metrics:
        if metric.needs_labels and not samples.has_labels:
            raise BadInput(f"--metric {metric.name}: needs labels; give --labels, or an array {LABELS!r} in the data")
        if metric.needs_float and not compared:
            raise BadInput(
                f"--metric {metric.name}: compares with the float model; "
                "give --calibration for an ONNX model, --against for a bmodel"
            )


def imported(module: str, function: str) -> Any:
    """The user's own function; modules in the current folder are found. Raises BadInput."""
    spelled = f"--metric {module}:{function}"
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except AttributeError:
        raise BadInput(f"{spelled}: the module {module} has no {function}") from None
    except (Exception, SystemExit) as error:  # a module of the user's may raise anything while it is imported
        raise BadInput(f"{spelled}: {module} cannot be imported ({type(error).__name__}: {error})") from error
