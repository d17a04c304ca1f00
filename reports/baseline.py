"""What a later build is held against: the part of a report's record that must not get worse, as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    try:
        if found.get("kind") != KIND:
            return of_record(record.checked(found, file))
        if found["schema"] != SCHEMA:
            raise BadInput(f"{file}: has schema {found['schema']}, not {SCHEMA}; write it anew with `check --update`")
        return Baseline(**{k: v for k, v in found.items() if k not in ("kind", "schema")})
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: lacks what a report holds ({error}); write it anew with `deploy --report`") from error


def read_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """The figures that `evaluate --json` printed into a file. Raises BadInput, naming the file, for anything else."""
    try:
        scores = [result["score"] for result in plain_data.read(path)["results"]]
        return {score["metric"]: {"value": score["value"], "error": score["error"]} for score in scores}
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: is not what `evaluate --json` prints (no {error})") from error


def write(path: Path, baseline: Baseline) -> None:
    """Writes a baseline. Raises BadInput when that cannot be done."""
    with replacing(path) as stream:
        stream.write((json.dumps(baseline.to_json(), indent=1) + "\n").encode())
