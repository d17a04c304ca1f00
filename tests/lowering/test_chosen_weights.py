"""Weights that a plan chose are the weights that are lowered, for every operation that has integer weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, shape_of, tensor_type
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.quant.plan import ChosenWeights, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.weights import chosen_product

X, Y = TensorQuantization("int8", 0.02, 3), TensorQuantization("int8", 0.3)
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 0, 1], "dilations": [1, 2]}
RNG = np.random.default_rng(0)

KINDS = ("dense", "grouped", "depthwise", "product", "scale", "factor")


def network_of(kind: str) -> tuple[Network, tuple[int, ...]]:
    """A network of one operation called `y`, and the shape of its integer weights."""
    shape = (2, 4, 9, 8) if kind != "product" else (3, 7, 4)
    net = Network.create("net", [("x", shape)])

    def op(name: str, arrays: list[np.ndarray], result: tuple[int, ...], **attributes: object) -> SSAValue:
        weights = [net.add_weight("w", a) for a in arrays]
        kind = tensor_type(result, Float32Type())
        return net.append(f"top.{name}", [net.inputs[0], *weights], [kind], ["y"], attributes).results[0]

    groups = {"dense": 1, "grouped": 2, "depthwise": 4}
    if kind in groups:
        weights = (4, 4 // groups[kind], 3, 3)
        value = op("Conv", [_array(*weights), _array(4)], (2, 4, 4, 6), group=groups[kind], **WINDOW)
    elif kind == "product":
        weights = (4, 5)
        value = op("MatMul", [_array(4, 5), _array(5)], (3, 7, 5))
    else:
        weights = (4, 1, 1, 1)
        constants = [_array(4), _array(4)] if kind == "scale" else [_array(4, 1, 1)]
        value = op("Scale" if kind == "scale" else "Mul", constants, shape)
    net.finish([value], ["y"])
    return net, weights


def _array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def plan_of(kind: str) -> tuple[Network, QuantizationPlan, ChosenWeights]:
    net, shape = network_of(kind)
    channels = shape[1] if kind == "product" else shape[0]
    integers = RNG.integers(-127, 128, shape).astype(np.int8)
    chosen = ChosenWeights(integers, RNG.uniform(0.005, 0.02, channels), RNG.standard_normal(channels))
    return net, QuantizationPlan({"x": X, "y": Y}, {"y": "INT8"}, weights={"y": chosen}), chosen


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_weights_are_lowered_as_they_are(kind: str) -> None:
    net, plan, chosen = plan_of(kind)
    tpu = lower_to_tpu(net, plan)
    product = next(op for op in tpu.operations if op.name in ("tpu.Conv2D", "tpu.MatMul"))
    weights, bias, multiplier, _ = (tpu.weight(v) for v in product.operands[1:])
    wanted = chosen_product(chosen, 1 if kind == "product" else 0, X, Y)
    assert np.array_equal(weights, chosen.weights)
    assert np.array_equal(bias, wanted.bias)
    assert np.array_equal(multiplier, wanted.multiplier)


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_weights_of_another_shape_are_refused_by_name(kind: str) -> None:
    net, plan, chosen = plan_of(kind)
    short = replace(chosen, scales=chosen.scales[1:])
    with pytest.raises(BadInput, match="weights of y have other shapes"):
        lower_to_tpu(net, replace(plan, weights={"y": short}))


def test_chosen_sums_that_overflow_are_refused_by_name() -> None:
    net, plan, chosen = plan_of("dense")
    with pytest.raises(BadInput, match=r"weights of y: sums of channel \d can leave"):
        lower_to_tpu(net, replace(plan, weights={"y": replace(chosen, scales=chosen.scales * 1e-12)}))


def test_operations_without_chosen_weights_are_rounded_by_the_method() -> None:
    net, plan, _ = plan_of("dense")
    unchosen = replace(plan, weights={})
    filters = [net.weight(op.operands[1]) for op in net.operations]
    lowered = lower_to_tpu(net, unchosen)
    product = next(op for op in lowered.operations if op.name == "tpu.Conv2D")
    assert shape_of(product.operands[1]) == filters[0].shape
    assert np.abs(lowered.weight(product.operands[1])).max() > 80
