"""The rows of the accuracy benchmark: as lines of a terminal, as JSON and as Markdown tables."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accuracy_figures import Figures, Value

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """A tool in a setting on a task; without figures it failed, for the reason in `failure`.

    Seconds and peak memory (bytes) are of the quantization; the float network has none.
    """

    task: str
    tool: str
    setting: str
    version: str = ""
    figures: Figures | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak: int | None = None
    failure: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What two rows that measure the same have in common."""
        return self.task, self.tool, self.setting


@dataclass(frozen=True)
class Measured:
    """A task as it was measured: test and calibration samples, the name of its score, and that of the float network."""

    samples: int
    calibration: int
    metric: str
    score: Value | None


@dataclass
class Results:
    """All tasks by name, and all rows in the order they are shown."""

    tasks: dict[str, Measured]
    rows: list[Row]

    def begin(self, name: str, measured: Measured) -> None:
        """Says how a task is measured; rows of an earlier run must have been measured in the same way."""
        earlier = self.tasks.setdefault(name, measured)
        if (earlier.samples, earlier.calibration) != (measured.samples, measured.calibration):
            sys.exit(f"--from: {name} had {earlier.samples} test samples and {earlier.calibration} to calibrate")
        self.tasks[name] = measured

    def add(self, row: Row) -> None:
        """Puts the row in the place of one that measures the same, or at the end."""
        places = {each.key: place for place, each in enumerate(self.rows)}
        place = places.get(row.key, len(self.rows))
        self.rows[place : place + 1] = [row]

    def write_json(self, path: Path) -> None:
        tasks = {name: asdict(task) for name, task in self.tasks.items()}
        data = {"schema": SCHEMA, "tasks": tasks, "rows": [asdict(row) for row in self.rows]}
        path.write_text(json.dumps(data, indent=1) + "\n")


def read_results(path: Path) -> Results:
    """The results that an earlier run wrote."""
    data = json.loads(path.read_text())
    tasks = {name: Measured(**task | {"score": _value(task["score"])}) for name, task in data["tasks"].items()}
    return Results(tasks, [Row(**row | {"figures": _figures(row["figures"])}) for row in data["rows"]])


def _figures(data: Mapping[str, Any] | None) -> Figures | None:
    if data is None:
        return None
    return Figures(_value(data["agreement"]), _value(data["score"]), _value(data["change"]), data["sqnr"])


def _value(data: Mapping[str, Any] | None) -> Value | None:
    return None if data is None else Value(**data)


def headline(task: str, measured: Measured) -> str:
    """What stands above a task's lines in the terminal."""
    samples = f"{measured.samples} samples, {measured.calibration} to calibrate"
    floats = f", float {measured.metric} {measured.score}" if measured.score else ""
    columns = f"{'tool':12} {'setting':28} {'as float %':>15} {'dB':>6}  {measured.metric:>16} {'change':>15}"
    return f"\n{task}: {samples}{floats}\n{columns} {'s':>7} {'CPU s':>7} {'MB':>6}"


def line(row: Row) -> str:
    """A row as a line of the terminal."""
    start = f"{row.tool:12} {row.setting:28}"
    figures = row.figures
    if figures is None:
        return f"{start} failed: {row.failure}"
    agreement, score, change = (
        "" if value is None else str(value) for value in (figures.agreement, figures.score, figures.change)
    )
    values = f"{agreement:>15} {figures.sqnr:6.1f}  {score:>16} {change:>15}"
    return f"{start} {values} {row.seconds:7.1f} {row.cpu_seconds:7.1f} {(row.peak or 0) / 1e6:6.0f}"


def markdown(results: Results) -> str:
    """Three tables with a row for each tool and setting and a column for each task; below them what failed."""
    tasks = results.tasks
    samples = [f"{name} ({task.samples})" for name, task in tasks.items()]
    metrics = [f"{name} ({task.metric})" for name, task in tasks.items()]
    floats = _cells("float32", *("" if task.score is None else str(task.score) for task in tasks.values()))
    tables = [
        "Same answer as the float network in % ± standard error, and pooled signal to noise of the outputs in dB:",
        _table(results, samples, _nearness),
        "Score, and its change from float ± standard error (samples paired):",
        _table(results, metrics, _score, floats),
        "Seconds, processor seconds and peak memory in MB of the quantization:",
        _table(results, list(tasks), _cost),
    ]
    failures = [f"- {row.tool} {row.setting}, {row.task}: {row.failure}" for row in results.rows if not row.figures]
    return "\n\n".join([*tables, *(["Failed:", "\n".join(failures)] if failures else [])]) + "\n"


def _table(results: Results, heads: list[str], cell: Callable[[Row, Figures], str], *first: str) -> str:
    """A table, whose rows begin with `first`."""
    versions = {row.tool: row.version for row in results.rows if row.version}
    lines = [_cells("tool", *heads), _cells(*["---"] * (len(heads) + 1)), *first]
    for tool, setting in dict.fromkeys((row.tool, row.setting) for row in results.rows):
        found = {row.task: row for row in results.rows if (row.tool, row.setting) == (tool, setting)}
        cells = []
        for row in map(found.get, results.tasks):
            cells.append("" if row is None else "failed" if row.figures is None else cell(row, row.figures))
        name = f"{tool} {versions.get(tool, '')}".rstrip()
        lines.append(_cells(f"{name}: {setting}", *cells))
    return "\n".join(lines)


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _nearness(_: Row, figures: Figures) -> str:
    return f"{figures.sqnr:.1f}" if figures.agreement is None else f"{figures.agreement}, {figures.sqnr:.1f}"


def _score(_: Row, figures: Figures) -> str:
    if figures.score is None or figures.change is None:
        return ""
    return f"{figures.score.mean:.2f} ({'+' if figures.change.mean >= 0 else ''}{figures.change})"


def _cost(row: Row, _: Figures) -> str:
    return f"{row.seconds:.1f}, {row.cpu_seconds:.1f}, {(row.peak or 0) / 1e6:.0f}"
