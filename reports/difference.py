"""Two reports held against each other, layer by layer: what came nearer, what went away, at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tpu_deploy.reports.plain_data import number, plain

SCHEMA = 1
"""Version of the layout of a difference."""

NOTABLE_DB = 0.5
"""By how much a tensor's signal to noise must move to be called nearer or farther: less happens by chance."""

SAME = 1e-6
"""Thresholds nearer than this, relatively, are the same."""


@dataclass(frozen=True)
class Figure:
    """One figure of both builds; `better` is None where it is the same or neither is better."""

    name: str
    unit: str
    before: float | str
    after: float | str
    better: bool | None


@dataclass(frozen=True)
class LayerChange:
    """One tensor in both builds; what one of them lacks is None. Signal to noise in dB, all errors before included,
    and of the layer alone; `born` over the norm of the tensor.
    """

    name: str
    operation: str
    before_dtype: str | None
    after_dtype: str | None
    before_sqnr_db: float | None
    after_sqnr_db: float | None
    before_alone_db: float | None
    after_alone_db: float | None
    before_cosine: float | None
    after_cosine: float | None
    before_born: float | None
    after_born: float | None
    before_threshold: float | None
    after_threshold: float | None

    @property
    def gain_db(self) -> float:
        """By how much the tensor came nearer; 0 where one build lacks it or both are exact."""
        if self.before_sqnr_db is None or self.after_sqnr_db is None or self.before_sqnr_db == self.after_sqnr_db:
            return 0.0
        return self.after_sqnr_db - self.before_sqnr_db

    @property
    def threshold_changed(self) -> bool:
        """Whether both builds have a threshold, and another one."""
        before, after = self.before_threshold, self.after_threshold
        return before is not None and after is not None and not math.isclose(before, after, rel_tol=SAME)


@dataclass(frozen=True)
class Difference:
    """All that differs between two builds; `layers` are those of both, in the order of the later one."""

    before: str
    after: str
    is_same_model: bool
    options: Mapping[str, tuple[Any, Any]]
    figures: Sequence[Figure]
    layers: Sequence[LayerChange]
    new_findings: Sequence[str]
    gone_findings: Sequence[str]

    @property
    def nearer(self) -> list[LayerChange]:
        """The tensors that came nearer by a notable amount, most first."""
        return sorted((each for each in self.layers if each.gain_db >= NOTABLE_DB), key=lambda each: -each.gain_db)

    @property
    def farther(self) -> list[LayerChange]:
        """The tensors that went away by a notable amount, or became NaN, most first."""
        return sorted(
            (each for each in self.layers if not each.gain_db > -NOTABLE_DB),
            key=lambda each: -math.inf if math.isnan(each.gain_db) else each.gain_db,
        )

    def to_json(self) -> str:
        """The difference as JSON."""
        whole = {"kind": "tpu-deploy difference", "schema": SCHEMA, **asdict(self)}
        return json.dumps(plain(whole), indent=1, allow_nan=False) + "\n"


def compared(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str] = ("before", "after")
) -> Difference:
    """What differs between the records of two reports that are called `names`."""
    findings = [[f"{each['tensor']}: {each['message']}" for each in record["findings"]] for record in (before, after)]
    return Difference(
        before=_label(names[0], before),
        after=_label(names[1], after),
        is_same_model=before["model"]["hash"] == after["model"]["hash"],
        options=_options(before, after),
        figures=[*_accuracy(before, after), *_cost(before, after)],
        layers=_layers(before, after),
        new_findings=[each for each in findings[1] if each not in findings[0]],
        gone_findings=[each for each in findings[0] if each not in findings[1]],
    )


def _label(name: str, record: Mapping[str, Any]) -> str:
    sha256 = record["bmodel"]["sha256"]
    return f"{name}: {record['model']['name']}, {record['precision'].upper()}, bmodel sha256 {sha256[:12]}"


def _options(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    ours, theirs = before["options"], after["options"]
    return {
        key: (ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    }


def _accuracy(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    rows = [{row["name"]: row for row in record["layers"]} for record in (before, after)]
    found = []
    for output in after["outputs"]:
        value = output["value"]
        if value in rows[0] and value in rows[1]:
            for key, unit, what in (("sqnr_db", "dB", "signal to noise"), ("cosine", "", "worst cosine")):
                pair = number(rows[0][value][key]), number(rows[1][value][key])
                found.append(_figure(f"{output['name']}, {what}", unit, *pair, more_is_better=True))
    for record in (before, after):
        if record["metric"] is None:
            return found
    metric = after["metric"]
    pair = number(before["metric"]["value"]), number(metric["value"])
    return [*found, _figure(metric["name"], "", *pair, more_is_better=metric["higher_is_better"])]


def _cost(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    figures = [
        ("cycles", "", "timing", "cycles"),
        ("device memory", "B", "memory", "device"),
        ("coefficients", "B", "memory", "coefficients"),
        ("local memory, peak", "B", "memory", "local_peak"),
        ("bmodel", "B", "bmodel", "bytes"),
    ]
    found = [_figure(name, unit, before[part][key], after[part][key], False) for name, unit, part, key in figures]
    for engine in after["commands"]:
        pair = before["commands"][engine]["total"], after["commands"][engine]["total"]
        found.append(_figure(f"{engine} commands", "", *pair, more_is_better=False))
    return found


def _figure(name: str, unit: str, before: float, after: float, more_is_better: bool) -> Figure:
    same = before == after or (math.isnan(before) and math.isnan(after))
    return Figure(name, unit, before, after, None if same else (after > before) is more_is_better)


def _layers(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[LayerChange]:
    ours, theirs = ({row["name"]: row for row in record["layers"]} for record in (before, after))
    gone = [name for name in ours if name not in theirs]
    limits = before["thresholds"], after["thresholds"]
    return [_layer(name, ours.get(name), theirs.get(name), limits) for name in [*theirs, *gone]]


def _layer(
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    limits: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> LayerChange:
    def pair(key: str) -> list[float | None]:
        return [None if row is None or row.get(key) is None else number(row[key]) for row in (before, after)]

    row = before if after is None else after
    assert row is not None
    thresholds = [each[name]["threshold"] if name in each else None for each in limits]
    dtypes = [None if each is None else each["dtype"] for each in (before, after)]
    figures = [*pair("sqnr_db"), *pair("isolated_sqnr_db"), *pair("cosine"), *pair("born_relative_l2")]
    return LayerChange(name, row["operation"], *dtypes, *figures, *thresholds)
