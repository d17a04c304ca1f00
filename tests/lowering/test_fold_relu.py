import pytest
from top_networks import Top, rewritten

from tpu_deploy.lowering.fold_relu import fold_relu


def test_relu_goes_into_the_convolution_which_takes_its_name() -> None:
    top = Top()
    assert rewritten(top.finish(top.op("Relu", "y", top.conv("a", top.x))), fold_relu) == ["y=Conv+relu"]


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul"])
def test_relu6_goes_into_a_sum(kind: str) -> None:
    top = Top()
    a = top.op(kind, "a", top.x, top.weight(6, 9, 8))
    assert rewritten(top.finish(top.op("Relu", "y", a, relu_limit=6.0)), fold_relu) == [f"y={kind}+relu6"]


def test_a_clip_from_zero_goes_in_too() -> None:
    top = Top()
    a = top.op("MulConst", "a", top.x, const_val=2.0)
    assert rewritten(top.finish(top.op("Clip", "y", a, min=0.0, max=1.0)), fold_relu) == ["y=MulConst+relu1"]


def test_the_lower_of_two_limits_holds() -> None:
    top = Top()
    a = top.op("MulConst", "a", top.x, const_val=2.0, do_relu=True, relu_limit=1.0)
    b = top.op("Relu", "b", a, relu_limit=6.0)
    y = top.op("Relu", "y", b)
    assert rewritten(top.finish(y), fold_relu) == ["y=MulConst+relu1"]


def test_a_clip_from_elsewhere_stays() -> None:
    top = Top()
    y = top.op("Clip", "y", top.conv("a", top.x), min=-1.0, max=1.0)
    assert rewritten(top.finish(y), fold_relu) == ["a=Conv", "y=Clip"]


def test_another_reader_forbids_it() -> None:
    top = Top()
    a = top.conv("a", top.x)
    y = top.op("Add", "y", a, top.op("Relu", "b", a))
    assert rewritten(top.finish(y), fold_relu) == ["a=Conv", "b=Relu", "y=Add"]


def test_an_output_between_forbids_it() -> None:
    top = Top()
    a = top.conv("a", top.x)
    assert rewritten(top.finish(a, top.op("Relu", "y", a)), fold_relu) == ["a=Conv", "y=Relu"]


@pytest.mark.parametrize("kind", ["MaxPool", "AvgPool"])
def test_pools_carry_no_relu(kind: str) -> None:
    top = Top()
    y = top.op("Relu", "y", top.pool(kind, "a", top.x))
    assert rewritten(top.finish(y), fold_relu) == [f"a={kind}", "y=Relu"]


def test_an_input_carries_no_relu() -> None:
    top = Top()
    assert rewritten(top.finish(top.op("Relu", "y", top.x)), fold_relu) == ["y=Relu"]
