"""What a later build is held against: the part of a report's record that must not get worse, as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.reports import plain_data, record

SCHEMA = 1
"""Version of a baseline's layout."""

KIND = "tpu-deploy baseline"

LAYER_KEYS = ("operation", "dtype", "precision", "cosine", "sqnr_db", "saturated", "born_relative_l2")
"""What is kept of a layer's row."""

MEMORY_KEYS = ("coefficients", "context", "local_peak")


@dataclass(frozen=True)
class Baseline:
    """The figures of one build that a guard watches.

    `layers` and `thresholds` are by tensor name; `commands` counts by engine; `memory` is in bytes. `metrics` are
    figures of the task by name, `value` and `error` (its standard error) each; more is better.
    """

    label: str
    chip: str
    precision: str
    sha256: str | None
    samples: str
    layers: Mapping[str, Mapping[str, Any]]
    thresholds: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, Any]]
    commands: Mapping[str, int]
    memory: Mapping[str, int]
    cycles: int

    def to_json(self) -> dict[str, Any]:
        """The baseline as JSON-able data; `read` reads it back."""
        return {"kind": KIND, "schema": SCHEMA, **vars(self)}


def of_record(report: Mapping[str, Any]) -> Baseline:
    """The baseline of a report's record."""
    verification = report.get("verification") or {}
    return Baseline(
        label=report["model"]["name"],
        chip=report["chip"],
        precision=report["precision"],
        sha256=report["bmodel"]["sha256"],
        samples=verification.get("inputs", ""),
        layers={row["name"]: {key: row.get(key) for key in LAYER_KEYS} for row in report["layers"]},
        thresholds={n: {k: t[k] for k in ("threshold", "dtype")} for n, t in report["thresholds"].items()},
        metrics={},
        commands={engine: each["total"] for engine, each in report["commands"].items()},
        memory={key: report["memory"][key] for key in MEMORY_KEYS},
        cycles=report["timing"]["cycles"],
    )


def read(path: Path) -> Baseline:
    """The baseline in a file: one that `write` made, or a whole report (its folder or report.json).

    Raises BadInput, naming the file, for anything else.
    """
    file = path / "report.json" if path.is_dir() else path
    found = plain_data.read(file)
    if found.get("kind") == KIND:
        if found.get("schema") != SCHEMA:
            told = f"{file}: has schema {found.get('schema')}, not {SCHEMA}"
            raise BadInput(f"{told}; write it anew with `check --update`")
        held: dict[str, Any] = {each.name: found.get(each.name) for each in fields(Baseline)}
        made = Baseline(**held)
        return _sound(made, file, "write it anew with `check --update`")
    advice = "write it anew with `deploy --report`"
    try:
        made = of_record(record.checked(found, file))
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file}: lacks what a report holds; {advice}") from error
    return _sound(made, file, advice)


def read_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """The figures that `evaluate --json` printed into a file. Raises BadInput, naming the file, for anything else."""
    try:
        scores = [result["score"] for result in plain_data.read(path)["results"]]
        found = {score["metric"]: {"value": score["value"], "error": score["error"]} for score in scores}
        faults = list(_faults_by_name("metrics", found))
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: is not what `evaluate --json` prints (no {error})") from error
    if faults:
        raise BadInput(f"{path}: is not what `evaluate --json` prints ({faults[0]})")
    return found


def _sound(found: Baseline, file: Path, advice: str) -> Baseline:
    """The baseline, if everything in it is of its kind: it lies among sources, where merges and editors meet it.

    Raises BadInput naming what is not.
    """
    faults = [key for key, is_so in SINGLE.items() if not is_so(getattr(found, key))]
    faults += [fault for key in BY_NAME for fault in _faults_by_name(key, getattr(found, key))]
    if faults:
        raise BadInput(f"{file}: {faults[0]} is missing or of another kind; {advice}")
    return found


def _faults_by_name(key: str, held: Any) -> Iterator[str]:
    """What in the part `key` of a baseline is not of its kind."""
    if not isinstance(held, Mapping):
        yield key
        return
    for name, each in held.items():
        row = each if isinstance(each, Mapping) else {}
        kind = BY_NAME[key]
        if not _is_text(name):
            yield f"{key}: a name"
        if isinstance(kind, Mapping):
            yield from (
                f"{key}.{name}.{part}" for part, is_so in kind.items() if not (part in row and is_so(row[part]))
            )
        elif not kind(each):
            yield f"{key}.{name}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    """Whether `plain_data.number` reads it."""
    return value is None or value in ("nan", "inf", "-inf") or isinstance(value, int | float)


SINGLE: Mapping[str, Callable[[Any], bool]] = {
    "label": _is_text,
    "chip": _is_text,
    "precision": _is_text,
    "samples": _is_text,
    "sha256": lambda value: value is None or _is_text(value),
    "cycles": _is_count,
}
"""Of what kind the single figures of a baseline are."""

BY_NAME: Mapping[str, Callable[[Any], bool] | Mapping[str, Callable[[Any], bool]]] = {
    "layers": {key: _is_text if key in ("operation", "dtype", "precision") else _is_number for key in LAYER_KEYS},
    "thresholds": {"threshold": _is_number, "dtype": _is_text},
    "metrics": {"value": _is_number, "error": _is_number},
    "commands": _is_count,
    "memory": _is_count,
}
"""Of what kind are those that it holds by name: one each, or a row."""


def write(path: Path, baseline: Baseline) -> None:
    """Writes a baseline. Raises BadInput when that cannot be done."""
    with replacing(path) as stream:
        stream.write((json.dumps(baseline.to_json(), indent=1) + "\n").encode())
