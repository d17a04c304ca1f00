"""The chain of checks behind every deployment: ONNX ≈ TOP ≈ TPU arithmetic == simulator == chip model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.codegen.bmodel import Bmodel, decode_group, parse_bmodel
from tpu_deploy.codegen.findings import Finding
from tpu_deploy.codegen.hazards import check_hazards
from tpu_deploy.codegen.legality import GlobalRanges, check_legality
from tpu_deploy.errors import CheckFailed
from tpu_deploy.ir.network import Network, name_of, uniform_of
from tpu_deploy.numbers import quantize
from tpu_deploy.pipeline.checks import GATES, Check, Verification
from tpu_deploy.pipeline.float_model import FloatNetwork, FloatValues, OriginalModel
from tpu_deploy.pipeline.options import SILENT, Progress
from tpu_deploy.pipeline.samples import VerificationInputs
from tpu_deploy.pipeline.source import Source
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

SIMULATED_BATCHES = 2
"""How many batches run on the simulator, and one of them on the chip model: commands do not depend on the data."""

FLOAT_KERNELS = frozenset({"tpu.Softmax"})
"""Operations computed in float32 on the chip; behind them results may differ by rounding."""

FLOAT_ULP = 2
"""Units in the last place by which results behind a float kernel may differ from the reference's."""


CHIP_MODEL_SECONDS = 300.0
"""How long the chip model may take; float networks of the size of ResNet-50 take longer and rest on the simulator."""


def verify(
    source: Source,
    top: Network,
    reference: Reference,
    content: bytes,
    inputs: VerificationInputs,
    gate: float,
    progress: Progress = SILENT,
) -> Verification:
    """What the whole chain finds on `inputs`, from the user's model to the bytes of the bmodel; `gate` is for INT8."""
    found = Verification(inputs.source)
    feeds, network = inputs.feeds, reference.network
    progress.stage("Verify: ONNX against TOP")
    floats = FloatNetwork(top)
    found.checks.append(compare_floats(source, floats, feeds, GATES["f32"]))
    progress.stage("Verify: TOP against TPU arithmetic")
    run = run_reference(reference, floats, feeds)
    found.layers = run.layers
    found.findings = findings(run.layers, [name_of(value) for value in network.outputs])
    found.checks.append(judge_layers(run.layers, network, gate, inputs.is_noise))
    progress.stage("Verify: commands")
    found.checks += judge_commands(parse_bmodel(content))
    progress.stage("Verify: simulator")
    found.checks.append(run_simulator(content, feeds, run.outputs, network))
    progress.stage("Verify: chip model")
    found.checks.append(run_chip_model(content, feeds, run.outputs, network, CHIP_MODEL_SECONDS))
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
    """What the reference makes of the batches: its outputs by ONNX name, and the similarity of all tensors."""

    outputs: list[Outputs]
    layers: list[Layer]


def run_reference(reference: Reference, floats: FloatNetwork, feeds: Sequence[Feed]) -> ReferenceRun:
    """Runs every batch through the integer arithmetic, comparing each tensor with the float network's."""
    network = reference.network
    values = [floats.values(feed) for feed in feeds]
    comparison = LayerComparison(network, [name_of(v) for v in network.values() if name_of(v) in values[0]])
    outputs = [_walk(reference, comparison, v, feed) for v, feed in zip(values, feeds, strict=True)]
    return ReferenceRun(outputs, comparison.layers())


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


def judge_layers(layers: Sequence[Layer], network: Network, gate: float, on_noise: bool = False) -> Check:
    """The quantized network's outputs against the float network's, naming the first tensor below the gate.

    On noise a network that falls short is not judged: it was trained and calibrated on something else.
    """
    ends = {name_of(value) for value in network.outputs}
    outputs = [layer for layer in layers if layer.name in ends]
    worst = min(outputs, key=lambda layer: _sortable(layer.similarity.cosine))
    near = worst.similarity
    passed = near.cosine >= gate
    first = first_below(layers, gate) or worst
    if not passed and on_noise:
        figure = f"cosine {text.cosine(near.cosine)} at {worst.name}, but noise is not data: give --inputs or --data"
        return Check("TPU INT8 (reference)", "TOP, canonical (onnxruntime)", "unjudged", figure, "accuracy", "")
    return Check(
        "TPU INT8 (reference)",
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


def run_simulator(content: bytes, feeds: Sequence[Feed], expected: Sequence[Outputs], network: Network) -> Check:
    """The bytes of the bmodel, executed from their encoded commands, against the reference's outputs."""
    used = min(len(feeds), SIMULATED_BATCHES)
    try:
        simulator = Simulator(parse_bmodel(content), check=False, uninitialized="ignore")
        actual = [simulator.run(stored_feed(network, feed)) for feed in feeds[:used]]
    except CheckFailed as error:
        return Check("bmodel (simulator)", _REFERENCE, "failed", "it does not run", "exactness", str(error))
    return _exact("bmodel (simulator)", actual, expected[:used], network)


def run_chip_model(
    content: bytes, feeds: Sequence[Feed], expected: Sequence[Outputs], network: Network, limit: float
) -> Check:
    """The bytes of the bmodel on the vendor's chip model, one batch, against the reference's outputs."""
    stage = "bmodel (chip model)"
    if not available():
        advice = "not installed (`tpu-deploy chip-model install`); rests on the simulator"
        return Check(stage, _REFERENCE, "absent", advice, "exactness")
    with tempfile.TemporaryDirectory(prefix="tpu-deploy-") as folder:
        path = Path(folder, "verified.bmodel")
        path.write_bytes(content)
        try:
            with chip_model.ChipModel(path, time_limit=limit) as model:
                actual = [model.run(stored_feed(network, feeds[0]))]
        except chip_model.ChipModelTimeout:
            figure = f"no answer within {limit:g} s; rests on the simulator"
            return Check(stage, _REFERENCE, "absent", figure, "exactness")
        except chip_model.ChipModelError as error:
            return Check(stage, _REFERENCE, "failed", "it does not run", "exactness", str(error))
    return _exact(stage, actual, expected[:1], network)


_REFERENCE = "TPU arithmetic (reference)"


def _exact(stage: str, actual: Sequence[Outputs], expected: Sequence[Outputs], network: Network) -> Check:
    behind = behind_float_kernels(network)
    worst = 0
    for ours, theirs in zip(actual, expected, strict=True):
        for name, wanted in theirs.items():
            distance = units_apart(ours[name], wanted)
            if distance > (FLOAT_ULP if name in behind else 0):
                wrong = int(np.count_nonzero(ours[name].reshape(-1) != wanted.reshape(-1)))
                blame = f"output {name}: {wrong} of {wanted.size} values differ"
                return Check(stage, _REFERENCE, "failed", blame, "exactness", blame)
            worst = max(worst, distance)
    batches = f"{len(expected)} batch{'es' if len(expected) > 1 else ''}"
    figure = f"within {worst} ulp" if worst else "identical bits"
    return Check(stage, _REFERENCE, "ok", f"{figure}, {batches}", "exactness")


def behind_float_kernels(network: Network) -> set[str]:
    """The ONNX names of the outputs that a float kernel has a part in."""
    touched: set[SSAValue] = set()
    for op in network.operations:
        if op.name in FLOAT_KERNELS or any(operand in touched for operand in op.operands):
            touched.update(op.results)
    return {n for n, v in zip(network.output_names, network.outputs, strict=True) if v in touched}


def units_apart(actual: Array, expected: Array) -> int:
    """The largest distance of two arrays in units in the last place; of integers, and of floats unlike in sign or NaN,
    any difference counts as far too large.
    """
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return 1 << 32
    ours, theirs = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    if np.array_equal(ours.view(np.uint8), theirs.view(np.uint8)):
        return 0
    if ours.dtype != np.float32 or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return 1 << 32
    if not np.array_equal(np.signbit(ours), np.signbit(theirs)):
        return 1 << 32
    return int(np.abs(ours.view(np.int32).astype(np.int64) - theirs.view(np.int32)).max())
