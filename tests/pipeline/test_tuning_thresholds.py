"""Thresholds are chosen by what they cost the results: what a network cuts off later may be cut off early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_top_networks import random_top
from top_networks import Top
from xdsl.dialects.builtin import Float32Type

from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.tuning_onward import Onward
from tpu_deploy.pipeline.tuning_sampling import value_samples
from tpu_deploy.pipeline.tuning_thresholds import fit_thresholds
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.plan import TensorQuantization

Feeds = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Row:
    threshold: float
    min: float
    max: float


def feeds_of(network: Network, count: int, seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    inputs = {name_of(v): shape_of(v) for v in network.inputs}
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in inputs.items()} for _ in range(count)]


def table_of(network: Network, feeds: Feeds) -> dict[str, Row]:
    values = [FloatNetwork(network).values(feed) for feed in feeds]
    found = {}
    for name in map(name_of, network.values()):
        low, high = min(float(v[name].min()) for v in values), max(float(v[name].max()) for v in values)
        found[name] = Row(max(-low, high), low, high)
    return found


def fitted(network: Network, feeds: Feeds, zero_points: bool = True) -> tuple[QuantizationPlan, QuantizationPlan]:
    """The plan of full ranges, and what is made of it."""
    table = table_of(network, feeds)
    plan = make_plan(network, table, Scheme(asymmetric=zero_points))
    results = [name_of(v) for v in network.outputs]
    samples = value_samples(network, feeds)
    return plan, fit_thresholds(network, plan, table, samples, feeds, results, zero_points)


def test_what_a_limit_further_down_cuts_off_is_cut_off_before() -> None:
    top = Top((1, 4, 8, 8))
    scaled = top.op("MulConst", "m", top.x, const_val=10.0)
    network = top.finish(top.op("Relu", "y", top.op("AddConst", "c", scaled, const_val=0.0), relu_limit=2.0))
    plan, found = fitted(network, feeds_of(network, 8))
    assert found.tensors["m"].high < 0.75 * plan.tensors["m"].high
    assert found.tensors["m"].low == pytest.approx(0.5 * plan.tensors["m"].low, rel=0.1)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), zero_points=st.booleans())
def test_any_network_can_be_lowered_afterwards_and_the_choice_repeats(seed: int, zero_points: bool) -> None:
    network = random_top(seed)
    feeds = feeds_of(network, 4)
    _, found = fitted(network, feeds, zero_points)
    lower_to_tpu(network, found)
    assert found == fitted(network, feeds, zero_points)[1]


def test_onward_runs_what_depends_on_the_tensors_and_rounds_them_all() -> None:
    top = Top((1, 4, 4, 4))
    first = top.op("Relu", "a", top.x)
    moved = top.op("Reshape", "b", first, shape=[1, 4, 16])
    network = top.finish(top.op("Reshape", "y", moved, shape=[1, 64]), top.op("MulConst", "z", top.x, const_val=2.0))
    names = [name_of(v) for v in network.values() if v not in network.inputs]
    feed = feeds_of(network, 1)[0]
    values = FloatNetwork(network).values(feed)
    onward = Onward(export_onnx(network, names), {"a": 4, "b": 3}, ["y", "z"])
    assert onward.reached == ["y"] and onward.reads == ["a"]
    kind = TensorQuantization("uint8", 0.01, 0)
    (found,) = onward.results({"a": values["a"]}, kind)
    assert found == pytest.approx(0.01 * np.clip(np.rint(values["y"] / np.float32(0.01)), 0, 255), abs=1e-6)


def test_parts_of_a_float_tensor_are_fitted_as_their_integer_readers_see_them() -> None:
    top = Top((1, 4, 4, 4))
    summed = top.op("Add", "s", top.conv("a", top.x, 4, kernel=1), top.conv("b", top.x, 4, kernel=1))
    halves = [tensor_type([1, 2, 4, 4], Float32Type())] * 2
    split = top.network.append("top.Split", [summed], halves, ["l", "r"], {"axis": 1, "num": 2, "split_size": [2, 2]})
    left, right = split.results
    network = top.finish(top.conv("y", left, 3, kernel=1), top.op("Relu", "z", right))
    feeds = feeds_of(network, 4)
    table = table_of(network, feeds)
    plan = make_plan(network, table, Scheme(operations={"s": "F32", "z": "F32"}))
    found = fit_thresholds(network, plan, table, value_samples(network, feeds), feeds, ["y", "z"], True)
    lower_to_tpu(network, found)
