"""All that explains a build: its tensors, what they are to blame for, and what was tried against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpu_deploy.calibration.advice import Advice as CalibrationAdvice
from tpu_deploy.calibration.advice import advise
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import name_of
from tpu_deploy.pipeline.explanation import explain
from tpu_deploy.pipeline.influence import BUDGET, output_shares
from tpu_deploy.pipeline.options import METHOD
from tpu_deploy.pipeline.plans import AUTO
from tpu_deploy.pipeline.remedies import tried_remedies
from tpu_deploy.pipeline.single_layers import single_layers
from tpu_deploy.pipeline.stored_weights import CONVOLUTIONS, MATRIX_PRODUCTS, weights_of_reals
from tpu_deploy.pipeline.tables import statistics_path
from tpu_deploy.pipeline.trials import Subject
from tpu_deploy.reports.advice import Advice, Trial, advice
from tpu_deploy.reports.causes import worst_layers
from tpu_deploy.reports.findings import Finding, findings
from tpu_deploy.reports.layers import Layer
from tpu_deploy.reports.weight_ranges import weight_ranges
from tpu_deploy.runtime.reference import Reference

if TYPE_CHECKING:
    from tpu_deploy.calibration import Feed
    from tpu_deploy.pipeline.stages import Build

INFLUENCE_SAMPLES = 2
"""On how many batches the layers' shares of the outputs' error are measured."""


@dataclass(frozen=True)
class Reasons:
    """What explains a build."""

    layers: Sequence[Layer]
    findings: Sequence[Finding]
    trials: Sequence[Trial]
    advice: Sequence[Advice]


def reasons(build: Build, feeds: Sequence[Feed], on_noise: bool = False) -> Reasons:
    """Why the build is as near to the float network as it is, measured over all `feeds`.

    On noise nothing is tried: what helps there says nothing about data.
    """
    progress, reference = build.request.progress, Reference(build.tpu)
    layers = explain(build.top, reference, build.plan.operations, feeds, progress)
    progress.stage("Explain: the layers' shares of the output's error")
    layers = _with_output_shares(build, reference, feeds, layers)
    worst = worst_layers(layers)
    trials = [] if on_noise else tried_remedies(_subject(build, feeds), worst, progress)
    told = findings(layers, [name_of(value) for value in build.tpu.outputs])
    return Reasons(layers, told, trials, advice(worst, trials))


def _with_output_shares(
    build: Build, reference: Reference, feeds: Sequence[Feed], layers: Sequence[Layer]
) -> list[Layer]:
    """The layers with their shares of the outputs' error, the mean of some batches; those with most born come first.

    Where errors cancel, and positive shares sum to more than 1, they are parts of that sum.
    """
    born = {each.name: each.explanation.origin.born for each in layers if each.explanation is not None}
    tensors = sorted(born, key=lambda name: -born[name])
    used = feeds[:INFLUENCE_SAMPLES]
    found = [output_shares(build.top, reference, feed, tensors, BUDGET // len(used)) for feed in used]
    shares = {name: sum(each[name] for each in found) / len(found) for name in tensors if all(name in f for f in found)}
    total = max(1.0, sum(share for share in shares.values() if share > 0))
    shares = {name: share / total for name, share in shares.items()}
    return [
        replace(each, explanation=replace(each.explanation, output_share=shares.get(each.name)))
        if each.explanation is not None
        else each
        for each in layers
    ]


def _subject(build: Build, feeds: Sequence[Feed]) -> Subject:
    request = build.request
    return Subject(
        top=build.top,
        table=build.table,
        plan=build.plan,
        scheme=build.scheme,
        statistics=statistics_of(build),
        chip=request.chip,
        quantized_io=request.quantized_io,
        feeds=feeds,
        cycles=build.timing.cycles,
    )


def statistics_of(build: Build) -> Statistics | None:
    """The statistics behind the build's table: those it came with, or that lie beside it; None where there are none."""
    if build.table.statistics is not None:
        return build.table.statistics
    if not isinstance(build.request.calibration, Path):
        return None
    try:
        found = Statistics.load(statistics_path(build.request.calibration))
    except BadInput:
        return None
    return found if found.model_hash == build.request.source.hash else None


def calibration_advice(build: Build) -> CalibrationAdvice | None:
    """What there is to say of the calibration samples: said when they were read, else what their statistics tell."""
    table, statistics = build.table, statistics_of(build)
    if table.advice is not None or statistics is None:
        return table.advice
    return advise(statistics, METHOD if table.method == AUTO else table.method, build.request.source.inputs)


def channel_weights(build: Build) -> dict[str, dict[str, Any]]:
    """The weight ranges of each tensor that a convolution or matrix product makes, as plain data."""
    found = {}
    for name, layer in single_layers(build.tpu, [name_of(value) for value in build.top.values()]).items():
        for op in layer.operations:
            if op.name in CONVOLUTIONS | MATRIX_PRODUCTS:
                real = weights_of_reals(build.tpu, op)
                found[name] = weight_ranges(real.weights, real.steps, real.axis)
    return found


def represented(build: Build) -> Mapping[str, tuple[float, float] | None]:
    """The smallest and largest value that the planned type of each tensor holds; None for floats."""
    planned = build.plan.tensors
    return {name: (each.low, each.high) if each.is_quantized else None for name, each in planned.items()}
