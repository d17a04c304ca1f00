from collections.abc import Callable

import pytest
from top_networks import Top, rewritten
from xdsl.ir import SSAValue

from tpu_deploy.lowering.fuse_activations import fuse_activations

SIXTH = float.fromhex("0x1.555556p-3")
"""1 / 6 as float32 has it."""


def relu6_of_x_plus_3(top: Top, x: SSAValue) -> SSAValue:
    return top.op("Relu", "clipped", top.op("AddConst", "shifted", x, const_val=3.0), relu_limit=6.0)


def silu(top: Top, x: SSAValue) -> SSAValue:
    return top.op("Mul", "y", x, top.op("Sigmoid", "gate", x))


def silu_reversed(top: Top, x: SSAValue) -> SSAValue:
    return top.op("Mul", "y", top.op("Sigmoid", "gate", x), x)


def mish(top: Top, x: SSAValue) -> SSAValue:
    return top.op("Mul", "y", x, top.op("Tanh", "gate", top.op("Softplus", "soft", x)))


def hard_swish_of_hard_sigmoid(top: Top, x: SSAValue) -> SSAValue:
    return top.op("Mul", "y", x, top.op("HardSigmoid", "gate", x, alpha=SIXTH, beta=0.5))


def hard_swish_divided_last(top: Top, x: SSAValue) -> SSAValue:
    return top.op("MulConst", "y", top.op("Mul", "product", x, relu6_of_x_plus_3(top, x)), const_val=SIXTH)


def hard_swish_divided_first(top: Top, x: SSAValue) -> SSAValue:
    scaled = top.op("MulConst", "scaled", x, const_val=SIXTH)
    return top.op("Mul", "y", scaled, relu6_of_x_plus_3(top, x))


def hard_sigmoid(top: Top, x: SSAValue) -> SSAValue:
    return top.op("MulConst", "y", relu6_of_x_plus_3(top, x), const_val=SIXTH)


def hard_sigmoid_with_slope(top: Top, x: SSAValue) -> SSAValue:
    line = top.op("AddConst", "line", top.op("MulConst", "slope", x, const_val=2.0), const_val=3.0)
    return top.op("MulConst", "y", top.op("Clip", "clipped", line, min=0.0, max=4.0), const_val=0.25)


def gelu(top: Top, x: SSAValue) -> SSAValue:
    root = top.op("MulConst", "root", x, const_val=0.70710677)
    gate = top.op("AddConst", "gate", top.op("Erf", "erf", root), const_val=1.0)
    return top.op("MulConst", "y", top.op("Mul", "product", x, gate), const_val=0.5)


def gelu_halved_first(top: Top, x: SSAValue) -> SSAValue:
    root = top.op("MulConst", "root", x, const_val=0.70710677)
    gate = top.op("AddConst", "gate", top.op("Erf", "erf", root), const_val=1.0)
    return top.op("Mul", "y", gate, top.op("MulConst", "half", x, const_val=0.5))


def gelu_with_half_a_gate(top: Top, x: SSAValue) -> SSAValue:
    root = top.op("MulConst", "root", x, const_val=0.70710677)
    line = top.op("AddConst", "line", top.op("Erf", "erf", root), const_val=1.0)
    return top.op("Mul", "y", x, top.op("MulConst", "gate", line, const_val=0.5))


def gelu_by_tanh(top: Top, x: SSAValue) -> SSAValue:
    cube = top.op("Mul", "cube", top.op("Mul", "square", x, x), x)
    total = top.op("Add", "total", x, top.op("MulConst", "little", cube, const_val=0.044715))
    tanh = top.op("Tanh", "tanh", top.op("MulConst", "bent", total, const_val=0.7978846))
    gate = top.op("AddConst", "gate", tanh, const_val=1.0)
    return top.op("Mul", "y", top.op("MulConst", "half", x, const_val=0.5), gate)


PATTERNS: dict[Callable[[Top, SSAValue], SSAValue], str] = {
    silu: "SiLU",
    silu_reversed: "SiLU",
    mish: "Mish",
    hard_swish_of_hard_sigmoid: "HardSwish",
    hard_swish_divided_last: "HardSwish",
    hard_swish_divided_first: "HardSwish",
    hard_sigmoid: "HardSigmoid",
    hard_sigmoid_with_slope: "HardSigmoid",
    gelu: "GELU",
    gelu_halved_first: "GELU",
    gelu_with_half_a_gate: "GELU",
    gelu_by_tanh: "GELU",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_becomes_one_activation(pattern: Callable[[Top, SSAValue], SSAValue]) -> None:
    top = Top()
    a = top.conv("a", top.x)
    assert rewritten(top.finish(pattern(top, a)), fuse_activations) == ["a=Conv", f"y={PATTERNS[pattern]}"]


def test_hard_swish_by_way_of_hard_sigmoid() -> None:
    top = Top()
    gate = top.op("MulConst", "gate", relu6_of_x_plus_3(top, top.x), const_val=SIXTH)
    assert rewritten(top.finish(top.op("Mul", "y", top.x, gate)), fuse_activations) == ["y=HardSwish"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_value_inside_that_is_returned_forbids_it(pattern: Callable[[Top, SSAValue], SSAValue]) -> None:
    top = Top()
    y = pattern(top, top.x)
    inner = top.network.operations[-2].results[0]
    before = len(top.network.operations)
    assert len(rewritten(top.finish(inner, y), fuse_activations)) == before


def test_a_gate_of_another_value_stays() -> None:
    top = Top()
    a = top.op("Relu", "a", top.x)
    y = top.op("Mul", "y", top.x, top.op("Sigmoid", "gate", a))
    assert rewritten(top.finish(y), fuse_activations) == ["a=Relu", "gate=Sigmoid", "y=Mul"]


def test_another_slope_is_no_hard_swish() -> None:
    top = Top()
    y = top.op("Mul", "y", top.x, top.op("HardSigmoid", "gate", top.x, alpha=0.2, beta=0.5))
    assert rewritten(top.finish(y), fuse_activations) == ["gate=HardSigmoid", "y=Mul"]


def test_a_ramp_that_does_not_reach_one_stays() -> None:
    top = Top()
    y = top.op("MulConst", "y", relu6_of_x_plus_3(top, top.x), const_val=0.5)
    assert len(rewritten(top.finish(y), fuse_activations)) == 3


@pytest.mark.parametrize(("inside", "outside"), [(0.7, 0.5), (0.70710677, 0.6)])
def test_other_numbers_are_no_gelu(inside: float, outside: float) -> None:
    top = Top()
    erf = top.op("Erf", "erf", top.op("MulConst", "root", top.x, const_val=inside))
    product = top.op("Mul", "product", top.x, top.op("AddConst", "gate", erf, const_val=1.0))
    y = top.op("MulConst", "y", product, const_val=outside)
    assert len(rewritten(top.finish(y), fuse_activations)) == 5
