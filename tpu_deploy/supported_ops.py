"""What can be compiled, from the tables of every floor: `python -m tpu_deploy.supported_ops > SUPPORTED_OPS.md`."""

from __future__ import annotations

from collections.abc import Iterable

from tpu_deploy import chips
from tpu_deploy.codegen.emitters import EMITTERS
from tpu_deploy.codegen.storages import VIEWS
from tpu_deploy.frontend import export, importer
from tpu_deploy.frontend.model_file import OLDEST_OPSET
from tpu_deploy.frontend.registry import CONVERTERS, EXPORTERS
from tpu_deploy.ir import top, tpu, tpu_float
from tpu_deploy.ir.network import STRUCTURAL
from tpu_deploy.lowering import to_tpu
from tpu_deploy.lowering.registry import RULES, reason
from tpu_deploy.quant.plan import PRECISIONS
from tpu_deploy.runtime.reference.interpreter import FAMILIES
from tpu_deploy.runtime.reference.registry import BUILDERS

FOLDED = frozenset({"top.BatchNorm"})
"""TOP operations that no canonical network has."""

TPU_ROWS = (*tpu.ROWS, *tpu_float.ROWS)
"""All operations of the TPU dialect."""

LOADED = (importer.FAMILIES, export.FAMILIES, to_tpu.FAMILIES, FAMILIES)
"""The family files whose import filled the tables."""


def top_operations() -> list[str]:
    """The TOP operations that compute, sorted."""
    return sorted(row.name for row in top.ROWS if row.name not in STRUCTURAL)


def tpu_operations() -> list[str]:
    """The TPU operations, sorted."""
    return sorted(row.name for row in TPU_ROWS)


def missing_floors() -> list[str]:
    """Every operation with a floor that cannot take it, for each chip: "top.Conv: no exporter to ONNX"."""
    lowered = {name for name, _ in RULES} | FOLDED
    floors: list[tuple[Iterable[str], Iterable[str], str]] = [
        (top_operations(), EXPORTERS, "no exporter to ONNX"),
        (top_operations(), lowered, f"no lowering in any precision ({', '.join(PRECISIONS)})"),
        (tpu_operations(), BUILDERS, "no reference kernel"),
        *((tpu_operations(), {*EMITTERS, *VIEWS}, f"no emitter for {chip}") for chip in chips.names()),
    ]
    return [f"{name}: {what}" for names, known, what in floors for name in names if name not in known]


def markdown() -> str:
    """The content of SUPPORTED_OPS.md."""
    parts = [
        "# Supported operators",
        "",
        "Written by `python -m tpu_deploy.supported_ops` from the tables the compiler itself works with.",
        f"Models may use ONNX opset {OLDEST_OPSET} to the newest that the installed onnxruntime runs. Nodes whose",
        "inputs are all constant are evaluated at import, whatever their operator. `tpu-deploy inspect MODEL.onnx`",
        "names every node of a model that cannot be compiled.",
        "",
        "## ONNX operators",
        "",
        *_table(("operator", "becomes"), _onnx_rows()),
        "",
        "## TOP operations",
        "",
        f"Precisions on {', '.join(chips.names())}. `canonical` means: folded into others before lowering.",
        "",
        *_table(("operation", *PRECISIONS, "refused when"), _top_rows()),
        "",
        "## TPU kernels",
        "",
        "Executed bit for bit by the reference interpreter, the simulator and the chip; sums of float products in any",
        "order. F is f32, f16 or bf16: every step is computed in f32 and rounded once, the result to F.",
        "",
        *_table(("operation", "meaning", "on the chip"), _tpu_rows()),
    ]
    return "\n".join(parts) + "\n"


def _onnx_rows() -> list[tuple[str, ...]]:
    return [(name, (CONVERTERS[name].__doc__ or "").strip().splitlines()[0]) for name in sorted(CONVERTERS)]


def _top_rows() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in top_operations():
        marks = ["canonical" if name in FOLDED else "yes" if (name, p) in RULES else "" for p in PRECISIONS]
        refusals = {reason(each): None for p in PRECISIONS if (name, p) in RULES for each in RULES[name, p].refusals}
        rows.append((f"`{name}`", *marks, "; ".join(refusals)))
    return rows


def _tpu_rows() -> list[tuple[str, ...]]:
    meanings = {row.name: row.meaning for row in TPU_ROWS}
    return [(f"`{n}`", meanings[n], "commands" if n in EMITTERS else "data movement") for n in tpu_operations()]


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [headings, ("---",) * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


if __name__ == "__main__":
    print(markdown(), end="")
