"""A profile as plain data for JSON, and its commands as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, fields
from typing import Any

from tpu_deploy.reports.bounds import Bound
from tpu_deploy.reports.idle import Gap
from tpu_deploy.reports.profile import Part, Profile, StageProfile, Timed

GAPS = 50
"""How many idle gaps a record keeps, the longest."""


def record(profile: Profile) -> dict[str, Any]:
    """The profile without its single commands and blocks, by stage."""
    return {"chip": profile.chip, "cycles": profile.cycles, "stages": [_stage(stage) for stage in profile.stages]}


def _stage(stage: StageProfile) -> dict[str, Any]:
    memory = stage.memory
    return {
        "net": stage.net,
        "stage": stage.stage,
        "cycles": stage.cycles,
        "milliseconds": stage.milliseconds,
        "frequency_hz": stage.frequency_hz,
        "tiu_busy": stage.tiu_busy,
        "gdma_busy": stage.gdma_busy,
        "bound": _bound(stage.bound, stage.cycles),
        "traffic": [asdict(row) for row in stage.traffic],
        "within_chip_bytes": stage.within_chip_bytes,
        "local_memory": {
            "peak": memory.peak,
            "lower_bound": memory.lower_bound,
            "capacity": memory.capacity,
            "is_planned": memory.is_planned,
        },
        "parts_are": stage.parts_are,
        "parts": [_part(part) for part in stage.parts],
        "operations": [asdict(share) for share in stage.operations],
        "instructions": [asdict(share) for share in stage.kinds],
        "gaps": [_gap(stage, gap) for gap in stage.gaps[:GAPS]],
        "unread": list(stage.unread),
    }


def _bound(bound: Bound, cycles: int) -> dict[str, Any]:
    distance = bound.distance(cycles) if bound.cycles else None
    return asdict(bound) | {"cycles": bound.cycles, "binds": bound.binds, "distance": distance}


def _part(part: Part) -> dict[str, Any]:
    return asdict(part) | {"bound": _bound(part.bound, part.cycles)}


def _gap(stage: StageProfile, gap: Gap) -> dict[str, Any]:
    def name(index: int | None) -> str | None:
        return None if index is None else f"{stage.commands[index].engine} {stage.commands[index].number}"

    return asdict(gap) | {"waiting": name(gap.waiting), "before": name(gap.before)}


def commands_csv(profile: Profile) -> str:
    """Every command of every stage, a row each in the order they start.

    `waits_for` is the identifier of the command of the other engine it waits for, empty where it waits for none.
    """
    stream = io.StringIO()
    names = [field.name for field in fields(Timed)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["net", "stage", *names])
    for stage in profile.stages:
        for command in stage.commands:
            row = {name: getattr(command, name) for name in names}
            row["waits_for"] = stage.commands[command.waits_for].number if command.waits_for >= 0 else ""
            row["is_critical"] = int(command.is_critical)
            writer.writerow([stage.net, stage.stage, *row.values()])
    return stream.getvalue()
