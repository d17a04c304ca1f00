"""How much worse a build may be than its baseline, read from a small TOML file."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tpu_deploy.errors import BadInput


@dataclass(frozen=True)
class LayerTolerance:
    """How far a layer may fall, in decibels of SQNR and in cosine; above `ignore_above_db` it may fall freely."""

    sqnr_db: float = 1.0
    cosine: float = 0.002
    ignore_above_db: float = 50.0


@dataclass(frozen=True)
class MetricTolerance:
    """How far a figure of the task may fall: the larger of `drop`, in its own units, and so many standard errors.

    Of the figures named in `less_is_better`, errors for example, how far they may rise.
    """

    drop: float = 0.0
    standard_errors: float = 1.0
    less_is_better: Sequence[str] = ()


@dataclass(frozen=True)
class RelativeTolerance:
    """How far a figure may rise (a threshold: move either way), as a share of the baseline's."""

    relative: float = 0.02


@dataclass(frozen=True)
class HashTolerance:
    """Whether the bmodel must be the same byte for byte."""

    must_match: bool = False


@dataclass(frozen=True)
class Tolerances:
    """All tolerances; `layer` holds those of single layers, by tensor name."""

    layers: LayerTolerance = LayerTolerance()
    layer: Mapping[str, LayerTolerance] = field(default_factory=dict)
    metric: MetricTolerance = MetricTolerance()
    thresholds: RelativeTolerance = RelativeTolerance(0.05)
    bmodel: HashTolerance = HashTolerance()
    commands: RelativeTolerance = RelativeTolerance()
    memory: RelativeTolerance = RelativeTolerance()
    cycles: RelativeTolerance = RelativeTolerance(0.01)

    def of_layer(self, name: str) -> LayerTolerance:
        """The tolerance of a layer."""
        return self.layer.get(name, self.layers)


def read(path: Path) -> Tolerances:
    """The tolerances in a TOML file; what it leaves out keeps its default.

    Raises BadInput naming the file and the key for what is unknown, negative or of another kind.
    """
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise BadInput(f"{path}: is no TOML ({error})") from error
    known = {f.name: getattr(Tolerances(), f.name) for f in fields(Tolerances) if f.name != "layer"}
    single = found.pop("layer", {})
    chosen = {}
    for section, values in found.items():
        if section not in known:
            raise BadInput(f"{path}: has an unknown section [{section}]; known are {', '.join((*known, 'layer'))}")
        chosen[section] = _section(path, section, known[section], values)
    usual = chosen.get("layers", known["layers"])
    if not isinstance(single, dict):
        raise BadInput(f'{path}: layer must be tables by tensor name, like [layer."conv_1"]')
    layer = {name: _section(path, f"layer.{name}", usual, values) for name, values in single.items()}
    return Tolerances(**chosen, layer=layer)


def _section(path: Path, section: str, usual: Any, values: Any) -> Any:
    """The dataclass `usual` with the values of a section in it."""
    if not isinstance(values, dict):
        raise BadInput(f"{path}: {section} must be a table, like [{section}]")
    kinds = {f.name: type(getattr(usual, f.name)) for f in fields(usual)}
    for key, value in values.items():
        if key not in kinds:
            raise BadInput(f"{path}: [{section}] has an unknown key {key}; known are {', '.join(kinds)}")
        if kinds[key] is tuple:
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise BadInput(f"{path}: [{section}] {key} = {value!r}: must be a list of names")
        elif kinds[key] is bool:
            if not isinstance(value, bool):
                raise BadInput(f"{path}: [{section}] {key} = {value!r}: must be true or false")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise BadInput(f"{path}: [{section}] {key} = {value!r}: must be a number, zero or more")
    return replace(usual, **values)
