"""Channels with scales of their own: makers and readers absorb their factors, and they are refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from exactness import assert_exact
from onnx_cases import run
from top_networks import Top

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of, uniform_of
from tpu_deploy.ir.text import from_text, to_text
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.runtime.reference import Reference

FACTORS = (1.0, 0.02, 0.3, 0.07, 0.5, 0.01)


def spread(top: Top, value, name: str):
    """`value` with channels of very different ranges, as a product makes them."""
    channels = shape_of(value)[1]
    filters = np.eye(channels, dtype=np.float32)[:, :, None, None] * np.reshape(FACTORS, (-1, 1, 1, 1))
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    return top.op("Conv", name, value, top.constant(filters), top.absent(), **window)


def joined(top: Top, value):
    """The channels brought together again by a product that takes each as seriously, and the finished network."""
    filters = 1 / np.reshape(FACTORS, (1, -1, 1, 1)) * np.ones((4, 1, 1, 1))
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    shape = (shape_of(value)[0], 4, *shape_of(value)[2:])
    signs = np.where(np.random.default_rng(0).random((4, 6, 1, 1)) < 0.5, -1, 1)
    return top.finish(top.op("Conv", "y", value, top.constant(filters * signs), top.absent(), shape=shape, **window))


def product(top: Top) -> Network:
    return joined(top, spread(top, top.x, "a"))


def addition(top: Top) -> Network:
    a, b = spread(top, top.x, "a"), spread(top, top.x, "b")
    constant = top.constant(np.reshape(FACTORS, (1, 6, 1, 1)))
    return joined(top, top.op("Add", "d", top.op("Add", "c", a, b, do_relu=True), constant))


def pools(top: Top) -> Network:
    a = spread(top, top.x, "a")
    return joined(top, top.pool("AvgPool", "c", top.pool("MaxPool", "b", a, pad=1), pad=1))


def gate(top: Top) -> Network:
    a = spread(top, top.x, "a")
    small = top.op("Sigmoid", "g", top.pool("AvgPool", "p", top.x, kernel=8), shape=None)
    window = top.op(
        "Slice",
        "s",
        small,
        *[top.absent()] * 3,
        shape=(2, 6, 1, 1),
        offset=[0, 0, 0, 0],
        steps=[1, 1, 1, 1],
        ends=[2, 6, 1, 1],
    )
    return joined(top, top.op("Mul", "b", a, window))


def tables(top: Top) -> Network:
    return joined(top, top.op("LeakyRelu", "b", spread(top, top.x, "a"), alpha=0.2))


def depthwise(top: Top) -> Network:
    filters = top.weight(6, 1, 3, 3)
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 6}
    return joined(top, top.op("Conv", "b", spread(top, top.x, "a"), filters, top.absent(), **window))


BUILDERS = (product, addition, pools, gate, tables, depthwise)
FACTORED = {
    product: "a", addition: "abcd", pools: "abc", gate: "ab", tables: "ab", depthwise: "ab",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    threshold: float
    min: float
    max: float


def table_of(values: dict[str, np.ndarray]) -> dict[str, Row]:
    return {n: Row(float(np.abs(v).max()), float(v.min()), float(v.max())) for n, v in values.items()}


def planned(network: Network, names: str, scheme: Scheme) -> tuple[QuantizationPlan, dict[str, np.ndarray]]:
    """The plan whose tensors `names` have FACTORS, and the float values it was made for."""
    rng = np.random.default_rng(1)
    feeds = {"x": rng.standard_normal(shape_of(network.inputs[0])).astype(np.float32)}
    computed = [name_of(v) for v in network.values() if name_of(v) != "x"]
    values = feeds | dict(zip(computed, run(export_onnx(network, computed), feeds).values(), strict=True))
    wide = {n: values[n] / np.reshape(FACTORS, (1, 6, 1, 1)) for n in names}
    plan = make_plan(network, table_of({**values, **wide}), scheme)
    factored = {n: replace(plan.tensors[n], factors=FACTORS) for n in names}
    return replace(plan, tensors={**plan.tensors, **factored}), values


def noise(network: Network, plan: QuantizationPlan, values: dict[str, np.ndarray]) -> float:
    found = Reference(lower_to_tpu(network, plan)).run({"x": values["x"]})["y"]
    return float(np.linalg.norm(found - values["y"]) / np.linalg.norm(values["y"]))


@pytest.mark.parametrize("is_asymmetric", [False, True])
@pytest.mark.parametrize("build", BUILDERS)
def test_factors_keep_small_channels_exact(build: Callable[[Top], Network], is_asymmetric: bool) -> None:
    network = build(Top())
    plan, values = planned(network, FACTORED[build], Scheme(asymmetric=is_asymmetric))
    assert noise(network, plan, values) < 0.03
    assert noise(network, make_plan(network, table_of(values), Scheme(asymmetric=is_asymmetric)), values) > 0.1


@pytest.mark.parametrize("build", BUILDERS)
def test_factors_are_in_the_types_and_what_they_store_is_what_they_say(build: Callable[[Top], Network]) -> None:
    network = build(Top())
    plan, values = planned(network, FACTORED[build], Scheme())
    tpu = lower_to_tpu(network, plan)
    text = to_text(tpu)
    assert to_text(from_text(text, tpu.weights)) == text
    kinds = {name_of(v): uniform_of(v) for v in tpu.values()}
    for name, stored in Reference(tpu).run_all({"x": values["x"]}):
        if name in FACTORED[build]:
            kind = kinds[name]
            assert kind is not None and kind.is_per_axis
            error = np.abs(kind.dequantize(stored) - values[name]).max((0, 2, 3))
            assert (error < 8 * kind.scale * np.array(FACTORS)).all()


@pytest.mark.parametrize("build", BUILDERS)
def test_commands_compute_what_the_reference_does(build: Callable[[Top], Network]) -> None:
    network = build(Top())
    plan, _ = planned(network, FACTORED[build], Scheme(asymmetric=True))
    assert_exact(lower_to_tpu(network, plan))


@pytest.mark.parametrize("names", ["x", "y", "a", "b", "c"])
def test_factors_where_nothing_absorbs_them_are_refused(names: str) -> None:
    network = addition(Top())
    plan, _ = planned(network, "abcd", Scheme())
    stray = {n: replace(plan.tensors[n], factors=FACTORS if n in names else ()) for n in plan.tensors}
    with pytest.raises(BadInput, match=r"quantization plan: [xabcdy]: "):
        lower_to_tpu(network, replace(plan, tensors=stray))


def test_a_plan_with_factors_is_read_back_as_it_was() -> None:
    plan, _ = planned(product(Top()), "a", Scheme())
    assert QuantizationPlan.from_json(plan.to_json()) == plan
