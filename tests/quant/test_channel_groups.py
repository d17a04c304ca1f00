"""Channels are tied where one factor must serve both, free where weights absorb it, fixed where nothing can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type
from tpu_deploy.quant.channel_groups import FIXED, ChannelGroups, channel_groups

WINDOW = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
POOL = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}


class Top:
    def __init__(self, *shape: int) -> None:
        self.network = Network.create("net", [("x", shape or (1, 4, 6, 6))])
        self.x = self.network.inputs[0]

    def op(self, kind: str, name: str, operands: list[SSAValue], shape: tuple[int, ...], **attributes: Any) -> SSAValue:
        result = tensor_type(shape, Float32Type())
        return self.network.append(f"top.{kind}", operands, [result], [name], attributes).results[0]

    def weight(self, *shape: int) -> SSAValue:
        return self.network.add_weight("w", np.ones(shape, np.float32))

    def conv(self, name: str, x: SSAValue, channels: int = 4, **attributes: Any) -> SSAValue:
        n, c, h, w = shape_of(x)
        operands = [x, self.weight(channels, c, 1, 1), self.network.absent()]
        return self.op("Conv", name, operands, (n, channels, h, w), **WINDOW, **attributes)

    def like(self, kind: str, name: str, *operands: SSAValue, **attributes: Any) -> SSAValue:
        return self.op(kind, name, list(operands), shape_of(operands[0]), **attributes)

    def groups(self, *outputs: SSAValue) -> ChannelGroups:
        self.network.finish(outputs, [name_of(v) for v in outputs])
        self.network.verify()
        return channel_groups(self.network)


def fixed(groups: ChannelGroups, name: str) -> bool:
    return bool((groups.labels[name] == FIXED).all())


def test_a_product_frees_what_it_reads_from_what_it_makes() -> None:
    top = Top()
    a = top.conv("a", top.x)
    b = top.conv("b", a)
    groups = top.groups(top.conv("c", b))
    assert not set(groups.labels["a"]) & set(groups.labels["b"])
    assert len(set(groups.labels["a"])) == 4
    assert groups.count == 8


def test_inputs_and_outputs_are_fixed() -> None:
    top = Top()
    groups = top.groups(top.conv("a", top.x))
    assert fixed(groups, "x")
    assert fixed(groups, "a")


def test_a_chain_of_residual_additions_shares_its_factors() -> None:
    top = Top()
    a = top.conv("a", top.x)
    b = top.like("Add", "b", a, top.conv("inner", a))
    c = top.like("Add", "c", b, top.conv("second", b), do_relu=True)
    groups = top.groups(top.conv("end", c))
    for name in ("inner", "b", "second", "c"):
        assert np.array_equal(groups.labels[name], groups.labels["a"])


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSwish", "Softplus"])
def test_a_function_that_is_not_homogeneous_fixes_both_sides(kind: str) -> None:
    top = Top()
    a = top.conv("a", top.x)
    groups = top.groups(top.conv("end", top.like(kind, "f", a)))
    assert fixed(groups, "a")
    assert fixed(groups, "f")


@pytest.mark.parametrize(
    "kind, attributes", [("Relu", {}), ("LeakyRelu", {"alpha": 0.1}), ("Clip", {"min": 0.0, "max": 6.0})]
)
def test_a_homogeneous_function_passes_factors_on(kind: str, attributes: dict[str, Any]) -> None:
    top = Top()
    a = top.conv("a", top.x)
    groups = top.groups(top.conv("end", top.like(kind, "f", a, **attributes)))
    assert not fixed(groups, "a")
    assert np.array_equal(groups.labels["a"], groups.labels["f"])


def test_a_clip_that_does_not_begin_at_zero_fixes() -> None:
    top = Top()
    groups = top.groups(top.conv("end", top.like("Clip", "f", top.conv("a", top.x), min=-1.0, max=1.0)))
    assert fixed(groups, "a")


def test_pools_and_flattening_pass_factors_on_to_the_matrix_product() -> None:
    top = Top()
    a = top.conv("a", top.x)
    pooled = top.op("AvgPool", "pooled", [a], (1, 4, 1, 1), **{**POOL, "kernel_shape": [6, 6]})
    flat = top.op("Reshape", "flat", [pooled], (1, 4))
    result = top.op("MatMul", "end", [flat, top.weight(4, 3), top.network.absent()], (1, 3))
    groups = top.groups(result)
    assert not fixed(groups, "a")
    assert np.array_equal(groups.labels["flat"], groups.labels["a"])


def test_flattening_whole_planes_repeats_the_group_of_each_channel() -> None:
    top = Top(1, 2, 2, 3)
    flat = top.op("Reshape", "flat", [top.conv("a", top.x, 2)], (1, 12))
    groups = top.groups(top.op("MatMul", "end", [flat, top.weight(12, 3), top.network.absent()], (1, 3)))
    assert np.array_equal(groups.labels["flat"], np.repeat(groups.labels["a"], 6))


def test_a_reshape_that_mixes_channels_fixes() -> None:
    top = Top()
    mixed = top.op("Reshape", "mixed", [top.conv("a", top.x)], (1, 2, 12, 6))
    groups = top.groups(top.conv("end", mixed, 2))
    assert fixed(groups, "mixed") and fixed(groups, "a")


def test_a_concat_along_channels_ties_each_operand_to_its_part() -> None:
    top = Top()
    a, b = top.conv("a", top.x, 2), top.conv("b", top.x, 3)
    joined = top.op("Concat", "joined", [a, b], (1, 5, 6, 6), axis=1)
    groups = top.groups(top.conv("end", joined))
    assert np.array_equal(groups.labels["joined"], np.concatenate([groups.labels["a"], groups.labels["b"]]))


def test_a_concat_along_rows_ties_its_operands() -> None:
    top = Top()
    a, b = top.conv("a", top.x), top.conv("b", top.x)
    joined = top.op("Concat", "joined", [a, b], (1, 4, 12, 6), axis=2)
    groups = top.groups(top.conv("end", joined))
    assert np.array_equal(groups.labels["a"], groups.labels["b"])


def test_a_gate_is_fixed_and_what_it_scales_passes_its_factors_on() -> None:
    top = Top()
    a = top.conv("a", top.x)
    pooled = top.op("AvgPool", "pooled", [a], (1, 4, 1, 1), **{**POOL, "kernel_shape": [6, 6]})
    gate = top.like("Sigmoid", "gate", top.conv("squeezed", pooled))
    scaled = top.like("Mul", "scaled", a, gate)
    groups = top.groups(top.conv("end", scaled))
    assert fixed(groups, "gate")
    assert np.array_equal(groups.labels["scaled"], groups.labels["a"])
    assert not fixed(groups, "a")


def test_a_broadcast_addition_fixes_both_operands() -> None:
    top = Top()
    a = top.conv("a", top.x)
    narrow = top.op("AvgPool", "narrow", [a], (1, 4, 6, 1), **{**POOL, "kernel_shape": [1, 6], "strides": [1, 1]})
    wide = top.op("Reshape", "wide", [narrow], (1, 1, 4, 6))
    groups = top.groups(top.conv("end", top.like("Add", "sum", a, wide)))
    assert fixed(groups, "wide")


def test_channels_of_matrix_products_lie_along_the_last_axis() -> None:
    top = Top(2, 7, 4)
    a = top.op("MatMul", "a", [top.x, top.weight(4, 5), top.network.absent()], (2, 7, 5))
    b = top.like("Relu", "b", a)
    groups = top.groups(top.op("MatMul", "end", [b, top.weight(5, 3), top.network.absent()], (2, 7, 3)))
    assert groups.axes["a"] == groups.axes["b"] == 2
    assert groups.count == 5
