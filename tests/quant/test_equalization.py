"""Scales of channels are fitted to samples: less noise where they are read, whatever the tensors are like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_cases import run
from random_top_networks import random_top
from top_networks import Top

from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.lowering.activation import is_unary
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.equalization import equalized
from tpu_deploy.quant.factor_groups import around_convolutions, channel_axis, factor_groups
from tpu_deploy.quant.float_parts import float_outputs, float_sums
from tpu_deploy.quant.value_samples import ChannelDistributions, ValueSamples
from tpu_deploy.runtime.reference import Reference

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    threshold: float
    min: float
    max: float


def values_of(network: Network, seed: int, spread: float = 1.0) -> Values:
    """Float values of all tensors for noise whose channels differ in size by powers of `spread`."""
    rng, feeds = np.random.default_rng(seed), {}
    for value in network.inputs:
        shape = shape_of(value)
        sizes = spread ** -np.arange(shape[1]) if len(shape) > 1 else np.ones(1)
        sizes = sizes.reshape(-1, *[1] * (len(shape) - 2))
        feeds[name_of(value)] = (rng.standard_normal(shape) * sizes).astype(np.float32)
    names = [name_of(v) for v in network.values() if name_of(v) not in feeds]
    return feeds | dict(zip(names, run(export_onnx(network, names), feeds).values(), strict=True))


def samples_of(network: Network, several: Sequence[Values]) -> dict[str, ValueSamples]:
    found = {}
    for value in network.values():
        arrays, axis = [values[name_of(value)] for values in several], channel_axis(value)
        rows = [np.moveaxis(a, axis, 1) if axis else a.reshape(len(a) if a.ndim else 1, 1, -1) for a in arrays]
        whole = np.concatenate([r.reshape(*r.shape[:2], -1) for r in rows])
        found[name_of(value)] = ValueSamples(whole, whole.min(2), whole.max(2))
    return found


def table_of(several: Sequence[Values]) -> dict[str, Row]:
    joined = {name: np.stack([values[name] for values in several]) for name in several[0]}
    return {n: Row(float(np.abs(a).max()), float(a.min()), float(a.max())) for n, a in joined.items()}


def fitted(network: Network, several: Sequence[Values], zero_points: bool = True) -> QuantizationPlan:
    plan = make_plan(network, table_of(several), Scheme())
    groups = factor_groups(network, plan, lambda op: is_unary(network, op))
    return equalized(network, plan, table_of(several), samples_of(network, several), groups, zero_points)


def noise(network: Network, plan: QuantizationPlan, values: Values) -> float:
    feeds = {name_of(v): values[name_of(v)] for v in network.inputs}
    found = Reference(lower_to_tpu(network, plan), 1).run(feeds)
    pairs = zip(network.output_names, network.outputs, strict=True)
    return float(np.mean([np.mean((found[n] - values[name_of(v)]) ** 2) for n, v in pairs]))


def chain() -> Network:
    """Products, a depthwise one and a residual sum among them, over channels of very different ranges."""
    top = Top()
    a = top.conv("a", top.x, 8, kernel=1, do_relu=True, relu_limit=6.0)
    b = top.conv("b", a, 8, pad=1, group=8)
    c = top.op("HardSwish", "c", top.op("Add", "s", top.conv("d", b, 8, kernel=1), top.conv("e", a, 8, kernel=1)))
    network = top.finish(top.conv("y", c, 4, kernel=1))
    for op in network.operations:
        if op.name == "top.Conv" and name_of(op) != "y":
            weights, sizes = network.weight(op.operands[1]), 8.0 ** -np.linspace(0, 2, shape_of(op.results[0])[1])
            name = name_of(op.operands[1].owner)
            network.weights[name] = (weights * sizes.reshape(-1, 1, 1, 1)).astype(np.float32)
    return network


def test_scales_of_channels_and_zero_points_bring_the_outputs_nearer() -> None:
    network = chain()
    several, judge = [values_of(network, seed, 1.5) for seed in range(8)], values_of(network, 99, 1.5)
    plain = make_plan(network, table_of(several), Scheme())
    found = [noise(network, plan, judge) for plan in (plain, fitted(network, several, False), fitted(network, several))]
    assert found[0] > 1.1 * found[1] > 1.1 * found[2]


def test_what_is_chosen_on_few_samples_leaves_room_for_others() -> None:
    """A channel that one half of the samples knows nothing of keeps a range."""
    top = Top()
    network = top.finish(top.conv("y", top.conv("a", top.x, 6, kernel=1), 4, kernel=1))
    several = [values_of(network, seed) for seed in range(8)]
    for values in several:
        values["a"] = np.abs(values["a"])
    for values in several[:4]:
        values["a"][:, 0] = 0.0
    kind = fitted(network, several).tensors["a"]
    assert not kind.factors or kind.factors[0] > 0.5


@settings(derandomize=True, max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), zero_points=st.booleans())
def test_any_network_can_be_lowered_afterwards_and_is_no_worse_by_much(seed: int, zero_points: bool) -> None:
    network = random_top(seed)
    several = [values_of(network, seed + k) for k in range(4)]
    plan = make_plan(network, table_of(several), Scheme())
    judge = values_of(network, seed + 9)
    signal = float(np.mean([np.mean(judge[name_of(v)] ** 2) for v in network.outputs]))
    made = fitted(network, several, zero_points)
    assert noise(network, made, judge) < 2 * noise(network, plan, judge) + 0.01 * signal
    assert made == fitted(network, several, zero_points)


@pytest.mark.parametrize("fill", [0.0, 1.0, 1e-35])
def test_tensors_without_any_range_are_fitted_too(fill: float) -> None:
    network = chain()
    values = values_of(network, 0)
    for name in ("a", "b", "s", "c"):
        values[name] = np.full_like(values[name], fill)
    kinds = fitted(network, [values]).tensors
    assert all(np.isfinite(kind.scale) and kind.scale > 0 for kind in kinds.values())
    lower_to_tpu(network, fitted(network, [values]))


def test_inputs_and_outputs_have_no_factors_and_casts_take_them_in() -> None:
    network = chain()
    plan = make_plan(network, table_of([values_of(network, 0)]), Scheme(operations={"s": "F32"}))
    groups = factor_groups(network, plan, lambda op: is_unary(network, op))
    assert groups == [["a"], ["b"], ["d"], ["e"], ["s"], ["c"]]
    lower_to_tpu(network, fitted(network, [values_of(network, 0)]))


def test_groups_are_told_apart_by_the_products_around_them() -> None:
    top = Top((2, 8))
    network = top.finish(top.matmul("y", top.matmul("h", top.x, 8), 4))
    plan = make_plan(network, table_of([values_of(network, 0)]), Scheme())
    (group,) = factor_groups(network, plan, lambda op: is_unary(network, op))
    assert group == ["h"] and not around_convolutions(network, group)
    assert around_convolutions(chain(), ["c"])


def test_what_is_added_has_the_same_factors() -> None:
    network = chain()
    plan = make_plan(network, table_of([values_of(network, 0)]), Scheme())
    assert ["d", "e", "s"] in factor_groups(network, plan, lambda op: is_unary(network, op))
    kinds = fitted(network, [values_of(network, seed, 1.5) for seed in range(4)]).tensors
    assert kinds["d"].factors == kinds["e"].factors == kinds["s"].factors != ()


@settings(derandomize=True, max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.floats(0.2, 1.2), sign=st.booleans())
def test_noise_is_foretold(seed: int, cut: float, sign: bool) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((4, 3, 500)).astype(np.float32) * np.array([1.0, 3.0, 0.2], np.float32)[:, None]
    drawn = drawn if sign else np.maximum(drawn, 0)
    low, high = float(drawn.min()) * cut, float(drawn.max()) * cut
    step = (high - low) / 60
    found = ChannelDistributions.of(ValueSamples(drawn, drawn.min(2), drawn.max(2))).noise(
        *(np.full((3, 1), number) for number in (low, high, step))
    )
    exact = ((np.clip(np.rint(drawn / step) * step, low, high) - drawn) ** 2).mean((0, 2))
    assert np.allclose(found[:, 0], exact, rtol=0.25, atol=0.02 * step**2)


def test_sums_and_outputs_become_floats_and_nothing_else() -> None:
    network = chain()
    operations, results = float_sums(network)
    assert operations == {"s": "F32"} and results == {"d": "F32", "e": "F32"}
    assert float_outputs(network) == {"y": "F32"}
    values = values_of(network, 0)
    scheme = Scheme(operations=operations, results={**results, **float_outputs(network)})
    plain = make_plan(network, table_of([values]), Scheme())
    assert noise(network, make_plan(network, table_of([values]), scheme), values) < noise(network, plain, values)
