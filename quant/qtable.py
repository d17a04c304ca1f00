"""Quantize tables in TPU-MLIR's text format: a line `name precision` for each operation that has one of its own.

What TPU-MLIR has no words for, that an INT8 product keeps its sums as floats, stands in comments, which it skips:
`# float_result name precision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.quant.plan import FLOATS, PRECISIONS, QuantizationPlan

HEADER = "# tpu_deploy quantize table"
"""What a table of ours begins with; it may name no operation, where all are as they would be without it."""

FLOAT_RESULT = "# float_result "
"""What begins the line of an operation whose sums become floats."""


@dataclass(frozen=True)
class QuantizeTable:
    """Precisions by operation name, and of the float results of INT8 products, in the order of the file.

    Names are those of the file: of ONNX tensors or nodes, or TPU-MLIR's.
    """

    operations: Mapping[str, str]
    results: Mapping[str, str] = field(default_factory=dict)
    source: str = field(default="the quantize table", compare=False)

    @classmethod
    def of(cls, plan: QuantizationPlan, default: str = "INT8") -> QuantizeTable:
        """The table of a plan: what is computed in another precision than `default`, and float results."""
        return cls({n: p for n, p in plan.operations.items() if p != default}, dict(plan.results))

    def text(self, name_of: Mapping[str, str] | None = None) -> str:
        """The file's content, with `name_of[name]` for the names it has. Raises BadInput for a name of blanks."""
        written = {name: _writable((name_of or {}).get(name, name)) for name in [*self.operations, *self.results]}
        lines = [HEADER, "# op_name   quantize_mode"]
        lines += [f"{FLOAT_RESULT}{written[name]} {precision}" for name, precision in self.results.items()]
        lines += [f"{written[name]} {precision}" for name, precision in self.operations.items()]
        return "\n".join(lines) + "\n"

    def write(self, path: str | PathLike[str], name_of: Mapping[str, str] | None = None) -> None:
        """Writes the table; `name_of` maps names to others, such as TPU-MLIR's. Raises BadInput when it cannot."""
        content = self.text(name_of).encode()
        with replacing(path) as stream:
            stream.write(content)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> QuantizeTable:
        """The table in a file, ours or TPU-MLIR's. Raises BadInput naming file, line and fault."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; give a quantize table") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read as a quantize table ({error})") from error
        operations: dict[str, str] = {}
        results: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            if line.startswith(FLOAT_RESULT):
                _enter(results, line.removeprefix(FLOAT_RESULT), tuple(FLOATS), where)
            elif line.strip() and not line.lstrip().startswith("#"):
                _enter(operations, line, PRECISIONS, where)
        if not operations and not results and lines[:1] != [HEADER]:
            raise BadInput(f"{path}: names no operation; give a quantize table")
        return cls(operations, results, str(path))


def _writable(name: str) -> str:
    if not name or name.startswith("#") or name != " ".join(name.split()):
        raise BadInput(f"operation name {name!r} cannot stand in a quantize table; rename it in the model")
    return name


def _enter(found: dict[str, str], line: str, known: tuple[str, ...], where: str) -> None:
    """Enters the precision of the operation that a line names. Raises BadInput for anything else."""
    fields = line.rsplit(maxsplit=1)
    if len(fields) != 2:
        raise BadInput(f"{where}: {line.strip()[:60]!r} is not `name precision`")
    name, precision = fields[0].strip(), fields[1].upper()
    if precision not in known:
        raise BadInput(f"{where}: the precision of {name!r} is {fields[1][:40]!r}; choose {', '.join(known)}")
    if found.get(name, precision) != precision:
        raise BadInput(f"{where}: {name!r} has {found[name]} already; remove one of the lines")
    found[name] = precision
