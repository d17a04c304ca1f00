"""Two builds held against each other: what got worse, by how much, and why that is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tpu_deploy.reports.baseline import Baseline
from tpu_deploy.reports.plain_data import number
from tpu_deploy.reports.tolerances import LayerTolerance, RelativeTolerance, Tolerances

CHECKS = ("metric", "layers", "thresholds", "cycles", "memory", "commands", "bmodel")
"""What is checked, in the order in which it is reported."""

MORE_SATURATION = 1e-3
"""A share of saturated values that rose by this much is taken for a cause."""

MORE_BORN = 1.05
"""A layer whose own error rose by this factor is taken to have made its loss itself."""


@dataclass(frozen=True)
class Verdict:
    """One figure of one subject: a layer, an engine, a kind of memory. `reason` is empty while it is not worse."""

    check: str
    subject: str
    before: str
    after: str
    worse: bool
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All verdicts of one build against its baseline, in order."""

    label: str
    verdicts: tuple[Verdict, ...]

    @property
    def worse(self) -> tuple[Verdict, ...]:
        """The verdicts beyond their tolerance."""
        return tuple(v for v in self.verdicts if v.worse)


def compare(now: Baseline, before: Baseline, tolerances: Tolerances) -> Comparison:
    """The verdict on every figure of `now` that `before` has."""
    found: dict[str, list[Verdict]] = {check: [] for check in CHECKS}
    found["metric"] += _metric(now, before, tolerances)
    found["thresholds"] += _thresholds(now, before, tolerances.thresholds)
    moved = {v.subject for v in found["thresholds"] if v.worse}
    found["layers"] += _layers(now, before, tolerances, moved)
    found["cycles"].append(_grown("cycles", "cycles", now.cycles, before.cycles, tolerances.cycles))
    for check, ours, theirs, tolerance in (
        ("memory", now.memory, before.memory, tolerances.memory),
        ("commands", now.commands, before.commands, tolerances.commands),
    ):
        found[check] += [_grown(check, name, ours.get(name, 0), count, tolerance) for name, count in theirs.items()]
    found["bmodel"] += _hash(now, before, tolerances)
    return Comparison(now.label, tuple(v for check in CHECKS for v in found[check]))


def _metric(now: Baseline, before: Baseline, tolerances: Tolerances) -> Iterator[Verdict]:
    for name, kept in before.metrics.items():
        old, error = number(kept["value"]), number(kept["error"])
        if name not in now.metrics:
            yield Verdict("metric", name, f"{old:.6g}", "not measured", True, "it was not measured this time")
            continue
        new = number(now.metrics[name]["value"])
        fall = new - old if name in tolerances.metric.less_is_better else old - new
        allowed = max(tolerances.metric.drop, 0.0 if math.isnan(error) else tolerances.metric.standard_errors * error)
        worse = not fall <= allowed
        reason = f"worse by {fall:.4g}, allowed are {allowed:.4g}" if worse else ""
        yield Verdict("metric", name, f"{old:.6g}", f"{new:.6g}", worse, reason)


def _layers(now: Baseline, before: Baseline, tolerances: Tolerances, moved: set[str]) -> Iterator[Verdict]:
    first: str | None = None
    for name, old in before.layers.items():
        new = now.layers.get(name)
        if new is None:
            yield Verdict("layers", name, _level(old), "missing", True, "the network has no such tensor any more")
            continue
        allowed = tolerances.of_layer(name)
        worse = _is_worse(old, new, allowed)
        reason = _belief(name, old, new, now, before, moved, first) if worse else ""
        yield Verdict("layers", name, _level(old), _level(new), worse, reason)
        if worse and first is None:
            first = name


def _is_worse(old: Mapping[str, Any], new: Mapping[str, Any], allowed: LayerTolerance) -> bool:
    level = number(new["sqnr_db"])
    if math.isnan(level):
        return not math.isnan(number(old["sqnr_db"]))
    fell = number(old["sqnr_db"]) - level > allowed.sqnr_db
    return level < allowed.ignore_above_db and (fell or number(old["cosine"]) - number(new["cosine"]) > allowed.cosine)


def _level(row: Mapping[str, Any]) -> str:
    return f"{number(row['sqnr_db']):.1f} dB, cosine {number(row['cosine']):.4f}"


def _belief(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], now: Baseline, before: Baseline, moved: set[str],
    first: str | None,
) -> str:  # fmt: skip
    """Why a layer got worse, as far as the two reports tell."""
    if old["precision"] != new["precision"]:
        return f"it is computed in {new['precision']} instead of {old['precision']}"
    if old["dtype"] != new["dtype"]:
        return f"it is stored as {new['dtype']} instead of {old['dtype']}"
    rise = number(new["saturated"]) - number(old["saturated"])
    saturation = f"{number(new['saturated']):.2%} of its values saturate, {number(old['saturated']):.2%} before"
    if name in moved:
        was, is_now = (number(b.thresholds[name]["threshold"]) for b in (before, now))
        tail = f"; {saturation}" if rise > MORE_SATURATION else ""
        return f"its threshold went from {was:.4g} to {is_now:.4g}{tail}"
    if rise > MORE_SATURATION:
        return saturation
    if number(new["born_relative_l2"]) > MORE_BORN * number(old["born_relative_l2"]):
        return (
            f"its own error rose from {number(old['born_relative_l2']):.2%} to {number(new['born_relative_l2']):.2%}: "
            "its weights, multipliers or table changed"
        )
    if first is not None:
        return f"it passes on what {first} lost"
    if now.samples != before.samples:
        return f"it was verified on other samples: {now.samples or 'none'} instead of {before.samples or 'none'}"
    return "what it is given got worse, or the samples it was verified on changed"


def _thresholds(now: Baseline, before: Baseline, tolerance: RelativeTolerance) -> Iterator[Verdict]:
    for name, old in before.thresholds.items():
        new = now.thresholds.get(name)
        if new is None:
            continue  # the layer that is missing says so
        was, is_now = number(old["threshold"]), number(new["threshold"])
        worse = abs(is_now - was) > tolerance.relative * abs(was)
        reason = f"moved by {is_now / was - 1:+.1%}, allowed are {tolerance.relative:.1%}" if worse and was else ""
        yield Verdict("thresholds", name, f"{was:.6g}", f"{is_now:.6g}", worse, reason or ("moved" if worse else ""))


def _grown(check: str, subject: str, now: int, before: int, tolerance: RelativeTolerance) -> Verdict:
    worse = now > before * (1 + tolerance.relative)
    share = f"{now / before - 1:+.1%}" if before else "from nothing"
    reason = f"grew {share}, allowed are {tolerance.relative:.1%}" if worse else ""
    return Verdict(check, subject, f"{before:,}", f"{now:,}", worse, reason)


def _hash(now: Baseline, before: Baseline, tolerances: Tolerances) -> Iterator[Verdict]:
    if before.sha256 is None:
        return
    worse = tolerances.bmodel.must_match and now.sha256 != before.sha256
    reason = "other bytes, and the tolerances want the same" if worse else ""
    yield Verdict("bmodel", "sha256", before.sha256[:12], (now.sha256 or "no file")[:12], worse, reason)
