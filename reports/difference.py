"""Two reports held against each other, layer by layer: what came nearer, what went away, at what cost."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tpu_deploy.reports.plain_data import number, plain

SCHEMA = 2
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
    and of the layer alone; `born` over the norm of the tensor; scales are those of the planned type (None: a float).
    `earlier` is what it was called before, where that was something else.
    """

    name: str
    earlier: str | None
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
    before_scale: float | None
    after_scale: float | None

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

    @property
    def is_in_both(self) -> bool:
        """Whether both builds have the tensor."""
        return self.before_dtype is not None and self.after_dtype is not None

    @property
    def type_changed(self) -> bool:
        """Whether both builds have the tensor, and in another type or with another scale."""
        before, after = self.before_scale, self.after_scale
        rescaled = before is not None and after is not None and not math.isclose(before, after, rel_tol=SAME)
        return self.is_in_both and (self.before_dtype != self.after_dtype or rescaled)


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
    ours, theirs = ({row["name"]: row for row in record["layers"]} for record in (before, after))
    earlier = renamed(before["layers"], after["layers"])
    found = []
    for output in after["outputs"]:
        row, was = theirs.get(output["value"]), ours.get(earlier.get(output["value"], output["value"]))
        if row is not None and was is not None:
            for key, unit, what in (("sqnr_db", "dB", "signal to noise"), ("cosine", "", "worst cosine")):
                pair = number(was[key]), number(row[key])
                found.append(_figure(f"{output['name']}, {what}", unit, *pair, more_is_better=True))
    return found


def _cost(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    figures = [
        ("cycles", "", "timing", "cycles"),
        ("device memory", "B", "memory", "device"),
        ("coefficients", "B", "memory", "coefficients"),
        ("local memory, peak", "B", "memory", "local_peak"),
        ("bmodel", "B", "bmodel", "bytes"),
    ]
    found = [
        _figure(name, unit, _count(before[part][key]), _count(after[part][key]), False)
        for name, unit, part, key in figures
    ]
    for engine in after["commands"]:
        ours, theirs = (_count(r["commands"].get(engine, {"total": 0})["total"]) for r in (before, after))
        found.append(_figure(f"{engine} commands", "", ours, theirs, more_is_better=False))
    return found


def _count(value: Any) -> int:
    """A whole number. Raises TypeError for anything else."""
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    return value


def _figure(name: str, unit: str, before: float, after: float, more_is_better: bool) -> Figure:
    same = before == after or (math.isnan(before) and math.isnan(after))
    return Figure(name, unit, before, after, None if same else (after > before) is more_is_better)


def _layers(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[LayerChange]:
    ours, theirs = ({row["name"]: row for row in record["layers"]} for record in (before, after))
    earlier = renamed(before["layers"], after["layers"])
    limits = before["thresholds"], after["thresholds"]
    found = [_layer(ours.get(earlier.get(name, name)), row, limits) for name, row in theirs.items()]
    kept = {earlier.get(name, name) for name in theirs}
    return [*found, *(_layer(row, None, limits) for name, row in ours.items() if name not in kept)]


def renamed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Earlier names by later ones, of layers that lie alike between layers that kept theirs: as many of them, with the
    same operations and shapes.
    """
    places = {row["name"]: place for place, row in enumerate(before)}
    kept = [(places[row["name"]], place) for place, row in enumerate(after) if row["name"] in places]
    found: dict[str, str] = {}
    for (a, b), (c, d) in itertools.pairwise([(-1, -1), *kept, (len(before), len(after))]):
        ours, theirs = before[a + 1 : c], after[b + 1 : d]
        if [_kind(row) for row in ours] == [_kind(row) for row in theirs]:
            found |= {late["name"]: early["name"] for early, late in zip(ours, theirs, strict=True)}
    return found


def _kind(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["operation"], row["shape"]


def _layer(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    limits: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> LayerChange:
    def pair(key: str) -> list[float | None]:
        return [None if row is None or row.get(key) is None else number(row[key]) for row in (before, after)]

    row = before if after is None else after
    assert row is not None
    earlier = before["name"] if before is not None and before["name"] != row["name"] else None
    kinds = [
        {} if row is None else each.get(row["name"], {}) for row, each in zip((before, after), limits, strict=True)
    ]
    figures = [*pair("sqnr_db"), *pair("isolated_sqnr_db"), *pair("cosine"), *pair("born_relative_l2")]
    return LayerChange(
        row["name"],
        earlier,
        row["operation"],
        *(None if each is None else each["dtype"] for each in (before, after)),
        *figures,
        *(each.get("threshold") for each in kinds),
        *(each.get("scale") for each in kinds),
    )
