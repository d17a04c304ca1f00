"""How good answers are, sample by sample: numbers that add up to a figure with its standard error."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tpu_deploy.errors import BadInput

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

CLEAREST = 120.0
"""The PSNR, in dB, of what is exact or nearer than that."""

NAMES = ("topk", "top5", "agreement", "psnr", "sqnr", "module:function")
"""What can be asked for; any whole number may stand in place of 5."""


@dataclass(frozen=True)
class Score:
    """A figure over all samples, and its standard error (NaN for a single sample); shares lie between 0 and 1."""

    metric: str
    value: float
    error: float
    unit: str

    def to_json(self) -> dict[str, Any]:
        """The score as plain data; what is not finite is null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in vars(self).items()
        }


class Metric(ABC):
    """A figure made of one row of numbers a sample.

    `outputs` and `exact` are what the network and the float network answer to one sample, by ONNX name, with the batch
    axis. `label` is what the sample should give.
    """

    unit: ClassVar[str] = ""
    needs_labels: ClassVar[bool] = False
    needs_float: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def row(self, outputs: Outputs, label: Array | None, exact: Outputs) -> tuple[float, ...]:
        """The numbers of one sample."""

    def score(self, rows: Sequence[tuple[float, ...]]) -> Score:
        """The figure of all rows: their mean."""
        value, error = mean(np.array([row[0] for row in rows]))
        return Score(self.name, value, error, self.unit)


class TopK(Metric):
    """The share of samples whose class is among the `k` largest of the first output's, or of positions in a sample."""

    unit = "%"
    needs_labels = True

    def __init__(self, name: str, k: int) -> None:
        super().__init__(name)
        self._k = k

    def row(self, outputs: Outputs, label: Array | None, exact: Outputs) -> tuple[float, ...]:
        """The share of the sample that is right."""
        scores = by_class(first(outputs))
        assert label is not None
        if self._k > len(scores):
            raise BadInput(f"--metric {self.name}: the network has only {len(scores)} classes")
        best = np.argsort(-scores, axis=0, kind="stable")[: self._k]
        if scores.ndim == 1:
            return (float(np.isin(best, _classes(label, len(scores))).any()),)
        if label.size != scores[0].size:
            raise BadInput(f"labels: a sample has {label.size}, but the network answers at {scores[0].size} positions")
        return (float((best == label.reshape(scores.shape[1:])).any(axis=0).mean()),)


class Agreement(Metric):
    """The share of samples, or of positions in a sample, that get the class the float network gives them."""

    unit = "%"
    needs_float = True

    def row(self, outputs: Outputs, label: Array | None, exact: Outputs) -> tuple[float, ...]:
        """The share of the sample that is the same."""
        ours, theirs = (by_class(first(each)).argmax(axis=0) for each in (outputs, exact))
        return (float(np.mean(ours == theirs)),)


class PeakSignalToNoise(Metric):
    """The mean over the samples of 10 log10(peak^2 / mean squared error) of the first output against the label.

    The peak is 1, or that of the labels' type where these are integers.
    """

    unit = "dB"
    needs_labels = True

    def row(self, outputs: Outputs, label: Array | None, exact: Outputs) -> tuple[float, ...]:
        """The ratio of the sample."""
        values = first(outputs)
        assert label is not None
        if label.size != values.size:
            raise BadInput(f"labels: psnr needs arrays like the output of {values.shape}, not of {label.shape}")
        peak = float(np.iinfo(label.dtype).max) if label.dtype.kind in "iu" else 1.0
        error = values.astype(np.float64).reshape(-1) - label.reshape(-1)
        ratio = float(np.mean(np.square(error))) / peak**2
        return (min(CLEAREST, -10 * math.log10(max(ratio, 1e-300))),)


class SignalToNoise(Metric):
    """10 log10 of the float outputs' energy over that of the difference, all samples and outputs together."""

    unit = "dB"
    needs_float = True

    def row(self, outputs: Outputs, label: Array | None, exact: Outputs) -> tuple[float, ...]:
        """The sample's energies of signal and of noise."""
        pairs = [(exact[name].astype(np.float64), outputs[name].reshape(exact[name].shape)) for name in exact]
        return sum(float(np.square(a).sum()) for a, _ in pairs), sum(float(np.square(a - b).sum()) for a, b in pairs)

    def score(self, rows: Sequence[tuple[float, ...]]) -> Score:
        """The pooled ratio; its error by the delta method, samples being what varies."""
        signal, noise = np.array(rows).T
        if not noise.sum() or not signal.sum():
            return Score(self.name, math.inf if not noise.sum() else -math.inf, 0.0, self.unit)
        share = signal / signal.sum() - noise / noise.sum()
        error = math.sqrt(float(np.square(share).sum()) * len(rows) / (len(rows) - 1)) if len(rows) > 1 else math.nan
        decibel = 10 / math.log(10)
        return Score(self.name, decibel * math.log(signal.sum() / noise.sum()), decibel * error, self.unit)


class OwnFunction(Metric):
    """The mean of what a function of the user's returns for (outputs, label) of each sample."""

    def __init__(self, name: str, function: Callable[[Outputs, Array | None], Any]) -> None:
        super().__init__(name)
        self._function = function

    def row(self, outputs: Outputs, label: Array | None, exact: Outputs) -> tuple[float, ...]:
        """What the function returns. Raises BadInput when it raises or returns no finite number."""
        try:
            value = float(self._function(outputs, label))
        except (Exception, SystemExit) as error:
            raise BadInput(f"--metric {self.name}: raised {type(error).__name__}: {error}{_where(error)}") from error
        if not math.isfinite(value):
            raise BadInput(f"--metric {self.name}: returned {value}; it must return a finite number for every sample")
        return (value,)


def metric_named(text: str, imported: Callable[[str, str], Any]) -> Metric:
    """The metric called `text`; `imported` finds a function of the user's by module and name. Raises BadInput."""
    module, _, function = text.partition(":")
    if function:
        found = imported(module, function)
        if not callable(found):
            raise BadInput(f"--metric {text}: is no function; give the name of score(outputs, labels) -> float")
        return OwnFunction(text, found)
    name = text.lower()
    if ranked := re.fullmatch(r"top(k|[1-9]\d*)", name):
        return TopK(name, 1 if ranked[1] == "k" else int(ranked[1]))
    known: dict[str, type[Metric]] = {"agreement": Agreement, "psnr": PeakSignalToNoise, "sqnr": SignalToNoise}
    if name not in known:
        raise BadInput(f"--metric {text}: is unknown; known: {', '.join(NAMES)}")
    return known[name](name)


def first(outputs: Outputs) -> Array:
    """The first output."""
    return next(iter(outputs.values()))


def by_class(values: Array) -> Array:
    """One sample's scores with the classes first: (classes,) or (classes, positions...).

    Classes lie along the last axis of (batch, position, class), else along axis 1.
    """
    moved = np.moveaxis(values, -1, 1) if values.ndim == 3 else values
    if values.ndim < 2:
        return values.reshape(-1)
    classes = moved.shape[1]
    scores = np.moveaxis(moved, 1, 0).reshape(classes, -1)
    return scores[:, 0] if scores.shape[1] == 1 else scores


def _classes(label: Array, count: int) -> Array:
    """The classes that are right for a sample: one, or several filled up with -1. Raises BadInput for anything else."""
    flat = label.reshape(-1)
    named: Array = flat[flat != -1]
    wrong = named[(named < 0) | (named >= count) | (named != np.floor(named))]
    if wrong.size or not named.size:
        what = f"{wrong[0]} is no class" if wrong.size else "a sample has no class"
        raise BadInput(f"labels: {what}; the network has {count}, 0 to {count - 1} (-1 fills up where one has fewer)")
    if len(np.unique(named)) < len(named):
        raise BadInput(f"labels: {label.tolist()} names a class twice; give numbers of classes, not a 1 in their place")
    return named


def mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean and its standard error, NaN for a single value."""
    count = len(values)
    spread = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return math.fsum(values) / count, spread


def _where(error: BaseException) -> str:
    """File and line of the user's code where an error arose."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
            break
        trace = trace.tb_next
    return place
