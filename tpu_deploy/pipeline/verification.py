"""The chain of checks behind every deployment: ONNX ≈ TOP ≈ TPU arithmetic == simulator == chip model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.codegen.bmodel import Bmodel, decode_group, parse_bmodel
from tpu_deploy.codegen.findings import Finding
from tpu_deploy.codegen.hazards import check_hazards
from tpu_deploy.codegen.legality import GlobalRanges, check_legality
from tpu_deploy.errors import CheckFailed
from tpu_deploy.ir.network import Network, name_of, uniform_of
from tpu_deploy.numbers import quantize
from tpu_deploy.pipeline.agreement import Agreement, Rule, compare, rules
from tpu_deploy.pipeline.checks import GATES, Check, Verification
from tpu_deploy.pipeline.float_model import FloatNetwork, FloatValues, OriginalModel
from tpu_deploy.pipeline.options import SILENT, Progress
from tpu_deploy.pipeline.samples import VerificationInputs
from tpu_deploy.pipeline.source import Source
from tpu_deploy.quant.ranges import noticed_ranges
from tpu_deploy.reports import text
from tpu_deploy.reports.findings import findings
from tpu_deploy.reports.layers import Layer, LayerComparison, first_below
from tpu_deploy.reports.similarity import Comparison
from tpu_deploy.runtime import chip_model
from tpu_deploy.runtime.chip_model_install import available
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator.simulator import Simulator

Array = npt.NDArray[Any]
Outputs = dict[str, Array]

SIMULATED_BATCHES: dict[Rule, int] = {"bits": 2, "ulp": 2, "sums": 1}
"""How many batches run on the simulator, which takes its time for float sums, and one of them on the chip model:
commands do not depend on the data."""

CHIP_MODEL_SECONDS = 300.0
"""How long the chip model may take; float networks of the size of ResNet-50 take longer and rest on the simulator."""


def verify(
    source: Source,
    top: Network,
    reference: Reference,
    content: bytes,
    inputs: VerificationInputs,
    gate: float,
    precision: str,
    progress: Progress = SILENT,
) -> Verification:
    """What the whole chain finds on `inputs`, from the user's model to the bytes of the bmodel.

    `gate` is the least cosine of the TPU network's outputs, `precision` what that network is called.
    """
    found = Verification(inputs.source, inputs.feeds, inputs.is_noise)
    feeds, network = inputs.feeds, reference.network
    progress.stage("Verify: ONNX against TOP")
    floats = FloatNetwork(top)
    found.checks.append(compare_floats(source, floats, feeds, GATES["f32"]))
    progress.stage("Verify: TOP against TPU arithmetic")
    run = run_reference(reference, floats, feeds, noticed_ranges(top))
    found.layers = run.layers
    found.findings = findings(run.layers, [name_of(value) for value in network.outputs])
    found.checks.append(judge_layers(run.layers, network, gate, precision, inputs.is_noise))
    progress.stage("Verify: commands")
    found.checks += judge_commands(parse_bmodel(content))
    progress.stage("Verify: simulator")
    simulated, check = run_simulator(content, feeds, run, network)
    found.checks.append(check)
    progress.stage("Verify: chip model")
    expected = [] if "sums" not in rules(network).values() else simulated
    found.checks.append(run_chip_model(content, feeds, run, network, CHIP_MODEL_SECONDS, expected))
    return found


def compare_floats(source: Source, network: FloatNetwork, feeds: Sequence[Feed], gate: float) -> Check:
    """The canonical network against the user's model, both on onnxruntime: every output of every batch."""
    original = OriginalModel(source)
    outputs = {name: Comparison() for name in original.names}
    for feed in feeds:
        values, expected = network.values(feed), original.run(feed)
        for name in original.names:
            actual = values[network.outputs[name]]
            outputs[name].add(expected[name].reshape(actual.shape), actual)
    worst = min(outputs, key=lambda name: _sortable(outputs[name].result().cosine))
    found = outputs[worst].result()
    passed = found.cosine >= gate
    return Check(
        "TOP, canonical (onnxruntime)",
        "ONNX model (onnxruntime)",
        "ok" if passed else "failed",
        f"cosine {text.cosine(found.cosine)} (gate {gate:g}), largest error {found.max_error:.2g}",
        "accuracy",
        "" if passed else _first_float_break(source, network, feeds, gate) or f"output {worst}",
    )


def _first_float_break(source: Source, network: FloatNetwork, feeds: Sequence[Feed], gate: float) -> str:
    """The first tensor that the model and the canonical network share and do not agree on."""
    graph = source.file.proto.graph
    values = network.values(feeds[0])
    shared = [name for node in graph.node for name in node.output if name in values]
    expected = OriginalModel(source, shared).run(feeds[0])
    for name in shared:
        comparison = Comparison()
        if not comparison.add(expected[name].reshape(values[name].shape), values[name]) >= gate:
            return f"tensor {name} (cosine {text.cosine(comparison.result().cosine)})"
    return ""


def _sortable(cosine: float) -> float:
    return -math.inf if math.isnan(cosine) else cosine


@dataclass(frozen=True)
class ReferenceRun:
    """What the reference makes of the batches: its outputs by ONNX name, the float network's, the similarity of all
    tensors."""

    outputs: list[Outputs]
    floats: list[Outputs]
    layers: list[Layer]


def run_reference(
    reference: Reference,
    floats: FloatNetwork,
    feeds: Sequence[Feed],
    noticed: Mapping[str, tuple[float, float]] | None = None,
) -> ReferenceRun:
    """Runs every batch through the arithmetic of the chip, comparing each tensor with the float network's.

    `noticed` are the ranges in which readers tell values apart (`LayerComparison`).
    """
    network = reference.network
    values = [floats.values(feed) for feed in feeds]
    shared = [name_of(v) for v in network.values() if name_of(v) in values[0]]
    comparison = LayerComparison(network, shared, noticed)
    outputs, real = [], []
    for v, feed in zip(values, feeds, strict=True):
        outputs.append(_walk(reference, comparison, v, feed))
        real.append({name: v[floats.outputs[name]] for name in network.output_names})
    return ReferenceRun(outputs, real, comparison.layers())


def _walk(reference: Reference, comparison: LayerComparison, values: FloatValues, feed: Feed) -> Outputs:
    network = reference.network
    ends = {name_of(value) for value in network.outputs}
    held = {}
    for name, array in reference.run_all(stored_feed(network, feed)):
        if name in comparison:
            comparison.add(name, values[name], array)
        if name in ends:
            held[name] = array
    return {n: held[name_of(v)].copy() for n, v in zip(network.output_names, network.outputs, strict=True)}


def stored_feed(network: Network, feed: Feed) -> Outputs:
    """A float feed as the network's inputs store it: float32, or quantized where inputs are."""
    stored = {}
    for value in network.inputs:
        kind, array = uniform_of(value), feed[name_of(value)]
        stored[name_of(value)] = array if kind is None else quantize(array, kind.scale, kind.zero_point, kind.dtype)
    return stored


def judge_layers(
    layers: Sequence[Layer], network: Network, gate: float, precision: str, on_noise: bool = False
) -> Check:
    """The TPU network's outputs against the float network's, naming the first tensor below the gate.

    On noise a network that falls short is not judged: it was trained and calibrated on something else.
    """
    stage = f"TPU {precision} (reference)"
    ends = {name_of(value) for value in network.outputs}
    outputs = [layer for layer in layers if layer.name in ends]
    worst = min(outputs, key=lambda layer: _sortable(layer.similarity.cosine))
    near = worst.similarity
    passed = near.cosine >= gate
    first = first_below(layers, gate) or worst
    if not passed and on_noise:
        figure = f"cosine {text.cosine(near.cosine)} at {worst.name}, but noise is not data: give --inputs or --data"
        return Check(stage, "TOP, canonical (onnxruntime)", "unjudged", figure, "accuracy", "")
    return Check(
        stage,
        "TOP, canonical (onnxruntime)",
        "ok" if passed else "failed",
        f"cosine {text.cosine(near.cosine)} (gate {gate:g}), {text.decibels(near.sqnr_db)} at {worst.name}",
        "accuracy",
        "" if passed else f"tensor {first.name} (cosine {text.cosine(first.similarity.cosine)})",
    )


def judge_commands(bmodel: Bmodel) -> list[Check]:
    """The encoded commands against the rules of the chip, and their order against races and deadlocks."""
    illegal: list[Finding] = []
    unsafe: list[Finding] = []
    count = {"TIU": 0, "GDMA": 0}
    for stage in (stage for net in bmodel.nets for stage in net.stages):
        constant = stage.coefficients and (stage.coefficients.address, len(stage.coefficients.data))
        coefficients = (constant[0], constant[0] + constant[1]) if constant else None
        ranges = GlobalRanges(coefficients, (stage.ctx_addr, stage.ctx_addr + stage.ctx_size))
        for name, group in stage.command_groups():
            tiu, gdma = decode_group(group, name)
            count["TIU"] += len(tiu)
            count["GDMA"] += len(gdma)
            illegal += [*check_legality(tiu, ranges), *check_legality(gdma, ranges)]
            unsafe += check_hazards(tiu, gdma)
    counted = f"{count['TIU']} TIU and {count['GDMA']} GDMA commands"
    return [
        _judged("bmodel, each command", "rules of the chip", illegal, f"{counted} are legal"),
        _judged("bmodel, order of commands", "what they read and write", unsafe, "no race, no deadlock"),
    ]


def _judged(stage: str, rules: str, found: Sequence[Finding], good: str) -> Check:
    if not found:
        return Check(stage, rules, "ok", good, "exactness")
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return Check(stage, rules, "failed", f"{len(found)} findings", "exactness", f"{found[0]}{more}")


def run_simulator(
    content: bytes, feeds: Sequence[Feed], wanted: ReferenceRun, network: Network
) -> tuple[list[Outputs], Check]:
    """The bytes of the bmodel, executed from their encoded commands, against the reference's outputs; what they gave.

    Nothing is given where the bmodel does not run, or not as it should.
    """
    by_rule = rules(network)
    used = min(len(feeds), *(SIMULATED_BATCHES[rule] for rule in by_rule.values()))
    try:
        simulator = Simulator(parse_bmodel(content), check=False, uninitialized="ignore")
        actual = [simulator.run(stored_feed(network, feed)) for feed in feeds[:used]]
    except CheckFailed as error:
        return [], Check(SIMULATOR, REFERENCE, "failed", "it does not run", "exactness", str(error))
    found = compare(actual, wanted.outputs[:used], wanted.floats[:used], by_rule)
    return [] if found.blame else actual, _agreed(SIMULATOR, REFERENCE, found, used)


def run_chip_model(
    content: bytes,
    feeds: Sequence[Feed],
    wanted: ReferenceRun,
    network: Network,
    limit: float,
    simulated: Sequence[Outputs] = (),
) -> Check:
    """The bytes of the bmodel on the vendor's chip model, one batch: against the reference's outputs, or where it has
    sums of an order of its own, against those of the simulator, whose bits they must be.
    """
    if not available():
        advice = "not installed (`tpu-deploy chip-model install`); rests on the simulator"
        return Check(CHIP_MODEL, REFERENCE, "absent", advice, "exactness")
    with tempfile.TemporaryDirectory(prefix="tpu-deploy-") as folder:
        path = Path(folder, "verified.bmodel")
        path.write_bytes(content)
        try:
            with chip_model.ChipModel(path, time_limit=limit) as model:
                actual = [model.run(stored_feed(network, feeds[0]))]
        except chip_model.ChipModelTimeout:
            figure = f"no answer within {limit:g} s; rests on the simulator"
            return Check(CHIP_MODEL, REFERENCE, "absent", figure, "exactness")
        except chip_model.ChipModelError as error:
            return Check(CHIP_MODEL, REFERENCE, "failed", "it does not run", "exactness", str(error))
    by_rule = rules(network)
    if simulated:
        same: dict[str, Rule] = dict.fromkeys(by_rule, "bits")
        return _agreed(CHIP_MODEL, SIMULATOR, compare(actual, simulated[:1], wanted.floats[:1], same), 1)
    return _agreed(CHIP_MODEL, REFERENCE, compare(actual, wanted.outputs[:1], wanted.floats[:1], by_rule), 1)


REFERENCE, SIMULATOR, CHIP_MODEL = "TPU arithmetic (reference)", "bmodel (simulator)", "bmodel (chip model)"
"""What executes a TPU network, in the words of the table."""


def _agreed(stage: str, compared_with: str, found: Agreement, batches: int) -> Check:
    if found.blame:
        return Check(stage, compared_with, "failed", found.figure, "exactness", found.blame)
    counted = f"{batches} batch{'es' if batches > 1 else ''}"
    return Check(stage, compared_with, "ok", f"{found.figure}, {counted}", "exactness")
