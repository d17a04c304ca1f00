"""The report as one HTML file that needs nothing else: drawn from the record alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tpu_deploy.reports import text

WIDTH, HEIGHT = 960, 200
"""Size of the chart's drawing area."""

CEILING_DB = 60.0
"""The top of the chart; tensors that are nearer stand there."""

GRID_DB = (0, 10, 20, 30, 40, 50, 60)


@dataclass(frozen=True)
class Mark:
    """A tensor in the chart: a bar at `x` of `width` from `y` down, and what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str


def render(record: Mapping[str, Any], profile: str = "") -> str:
    """The page of a report's record; `profile` is the section that says where the time goes, as markup."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "size": text.size,
        "decibels": lambda value: text.decibels(number(value)),
        "cosine": lambda value: text.cosine(number(value)),
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{number(value):.2%}",
        "short": lambda value: "" if value is None else f"{number(value):.3g}",
        "sort_key": lambda value: number(value) if value is not None else "",
    }
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text())
    return template.render(
        record=record,
        profile=profile,
        marks=chart(record["layers"]),
        grid=[(db, height_of(db)) for db in GRID_DB],
        width=WIDTH,
        height=HEIGHT,
    )


def number(value: float | str) -> float:
    """A number of the record, where those that JSON lacks are spelt "nan", "inf" and "-inf"."""
    return float(value)


def height_of(decibels: float) -> float:
    """Where a level stands in the chart, in pixels from the top."""
    return HEIGHT * (1 - min(max(decibels, 0.0), CEILING_DB) / CEILING_DB)


def chart(layers: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """A bar for each layer, as high as its signal to noise ratio."""
    pitch = WIDTH / max(len(layers), 1)
    return [_mark(layer, index * pitch, pitch) for index, layer in enumerate(layers)]


def _mark(layer: Mapping[str, Any], x: float, pitch: float) -> Mark:
    level, cosine = number(layer["sqnr_db"]), number(layer["cosine"])
    y = height_of(0.0 if math.isnan(level) else level)
    label = f"{layer['name']} ({layer['operation']}): {text.decibels(level)}, cosine {text.cosine(cosine)}"
    return Mark(round(x, 2), round(y, 2), round(pitch * 0.85, 2), round(HEIGHT - y, 2), rank(cosine), label)


def rank(cosine: float) -> str:
    """How near a tensor is, in three steps."""
    return "good" if cosine >= 0.99 else "fair" if cosine >= 0.95 else "poor"
