"""What `--report` writes down of a build."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpu_deploy import __version__
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.bmodel import TensorInfo
from tpu_deploy.ir.network import name_of
from tpu_deploy.pipeline.options import made_folder
from tpu_deploy.reports import memory, profile_record, timing
from tpu_deploy.reports.layers import rows
from tpu_deploy.reports.record import write

if TYPE_CHECKING:
    from tpu_deploy.pipeline.stages import Build


def write_report(build: Build) -> list[Path]:
    """Writes report.json, layers.csv and index.html into the folder asked for."""
    assert build.request.report is not None
    folder = made_folder(build.request.report, "--report")
    layers = build.verification.layers if build.verification is not None else []
    return write(folder, record(build), layers, build.profile)


def record(build: Build) -> dict[str, Any]:
    """The build as plain data: the same build gives the same record."""
    request, verification = build.request, build.verification
    stage = build.compiled.bmodel.nets[0].stages[0]
    chip = chip_named(request.chip)
    return {
        "tool": {"name": "tpu_deploy", "version": __version__},
        "model": {"name": build.top.name, "file": request.source.label, "hash": request.source.hash},
        "chip": chip.name,
        "precision": request.precision,
        "bmodel": {"file": str(request.output), "sha256": hashlib.sha256(build.content).hexdigest()},
        "inputs": [_tensor(info) for info in stage.inputs],
        "outputs": [
            {**_tensor(info), "value": name_of(value)}
            for info, value in zip(stage.outputs, build.tpu.outputs, strict=True)
        ],
        "calibration": {"method": build.table.method, "samples": build.table.samples},
        "gate": build.gate,
        "verification": None
        if verification is None
        else {"inputs": verification.inputs, "checks": [asdict(check) for check in verification.checks]},
        "findings": [] if verification is None else [asdict(each) for each in verification.findings],
        "layers": [] if verification is None else rows(verification.layers),
        "memory": memory.summary(build.compiled.memory, chip, len(build.content)),
        "timing": {
            **timing.summary(build.timing),
            "by_tensor": timing.by_tensor(build.timing, build.compiled.commands),
        },
        "profile": profile_record.record(build.profile),
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "scale": info.scale,
        "zero_point": info.zero_point,
    }
