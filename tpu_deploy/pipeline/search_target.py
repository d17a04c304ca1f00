"""What a search is to reach, and the judges that measure it on samples held back for that."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.streams import BatchQueue, run_streams
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.pipeline.evaluation import Result, Scoring, Subject
from tpu_deploy.pipeline.float_model import FloatNetwork, OriginalModel
from tpu_deploy.pipeline.labels import LabelledSamples
from tpu_deploy.reports.metrics import Metric
from tpu_deploy.reports.similarity import Comparison
from tpu_deploy.reports.text import cosine, decibels
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.reference.workers import available_threads

SIMILARITY, SQNR, METRIC = "similarity", "sqnr_db", "metric"
"""What is measured, by the name it is kept under."""

_FIGURES = {"similarity": SIMILARITY, "cosine": SIMILARITY, "sqnr": SQNR}

_TARGET = re.compile(r"([a-z]+)\s*(?:>=|=>|≥)\s*([-+.\d]+)\s*(%|db)?", re.IGNORECASE)

EXAMPLES = "similarity>=0.99 or sqnr>=20"


@dataclass(frozen=True)
class Target:
    """A figure that must be at least `least`, or where less is better, at most.

    `words` are for people, who are told a metric times `scale`, in `unit`.
    """

    figure: str
    least: float
    words: str
    less_is_better: bool = False
    scale: float = 1.0
    unit: str = ""

    def worth(self, figures: Mapping[str, float]) -> float:
        """The figure, the greater the better; minus infinity for NaN."""
        value = figures[self.figure]
        if math.isnan(value):
            return -math.inf
        return -value if self.less_is_better else value

    def told(self, figures: Mapping[str, float]) -> str:
        """The figure in words."""
        value = figures[self.figure]
        if self.figure == SIMILARITY:
            return f"similarity {cosine(value)}"
        return decibels(value) if self.figure == SQNR else f"{self.scale * value:.4g}{self.unit}"

    def is_reached(self, figures: Mapping[str, float]) -> bool:
        """Whether measured figures reach it."""
        return self.worth(figures) >= (-self.least if self.less_is_better else self.least)


def target_of(text: str) -> Target:
    """The target that `--target` spells. Raises BadInput."""
    found = _TARGET.fullmatch(text.strip())
    if found is None or found[1].lower() not in _FIGURES:
        raise BadInput(f"--target {text}: is no target; write {EXAMPLES} (for a metric: --metric NAME --drop 0.5%)")
    figure, unit = _FIGURES[found[1].lower()], (found[3] or "").lower()
    if (figure == SIMILARITY and unit == "db") or (figure == SQNR and unit == "%"):
        raise BadInput(f"--target {text}: {found[1]} is not in {found[3]}; write {EXAMPLES}")
    least = _number("--target", text, found[2]) / (100 if unit == "%" else 1)
    if figure == SIMILARITY and not -1 <= least <= 1:
        raise BadInput(f"--target {text}: a cosine lies between -1 and 1; write for example similarity>=0.99")
    words = f"{found[1].lower()} >= {least:g}{' dB' if figure == SQNR else ''}"
    return Target(figure, least, words)


@dataclass(frozen=True)
class Drop:
    """How much worse a metric may be than the float model's: so many of its units, or a share of the float figure.

    Of metrics in percent a drop in percent means percentage points.
    """

    amount: float
    in_percent: bool
    text: str

    @classmethod
    def of(cls, text: str) -> Drop:
        """What `--drop` spells: `0.5%` or `0.2`. Raises BadInput."""
        number = text.strip().removesuffix("%")
        amount = _number("--drop", text, number)
        if amount < 0:
            raise BadInput(f"--drop {text}: is how much worse the metric may be; give 0 or more")
        return cls(amount, text.strip().endswith("%"), text.strip())

    def target(self, metric: Metric, exact: float, less_is_better: bool) -> Target:
        """The target for a metric whose float figure is `exact`."""
        allowed = self.amount
        if metric.unit == "%":
            allowed = self.amount / 100
        elif self.in_percent:
            allowed = abs(exact) * self.amount / 100
        least = exact + allowed if less_is_better else exact - allowed
        scale, unit = (100, " %") if metric.unit == "%" else (1, f" {metric.unit}".rstrip())
        relation = "<=" if less_is_better else ">="
        words = f"{metric.name} {relation} {scale * least:.6g}{unit}, {self.text} from the float model's"
        return Target(METRIC, least, words, less_is_better, scale, unit)


def _number(option: str, text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{option} {text}: {number!r} is no number")
    return value


class SimilarityJudge:
    """Measures how near the outputs of TPU networks are to those of the float network."""

    def __init__(self, top: Network, feeds: Sequence[Feed]) -> None:
        """`feeds` are whole batches."""
        self._feeds = feeds
        self._outputs = dict(zip(top.output_names, map(name_of, top.outputs), strict=True))
        floats = FloatNetwork(top)
        names = list(dict.fromkeys(self._outputs.values()))
        self._exact: list[dict[str, Any]] = []
        for feed in feeds:
            values = floats.values(feed)
            self._exact.append({name: values[name] for name in names})

    def figures(self, lowered: Network) -> dict[str, float]:
        """The least cosine over outputs and batches, and the least signal to noise, in dB, of an output over all."""
        reference = Reference(lowered, threads=1)
        reference.load()
        found = {name: Comparison() for name in self._outputs}
        with ThreadPoolExecutor(available_threads(), "search") as executor:
            for exact, actual in zip(self._exact, executor.map(reference.run, self._feeds), strict=True):
                for name, value in self._outputs.items():
                    found[name].add(exact[value], actual[name])
        results = [each.result() for each in found.values()]
        cosines, ratios = [each.cosine for each in results], [each.sqnr_db for each in results]
        return {SIMILARITY: _least(cosines), SQNR: _least(ratios)}


def _least(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


class MetricJudge:
    """Measures a metric of TPU networks over labelled samples, each time anew from where they lie."""

    def __init__(self, metric: Metric, samples: LabelledSamples, original: OriginalModel, specs: Any) -> None:
        self.metric = metric
        self._samples, self._original, self._specs = samples, original, specs

    def exact(self) -> float:
        """The float model's own figure: of what compares with that model, as good as can be."""
        if self.metric.needs_float:
            return 1.0
        subject = Subject(self._original.run, self._specs, "the model", "float32", True)
        return self._figure(subject, None).score.value

    def figures(self, lowered: Network) -> dict[str, float]:
        """The metric of a TPU network."""
        reference = Reference(lowered, threads=1)
        reference.load()
        subject = Subject(reference.run, self._specs, "the model", "reference")
        exact = self._original if self.metric.needs_float else None
        return {METRIC: self._figure(subject, exact).score.value}

    def _figure(self, subject: Subject, exact: OriginalModel | None) -> Result:
        scoring = Scoring(subject, exact, [self.metric], self._samples)
        queue = BatchQueue(self._samples.samples, self._samples.specs, 1)
        run_streams(queue, [scoring] * available_threads(), None)
        return scoring.results()[0]
