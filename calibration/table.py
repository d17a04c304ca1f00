"""Calibration tables in TPU-MLIR's text format: a line `name threshold min max` for each tensor, comments above."""

import difflib
import functools
import importlib.metadata
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tpu_deploy.calibration.advice import Advice
from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.thresholds import Threshold, thresholds
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing

FOREIGN_SECTIONS = ("#int4_th", "#fp8_th", "#weight_scale", "#asym_op_name")
"""What opens a second list of tensors in TPU-MLIR's tables: thresholds of other precisions, which end ours."""

HEADER = ("quantization threshold calculation method", "sample number", "model", "tpu_deploy version", "plan")
"""What the comment lines tell, in order; the first two are TPU-MLIR's, the last is there where a plan was tuned."""

FEWEST_KNOWN = 0.5
"""A table that lacks more than this part of a model's tensors is taken for another model's."""


@functools.cache
def tool_version() -> str:
    """The installed version of this package."""
    try:
        return importlib.metadata.version("tpu-deploy")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class CalibrationTable(Mapping[str, Threshold]):
    """Tensor name to threshold, in the order of the graph, and how it came about; "" or 0 is unknown."""

    entries: Mapping[str, Threshold]
    method: str = ""
    samples: int = 0
    model_hash: str = ""
    tool_version: str = field(default_factory=tool_version)
    source: str = field(default="the calibration table", compare=False)
    first_samples: tuple[Feed, ...] = field(default=(), compare=False, repr=False)
    """The first feeds of the calibration data, for whoever verifies what the table leads to; not in the text."""
    advice: Advice | None = field(default=None, compare=False, repr=False)
    """What there is to say of the samples; not in the text."""
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
    """What the thresholds were found from, for whoever tries others; not in the text."""
    plan_hash: str = ""
    """What tells the plan that was tuned with the table from others."""
    plan: Any = field(default=None, compare=False, repr=False)
    """That plan, for whoever plans; not in the text."""

    @classmethod
    def of(cls, statistics: Statistics, method: str = "mse", **options: Any) -> "CalibrationTable":
        """The table of `statistics` by one method; its options are those of `thresholds`."""
        found = thresholds(statistics, method, **options)
        return cls(found, method, statistics.samples, statistics.model_hash, statistics=statistics)

    def __getitem__(self, name: str) -> Threshold:
        """The threshold of tensor `name`. Raises KeyError; `require` explains."""
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        """The tensor names."""
        return iter(self.entries)

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self.entries)

    def require(self, names: Iterable[str]) -> None:
        """Raises BadInput naming the first of `names` that is not in the table, or saying it is another model's."""
        wanted = list(names)
        missing = [name for name in wanted if name not in self.entries]
        if not missing:
            return
        if len(missing) > FEWEST_KNOWN * len(wanted):
            raise BadInput(
                f"{self.source}: belongs to another model: it has {len(wanted) - len(missing)} of this model's "
                f"{len(wanted)} tensors, and not {missing[0]!r}; calibrate this model"
            )
        near = difflib.get_close_matches(missing[0], self.entries, 1, 0.0)
        raise BadInput(
            f"{self.source}: has no line for tensor {missing[0]!r}; the nearest is {near[0]!r}; calibrate again"
            if near
            else f"{self.source}: is empty; calibrate again"
        )

    def text(self, name_of: Mapping[str, str] | None = None) -> str:
        """The file's content, with `name_of[name]` for the names it has. Raises BadInput for a name of blanks."""
        lines = io.StringIO()
        told = self.method, self.samples, self.model_hash, self.tool_version, self.plan_hash
        for key, value in zip(HEADER, told, strict=True):
            if key != "plan" or value:
                lines.write(f"# {key}: {value}\n")
        lines.write("###\n# op_name    threshold    min    max\n")
        for name, entry in self.entries.items():
            written = (name_of or {}).get(name, name)
            if not written or written.startswith("#") or written != " ".join(written.split()):
                raise BadInput(f"tensor name {written!r} cannot stand in a calibration table; rename it in the model")
            lines.write(" ".join([written, *map(_decimal, (entry.threshold, entry.min, entry.max))]) + "\n")
        return lines.getvalue()

    def write(self, path: str | PathLike[str], name_of: Mapping[str, str] | None = None) -> None:
        """Writes the table; `name_of` maps ONNX names to others, such as TPU-MLIR's `NAME_OpType`.

        Raises BadInput when the file cannot be written.
        """
        content = self.text(name_of).encode()
        with replacing(path) as stream:
            stream.write(content)

    @classmethod
    def read(cls, path: str | PathLike[str], known: Mapping[str, str] | None = None) -> "CalibrationTable":
        """The table in a file, ours or TPU-MLIR's.

        `known` maps the model's ONNX names to their names in TPU-MLIR's tables: either is read as the ONNX name.
        Raises BadInput naming file, line and fault, or that no line is about a known tensor.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; give a calibration table") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read as a calibration table ({error})") from error
        onnx_name = {theirs: name for name, theirs in (known or {}).items()} | {name: name for name in known or {}}
        header: dict[str, str] = {}
        entries: dict[str, Threshold] = {}
        for number, line in enumerate(lines, 1):
            if line.startswith(FOREIGN_SECTIONS):
                break
            if line.startswith("#"):
                key, _, value = line.strip("# ").partition(":")
                header.setdefault(key.strip(), value.strip(" []'\""))
            elif line.strip():
                name, entry = _entry(line, f"{path}, line {number}")
                name = onnx_name.get(name, name)
                if name in entries:
                    raise BadInput(f"{path}, line {number}: tensor {name!r} has a line already; remove one")
                entries[name] = entry
        if not entries:
            raise BadInput(f"{path}: holds no thresholds; give a calibration table")
        if known and not any(name in known for name in entries):
            raise BadInput(f"{path}: belongs to another model: it has none of this one's tensors; calibrate this model")
        method, samples, model, version, plan = (header.get(key, "") for key in HEADER)
        count = int(samples) if samples.isdecimal() else 0
        return cls(entries, method, count, model, version, str(path), plan_hash=plan)


def _entry(line: str, where: str) -> tuple[str, Threshold]:
    """The tensor and threshold of one line. Raises BadInput for anything else."""
    fields = line.rsplit(maxsplit=3)
    if len(fields) != 4:
        raise BadInput(f"{where}: {line.strip()[:60]!r} is not `name threshold min max`")
    name, *numbers = fields
    values = []
    for what, number in zip(("threshold", "min", "max"), numbers, strict=True):
        try:
            with np.errstate(over="ignore"):
                value = float(np.float32(number))
        except ValueError:
            raise BadInput(f"{where}: the {what} of {name!r} is {number[:40]!r}, not a number") from None
        if not math.isfinite(value):
            raise BadInput(f"{where}: the {what} of {name!r} is {number}; calibrate again with sound samples")
        values.append(value)
    entry = Threshold(*values)
    if entry.threshold <= 0:
        raise BadInput(f"{where}: the threshold of {name!r} is {numbers[0]}, but it must be positive")
    if entry.min > entry.max:
        raise BadInput(f"{where}: the min of {name!r}, {numbers[1]}, is above its max, {numbers[2]}")
    return name.strip(), entry


def _decimal(value: float) -> str:
    """The fewest digits, at least 7 behind the point, that read back as the same float32; never in powers of ten."""
    return np.format_float_positional(np.float32(value), unique=True, min_digits=7) if value else "0.0000000"
