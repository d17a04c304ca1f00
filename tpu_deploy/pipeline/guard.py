"""`tpu_deploy.check`: a report held against a baseline, for a CI."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.options import writable_file
from tpu_deploy.reports import baseline as baselines
from tpu_deploy.reports import tolerances as tolerance_files
from tpu_deploy.reports.baseline import Baseline
from tpu_deploy.reports.regression import Comparison, compare
from tpu_deploy.reports.tolerances import Tolerances

PathLike = str | os.PathLike[str]


def check(
    report: PathLike,
    baseline: PathLike,
    tolerances: Tolerances | PathLike | None = None,
    update: bool = False,
    metrics: PathLike | None = None,
) -> Comparison:
    """Every figure of a report (report.json or its folder) held against a baseline.

    `metrics` names a file with what `evaluate --json` printed, which is then part of the report. `tolerances` says how
    much worse each figure may be (default: `Tolerances()`), or names a TOML file that does. `update` first makes the
    report the baseline. `comparison.worse` is what a CI should fail on.
    Raises BadInput for files that are missing or of another kind, and where report and baseline are of different chips
    or precisions.
    """
    now, target = baselines.read(Path(report)), Path(baseline)
    allowed = _allowed(tolerances)
    if metrics is not None:
        now = replace(now, metrics=baselines.read_metrics(Path(metrics)))
    if not now.layers:
        raise BadInput(f"{report}: was made without verification, it tells of no layer; deploy without --no-verify")
    if update:
        writable_file(target, "--baseline", report, Path(report, "report.json"), metrics, tolerances)
        baselines.write(target, now)
        return compare(now, now, allowed)
    if not target.exists():
        raise BadInput(f"{target}: does not exist; make it from this report with --update")
    before = baselines.read(target)
    _check_same_kind(now, before, target)
    _check_names(allowed.layer, (*before.layers, *now.layers), '[layer."{}"] is no layer of the network', tolerances)
    figures = (*before.metrics, *now.metrics)
    _check_names(allowed.metric.less_is_better, figures, 'less_is_better: "{}" is no figure of the task', tolerances)
    return compare(now, before, allowed)


def _allowed(tolerances: Tolerances | PathLike | None) -> Tolerances:
    if tolerances is None:
        return Tolerances()
    return tolerances if isinstance(tolerances, Tolerances) else tolerance_files.read(Path(tolerances))


def _check_names(given: Iterable[str], known: Sequence[str], fault: str, source: Tolerances | PathLike | None) -> None:
    """Raises BadInput for a tolerance of what is not among the `known`: nobody would notice that it does nothing."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.0)
            label = "the tolerances" if isinstance(source, Tolerances) else source
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise BadInput(f"{label}: {fault.format(name)}{hint}")


def _check_same_kind(now: Baseline, before: Baseline, path: Path) -> None:
    for name in ("chip", "precision"):
        ours, theirs = getattr(now, name), getattr(before, name)
        if ours != theirs:
            raise BadInput(
                f"{path}: is a baseline for {name} {theirs}, the report is of {ours}; renew it with --update"
            )
