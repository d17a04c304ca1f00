"""What `--report` writes down of a build."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpu_deploy import __version__
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.bmodel import TensorInfo, describe
from tpu_deploy.ir.network import name_of
from tpu_deploy.pipeline import search_front
from tpu_deploy.pipeline.options import made_folder
from tpu_deploy.pipeline.reasons import calibration_advice, channel_weights, reasons, represented, statistics_of
from tpu_deploy.reports import memory, profile_record, timing
from tpu_deploy.reports.distributions import distributions
from tpu_deploy.reports.layers import rows
from tpu_deploy.reports.record import write

if TYPE_CHECKING:
    from tpu_deploy.pipeline.checks import Verification
    from tpu_deploy.pipeline.reasons import Reasons
    from tpu_deploy.pipeline.stages import Build


def write_report(build: Build) -> list[Path]:
    """Writes report.json, layers.csv and index.html into the folder asked for."""
    assert build.request.report is not None
    folder = made_folder(build.request.report, "--report")
    build.table = replace(build.table, advice=calibration_advice(build))
    if build.verification is not None:
        build.reasons = reasons(build, build.verification.feeds, build.verification.is_noise)
    layers = [] if build.reasons is None else build.reasons.layers
    return write(folder, record(build), layers, build.profile)


def record(build: Build) -> dict[str, Any]:
    """The build as plain data, as docs/report.md describes it: the same build gives the same record."""
    request, found, why = build.request, build.verification, build.reasons
    chip, statistics = chip_named(request.chip), statistics_of(build)
    return {
        "tool": {"name": "tpu_deploy", "version": __version__},
        "model": {"name": build.top.name, "file": request.source.label, "hash": request.source.hash},
        "chip": chip.name,
        "precision": request.precision,
        "options": _options(build),
        "bmodel": {
            "file": None if request.output is None else str(request.output),
            "sha256": hashlib.sha256(build.content).hexdigest(),
            "bytes": len(build.content),
        },
        **_interface(build),
        "calibration": _calibration(build),
        "tuning": [asdict(trial) for trial in build.plan.trials],
        "gate": build.gate,
        "verification": None if found is None else _verification(found),
        "layers": [] if why is None else rows(why.layers),
        "thresholds": _thresholds(build),
        "commands": describe(build.compiled.bmodel)["nets"][0]["stages"][0]["commands"],
        "memory": memory.summary(build.compiled.memory, chip, len(build.content)),
        "timing": {
            **timing.summary(build.timing),
            "by_tensor": timing.by_tensor(build.timing, build.compiled.commands),
        },
        **_told(why),
        "search": None if request.qtable is None else search_front.read(request.qtable),
        "distributions": {} if statistics is None else distributions(statistics, represented(build)),
        "weights": channel_weights(build),
        "profile": profile_record.record(build.profile),
    }


def _told(why: Reasons | None) -> dict[str, Any]:
    """What is said of a build in words, as plain data; nothing where it was not explained."""
    return {
        "findings": [] if why is None else [asdict(each) for each in why.findings],
        "advice": [] if why is None else [asdict(each) for each in why.advice],
        "trials": [] if why is None else [asdict(each) for each in why.trials],
    }


def _calibration(build: Build) -> dict[str, Any]:
    table = build.table
    advice = None if table.advice is None else {**table.advice.to_json(), "lines": table.advice.lines()}
    return {"method": table.method, "samples": table.samples, "model_hash": table.model_hash, "advice": advice}


def _options(build: Build) -> dict[str, Any]:
    request, asymmetric = build.request, build.scheme.asymmetric
    return {
        "precision": request.precision,
        "method": build.table.method,
        "gate": build.gate,
        "quantized_io": request.quantized_io,
        "weight_method": build.plan.weight_method,
        "asymmetric": asymmetric if isinstance(asymmetric, bool) else sorted(asymmetric),
        "operations": dict(build.scheme.operations),
    }


def _interface(build: Build) -> dict[str, Any]:
    stage = build.compiled.bmodel.nets[0].stages[0]
    named = zip(stage.outputs, build.tpu.outputs, strict=True)
    return {
        "inputs": [_tensor(info) for info in stage.inputs],
        "outputs": [{**_tensor(info), "value": name_of(value)} for info, value in named],
    }


def _verification(found: Verification) -> dict[str, Any]:
    return {
        "inputs": found.inputs,
        "is_noise": found.is_noise,
        "batches": len(found.feeds),
        "checks": [asdict(check) for check in found.checks],
    }


def _thresholds(build: Build) -> dict[str, Any]:
    """What the calibration says of each tensor of the network, and the type that was planned from it."""
    rows_of_table = {}
    for name, planned in build.plan.tensors.items():
        entry = build.table.get(name)
        rows_of_table[name] = {
            "threshold": None if entry is None else entry.threshold,
            "min": None if entry is None else entry.min,
            "max": None if entry is None else entry.max,
            "dtype": planned.dtype,
            "scale": planned.scale if planned.is_quantized else None,
            "least_scale": planned.scale * min(planned.factors) if planned.factors else None,
            "zero_point": planned.zero_point,
        }
    return rows_of_table


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "scale": info.scale,
        "zero_point": info.zero_point,
    }
