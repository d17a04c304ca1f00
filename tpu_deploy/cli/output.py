"""What commands print: results as lines of text, or as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpu_deploy.reports import profile_record, profile_text, summary
from tpu_deploy.reports.text import columns, cosine, decibels, size

if TYPE_CHECKING:
    from tpu_deploy.codegen.bmodel import Bmodel
    from tpu_deploy.pipeline.checks import Verification
    from tpu_deploy.pipeline.demonstration import Demonstration
    from tpu_deploy.pipeline.deployment import Deployment
    from tpu_deploy.pipeline.inspection import Inspection
    from tpu_deploy.pipeline.reasons import Reasons
    from tpu_deploy.pipeline.report import Report
    from tpu_deploy.quant import QuantizationPlan


def deployment(built: Deployment, report: str | None) -> str:
    """The end of a deployment: figures, findings, the verification table."""
    memory, timing = built.memory, built.timing
    lines = [
        f"{built.path}: {size(built.path.stat().st_size)}, {timing.cycles:,} cycles estimated "
        f"({timing.milliseconds:.3f} ms), {size(memory.coefficients + memory.context)} of device memory"
    ]
    if report is not None:
        lines.append(f"{Path(report) / 'index.html'}: the report")
    lines += ["", profile_text.overview(built.profile), "", *_tuned(built.plan)]
    if built.verification is None:
        lines.append("not verified (--no-verify)")
        return "\n".join(lines)
    return "\n".join([*lines, verification(built.verification), *explained(built.reasons)])


def report(made: Report) -> str:
    """The end of a report: what calibration and tuning came to, the verification table and the worst layers."""
    lines = [f"{made.folder / 'index.html'}: the report; {made.cycles:,} cycles estimated"]
    lines += [] if made.table.advice is None else made.table.advice.lines()
    return "\n".join([*lines, *_tuned(made.plan), verification(made.verification), *explained(made.reasons)])


def _tuned(plan: QuantizationPlan) -> list[str]:
    told = summary.tuning(plan.trials)
    return [told] if told else []


def explained(reasons: Reasons | None) -> list[str]:
    """The worst layers, their causes and remedies; nothing where none was looked for or found."""
    told = "" if reasons is None else summary.worst_layers(reasons.advice, reasons.trials)
    return ["", told] if told else []


def verification(found: Verification) -> str:
    """The verification table, with the findings above it."""
    rows = [(check.stage, check.compared_with, check.verdict, check.figure) for check in found.checks]
    notes = [f"finding: {line}" for line in found.findings]
    table = columns(rows, ("stage", "compared with", "verdict", "figure"))
    return "\n".join([*notes, f"verified on {found.inputs}", table])


def described(model: Bmodel) -> dict[str, Any]:
    """What a bmodel holds, with how long each stage takes and what bounds it, as plain data."""
    from tpu_deploy.codegen.bmodel import DECODED_CHIP, describe
    from tpu_deploy.reports.profile import profile

    found = describe(model)
    if model.chip == DECODED_CHIP:
        stages = profile_record.record(profile(model))["stages"]
        shown = ("cycles", "milliseconds", "tiu_busy", "gdma_busy", "bound", "traffic", "local_memory")
        for described_stage, stage in zip((s for net in found["nets"] for s in net["stages"]), stages, strict=True):
            described_stage |= {key: stage[key] for key in shown}
    return found


def info(path: str, found: Mapping[str, Any]) -> str:
    """What a bmodel holds, as text."""
    memory = found["memory"]
    lines = [
        f"{path}: {found['chip']}, format {found['version']}, {_counted(len(found['nets']), 'net')}",
        f"memory: {size(memory['coefficients'])} coefficients, {size(memory['neurons'])} neurons"
        + (f", kernel module {found['kernel_module']}" if found["kernel_module"] else ""),
    ]
    for net in found["nets"]:
        for number, stage in enumerate(net["stages"]):
            lines += ["", f"net {net['name']}, stage {number}", *_stage(stage)]
    return "\n".join(lines)


def _stage(stage: Mapping[str, Any]) -> list[str]:
    rows = [
        (f"  {kind}", t["name"], t["dtype"], "x".join(map(str, t["shape"])), f"scale {t['scale']:g}", _zero_point(t))
        for kind, tensors in (("input", stage["inputs"]), ("output", stage["outputs"]))
        for t in tensors
    ]
    memory = stage["memory"]
    counts = [f"{engine} {count['total']}" for engine, count in stage["commands"].items()]
    lines = [
        columns(rows),
        f"  coefficients: {size(memory['coefficients'])}, checksum {stage['checksum']}",
        f"  neurons: {size(memory['neurons'])} at {memory['neurons_address']:#x}",
        f"  commands: {', '.join(counts)} in {_counted(len(stage['groups']), 'group')}",
    ]
    if "cycles" in stage:
        lines += _time(stage)
    for engine, count in stage["commands"].items():
        if count["opcodes"]:
            lines.append(f"  {engine}: " + ", ".join(f"{opcode} {n}" for opcode, n in count["opcodes"].items()))
    return lines


def _time(stage: Mapping[str, Any]) -> list[str]:
    cycles, bound = stage["cycles"], stage["bound"]
    busy = [f"{name} busy {profile_text.percent(stage[key], cycles)}" for name, key in _BUSY]
    lines = [f"  estimated: {cycles:,} cycles, {stage['milliseconds']:.3f} ms; {', '.join(busy)}"]
    if bound["distance"] is not None:
        lines.append(
            f"  bound by {bound['binds']}: {bound['cycles']:,} cycles; this is {bound['distance']:.2f} times it"
        )
    return lines


_BUSY = (("TIU", "tiu_busy"), ("GDMA", "gdma_busy"))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _zero_point(tensor: Mapping[str, Any]) -> str:
    return f"zero point {tensor['zero_point']}" if tensor["zero_point"] else ""


def inspected(found: Inspection) -> dict[str, Any]:
    """An inspection as plain data."""
    return asdict(found) | {"inputs": [{"name": name, "shape": shape} for name, shape in found.inputs]}


def inspection(found: Inspection) -> str:
    """An inspection as text."""
    lines = [f"{found.model}: opset {found.opset}, {sum(found.operators.values())} nodes, for {found.chip}"]
    lines += [f"input {name}: {shape}" for name, shape in found.inputs]
    lines.append(", ".join(f"{operator} {count}" for operator, count in found.operators.items()))
    if found.is_supported:
        lines.append("every node can be compiled")
        return "\n".join(lines)
    rows = [(f.place, f.op_type, f.reason, f.suggestion) for f in found.findings]
    return "\n".join([*lines, columns(rows, ("cannot be compiled", "operator", "why", "what to do"))])


def demonstration(found: Demonstration) -> str:
    """What the demonstration showed, and what to try next."""
    built = found.deployment
    assert built.verification is not None
    layers = [
        (each.name, each.operation, cosine(each.similarity.cosine), decibels(each.similarity.sqnr_db))
        for each in built.verification.layers
    ]
    return "\n".join(
        [
            columns(layers, ("layer", "operation", "cosine", "SQNR"), frozenset({2, 3})),
            "",
            verification(built.verification),
            *explained(built.reasons),
            "",
            f"accuracy on {found.images} images: float {found.float_accuracy:.1%}, INT8 {found.int8_accuracy:.1%} "
            f"(same class on {found.agreement:.1%})",
            f"bmodel on the simulator: {found.simulated} images, identical to the reference",
            f"estimated: {built.timing.cycles:,} cycles an image, {built.timing.milliseconds:.3f} ms",
            f"memory: {size(built.memory.coefficients)} coefficients, {size(built.memory.context)} for tensors, "
            f"{size(built.memory.local_peak)} of a lane at the peak",
            "",
            f"calibration table  {found.table}",
            f"bmodel             {built.path}",
            f"report             {found.report}",
            "",
            "Next, on a model of your own:",
            "  tpu-deploy inspect MODEL.onnx",
            "  tpu-deploy calibrate MODEL.onnx --data IMAGES/ --mean 124,116,104 --scale 0.017,0.0175,0.0174 -o TABLE",
            "  tpu-deploy deploy MODEL.onnx --calibration TABLE -o OUT.bmodel --report REPORT",
        ]
    )
