"""The Pareto front of a search as data and files: the cheapest plan found for each nearness."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpu_deploy.files import replacing
from tpu_deploy.pipeline.search_engine import Measured, Outcome
from tpu_deploy.pipeline.search_target import METRIC, SIMILARITY, SQNR, Target
from tpu_deploy.quant import QuantizationPlan
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.reports.plain_data import plain

COLUMNS = ("cycles", "similarity", "sqnr_db", "metric", "float_operations", "float_results", "chosen", "label")
"""What stands in the CSV file of a front."""


def front_path(qtable: Path) -> Path:
    """Where the front lies that the plan of a quantize table belongs to."""
    return qtable.with_name(f"{qtable.name}.front.json")


@dataclass(frozen=True)
class Point:
    """A plan that no other found is better than in both cycles and the figure of the target.

    `similarity` is the least cosine over outputs and samples, `sqnr_db` that of the worst output, `metric` None where
    none was asked for. `operations` and `results` are the plan's, INT8 left out.
    """

    cycles: int
    similarity: float
    sqnr_db: float
    metric: float | None
    chosen: bool
    label: str
    operations: dict[str, str]
    results: dict[str, str]

    @property
    def figures(self) -> dict[str, float]:
        """What was measured, by name."""
        metric = {} if self.metric is None else {METRIC: self.metric}
        return {SIMILARITY: self.similarity, SQNR: self.sqnr_db, **metric}

    @property
    def float_operations(self) -> int:
        """How many operations are computed in float."""
        return len(self.operations)

    @property
    def float_results(self) -> int:
        """How many INT8 products give their sums as floats."""
        return len(self.results)

    def to_json(self) -> dict[str, Any]:
        """The point as plain data."""
        return plain({**vars(self), "float_operations": self.float_operations, "float_results": self.float_results})  # type: ignore[no-any-return]


def front(outcome: Outcome, target: Target) -> list[Measured]:
    """The measured mixtures that no other beats in both cycles and figure, the cheapest first."""
    sound = [e for e in outcome.measured if math.isfinite(e.cycles) and target.worth(e.figures) > -math.inf]
    sound = sound or [outcome.chosen]
    order = sorted(sound, key=lambda each: (each.cycles, -target.worth(each.figures), each.mixture.key))
    best: list[Measured] = []
    for each in order:
        if not best or target.worth(each.figures) > target.worth(best[-1].figures):
            best.append(each)
    return best


def point(found: Measured, plan: QuantizationPlan, chosen: bool) -> Point:
    """A measured mixture with its plan."""
    operations = {name: precision for name, precision in plan.operations.items() if precision != "INT8"}
    used = sorted({*operations.values(), *plan.results.values()})
    is_mixed = len(operations) < len(plan.operations)
    label = f"INT8 and {', '.join(used)}" if used and is_mixed else ", ".join(used) or "INT8"
    metric = found.figures.get(METRIC)
    figures = found.figures[SIMILARITY], found.figures[SQNR], metric
    return Point(int(found.cycles), *figures, chosen, label, operations, dict(plan.results))


def read(qtable: QuantizeTable) -> dict[str, Any] | None:
    """The front that a search wrote beside a quantize table; None where there is none, or the table was changed."""
    try:
        found = json.loads(front_path(Path(qtable.source)).read_bytes())
        chosen = next(each for each in found["points"] if each["chosen"])
        is_same = (chosen["operations"], chosen["results"]) == (dict(qtable.operations), dict(qtable.results))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return dict(found) if is_same else None


def write(points: Sequence[Point], target: Target, json_path: Path, csv_path: Path) -> None:
    """Writes the front as JSON and as CSV. Raises BadInput when it cannot."""
    record = {"target": target.words, "points": [each.to_json() for each in points]}
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([["" if (v := getattr(each, name)) is None else v for name in COLUMNS] for each in points])
    for path, content in ((json_path, json.dumps(record, indent=1) + "\n"), (csv_path, rows.getvalue())):
        with replacing(path) as stream:
            stream.write(content.encode())
