"""What is said of each tensor: the parts of an error sum to it, and a planted fault is found where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_cases import model as onnx_model
from random_top_networks import random_precisions, random_top
from small_model import feeds, small_model
from top_networks import Top

import tpu_deploy
from tpu_deploy.calibration.thresholds import Threshold
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.explanation import explain
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.influence import output_shares
from tpu_deploy.pipeline.source import Source, canonical_network
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.reports.attribution import PARTS, TOLERANCE
from tpu_deploy.reports.causes import cause_of, worst_layers
from tpu_deploy.reports.findings import findings
from tpu_deploy.reports.layers import Layer, rows
from tpu_deploy.runtime.reference import Reference

Feeds = list[dict[str, np.ndarray[Any, Any]]]


def table_of(network: Network, samples: Feeds) -> dict[str, Threshold]:
    """The exact range of each value over some samples."""
    floats = FloatNetwork(network)
    runs = [floats.values(feed) for feed in samples]
    found = {}
    for name in map(name_of, network.values()):
        low, high = min(float(r[name].min()) for r in runs), max(float(r[name].max()) for r in runs)
        found[name] = Threshold(max(abs(low), abs(high)), low, high)
    return found


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_parts_of_an_error_sum_to_it_and_born_and_passed_on_to_the_accumulated_one(seed: int, mixed: bool) -> None:
    network = random_top(seed)
    rng = np.random.default_rng(seed)
    samples = [{name_of(v): rng.standard_normal(shape_of(v)).astype(np.float32) for v in network.inputs}] * 2
    chosen, results = random_precisions(network, seed) if mixed else ({}, {})
    plan = make_plan(network, table_of(network, samples), Scheme(operations=chosen, results=results))
    layers = explain(network, Reference(lower_to_tpu(network, plan)), plan.operations, samples)
    for layer in layers:
        why = layer.explanation
        assert why is not None
        total = sum(getattr(why.shares, part) for part in PARTS)
        assert total == pytest.approx(1.0 if why.isolated.relative_l2 else 0.0, abs=TOLERANCE), layer.name
        born, passed, whole = why.origin.born, why.origin.passed, layer.similarity.relative_l2
        assert abs(born - passed) - 1e-5 <= whole <= born + passed + 1e-5, layer.name


@dataclass(frozen=True)
class Planned:
    """The small model with its plan."""

    top: Network
    table: dict[str, Threshold]
    plan: QuantizationPlan

    def explained(self, tpu: Network) -> list[Layer]:
        return explain(self.top, Reference(tpu), self.plan.operations, feeds(4))


@pytest.fixture(scope="module")
def planned() -> Planned:
    top = canonical_network(Source.of(small_model()), {"image": (1, 3, 16, 16)})
    table = table_of(top, feeds(8))
    return Planned(top, table, make_plan(top, table))


def test_movements_bear_no_error_and_inputs_have_none(planned: Planned) -> None:
    layers = {each.name: each for each in planned.explained(lower_to_tpu(planned.top, planned.plan))}
    for name in ("image", "flat"):
        why = layers[name].explanation
        assert why is not None and why.origin.born == 0
    assert layers["image"].similarity.relative_l2 == 0 < layers["flat"].similarity.relative_l2
    assert [row["operation"] for row in rows(list(layers.values()))][:3] == ["Input", "Conv", "Conv"]


def test_the_first_layer_alone_is_the_first_layer(planned: Planned) -> None:
    first = planned.explained(lower_to_tpu(planned.top, planned.plan))[1]
    assert first.explanation is not None
    assert first.explanation.isolated.relative_l2 == first.similarity.relative_l2
    assert first.explanation.quantizes and first.explanation.shares.activation_rounding > 0


def of_weight(tpu: Network, operation: str, index: int, change: Callable[[Any], Any]) -> Network:
    """The network with one weight of an operation changed."""
    op = next(op for op in tpu.operations if name_of(op) == operation)
    name = name_of(op.operands[index])
    tpu.weights[name] = change(tpu.weights[name].copy()).astype(tpu.weights[name].dtype)
    return tpu


def coarse(channel: int) -> Callable[[Any], Any]:
    def change(filters: Any) -> Any:
        filters[channel] = np.sign(filters[channel]) * 64 * np.rint(np.abs(filters[channel]) / 64)
        return filters

    return change


def dead(channel: int) -> Callable[[Any], Any]:
    def change(filters: Any) -> Any:
        filters[channel] = 0
        return filters

    return change


def worst(planned: Planned, tpu: Network) -> tuple[str, str, str]:
    """Name, kind of cause and sentence of the worst layer."""
    (layer,) = worst_layers(planned.explained(tpu), 1)
    cause = cause_of(layer)
    return layer.name, cause.kind, cause.sentence


def test_a_clipped_tensor_is_named_with_its_cause(planned: Planned) -> None:
    entry = planned.table["relu1"]
    table = planned.table | {"relu1": replace(entry, threshold=entry.threshold / 4)}
    name, kind, sentence = worst(planned, lower_to_tpu(planned.top, make_plan(planned.top, table)))
    assert (name, kind) == ("relu1", "clipping") and "lie beyond what it stores (0 to" in sentence


def test_bad_weights_are_named_with_their_channel(planned: Planned) -> None:
    tpu = of_weight(lower_to_tpu(planned.top, planned.plan), "conv2", 1, coarse(5))
    name, kind, sentence = worst(planned, tpu)
    assert (name, kind) == ("conv2", "weight_rounding") and "channel 5 of 8" in sentence


def test_a_wrong_scale_is_named_as_a_gain_error_and_is_a_finding_the_cosine_hides(planned: Planned) -> None:
    tpu = of_weight(lower_to_tpu(planned.top, planned.plan), "conv2", 3, lambda multiplier: multiplier * 0.92)
    name, kind, sentence = worst(planned, tpu)
    assert (name, kind) == ("conv2", "gain") and "too small" in sentence
    found = findings(planned.explained(tpu), ["scores"])
    assert ("gain", "conv2") in [(each.kind, each.tensor) for each in found]


def test_a_dead_channel_is_named_and_found(planned: Planned) -> None:
    tpu = of_weight(lower_to_tpu(planned.top, planned.plan), "conv2", 1, dead(3))
    tpu = of_weight(tpu, "conv2", 2, dead(3))
    name, kind, sentence = worst(planned, tpu)
    assert (name, kind) == ("conv2", "dead_channels") and sentence.startswith("channel 3 is dead")
    assert any(
        str(each).startswith("conv2: channel 3 of 8 is constant") for each in findings(planned.explained(tpu), [])
    )


def test_the_shares_of_the_output_error_name_the_layer_that_is_to_blame(planned: Planned) -> None:
    tpu = of_weight(lower_to_tpu(planned.top, planned.plan), "conv2", 3, lambda multiplier: multiplier * 0.92)
    names = [name_of(value) for value in planned.top.values()]
    shares = output_shares(planned.top, Reference(tpu), feeds(1)[0], names)
    assert max(shares, key=lambda name: shares[name]) == "conv2"
    assert sum(shares.values()) == pytest.approx(1, abs=0.1)
    assert output_shares(planned.top, Reference(tpu), feeds(1)[0], names, budget=0) == {}


def test_what_no_reader_tells_apart_is_no_error() -> None:
    top = Top((1, 4, 8, 8))
    wide = top.conv("wide", top.x)
    network = top.finish(top.op("HardSigmoid", "y", wide, alpha=1 / 6, beta=0.5))
    samples = [{"x": 4 * np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}]
    plan = make_plan(network, table_of(network, samples))
    assert plan.tensors["wide"].high < 4
    tpu = lower_to_tpu(network, plan)
    wide_layer = next(
        each for each in explain(network, Reference(tpu), plan.operations, samples) if each.name == "wide"
    )
    assert wide_layer.similarity.cosine > 0.999 and wide_layer.similarity.saturated < 0.01
    assert wide_layer.explanation is not None and wide_layer.explanation.origin.born < 0.05


def test_channels_with_scales_of_their_own_are_no_fault_of_the_weights() -> None:
    top = Top((1, 3, 8, 8))
    inner = top.conv("inner", top.x, outputs=4)
    network = top.finish(top.conv("y", inner, outputs=5))
    samples = [{"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}]
    plan = make_plan(network, table_of(network, samples))
    tensors = {**plan.tensors, "inner": replace(plan.tensors["inner"], factors=(1.0, 0.5, 0.7, 0.9), axis=1)}
    tpu = lower_to_tpu(network, replace(plan, tensors=tensors))
    for layer in explain(network, Reference(tpu), plan.operations, samples)[1:]:
        why = layer.explanation
        assert why is not None and why.isolated.relative_l2 < 0.3, layer.name
        assert abs(why.shares.weight_rounding) < 0.5 and sum(
            getattr(why.shares, part) for part in PARTS
        ) == pytest.approx(1)


def test_an_output_that_is_an_input_has_no_part_in_the_output_error() -> None:
    top = Top((1, 3, 8, 8))
    network = top.finish(top.x, top.conv("y", top.x, outputs=5))
    samples = [{"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}]
    tpu = lower_to_tpu(network, make_plan(network, table_of(network, samples)))
    shares = output_shares(network, Reference(tpu), samples[0], [name_of(value) for value in network.values()])
    assert shares == {"y": pytest.approx(1)}


def test_weights_of_a_transposed_convolution_bear_their_part_of_its_error() -> None:
    top = Top((1, 3, 5, 4))
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 2, 2], "dilations": [1, 1]}
    operands = [top.x, top.weight(5, 3, 3, 3), top.weight(5)]
    network = top.finish(top.op("Conv", "y", *operands, shape=(1, 5, 10, 8), inserts=[1, 1], **window))
    samples = [{"x": np.random.default_rng(0).standard_normal((1, 3, 5, 4)).astype(np.float32)}]
    plan = make_plan(network, table_of(network, samples))
    why = explain(network, Reference(lower_to_tpu(network, plan)), plan.operations, samples)[1].explanation
    assert why is not None and why.shares.weight_rounding > 0.1
    assert sum(getattr(why.shares, part) for part in PARTS) == pytest.approx(1)


def test_shares_sum_to_one_where_returned_tensors_are_read_on() -> None:
    top = Top((1, 3, 8, 8))
    inner = top.conv("inner", top.x, outputs=4)
    middle = top.op("Relu", "middle", inner)
    network = top.finish(inner, middle, top.conv("y", middle, outputs=5))
    samples = [{"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}]
    tpu = lower_to_tpu(network, make_plan(network, table_of(network, samples), Scheme(results={"y": "F32"})))
    names = [name_of(value) for value in network.values()]
    shares = output_shares(network, Reference(tpu), samples[0], names)
    assert set(shares) == {"inner", "middle", "y"} and sum(shares.values()) == pytest.approx(1, abs=0.02)


def test_what_float16_is_too_coarse_for_is_told_as_that(tmp_path: Path) -> None:
    array = (1e-7 * np.random.default_rng(0).standard_normal((8, 8))).astype(np.float32)
    made = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, 8)})
    made.graph.initializer.append(numpy_helper.from_array(array, "w"))
    data = [{"x": np.random.default_rng(k).standard_normal((1, 8)).astype(np.float32)} for k in range(3)]
    found = tpu_deploy.report(made, tmp_path / "r", inputs=data, precision="f16", gate=-1.0)
    assert [each.cause.kind for each in found.reasons.advice] == ["underflow"]
    assert "lie below what float16 holds well (6.1e-05); in bf16 or f32" in found.reasons.advice[0].cause.sentence
