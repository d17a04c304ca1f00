import pytest
from top_networks import Top, rewritten
from xdsl.ir import SSAValue

from tpu_deploy.lowering.canonicalize import canonicalize
from tpu_deploy.lowering.hoist_over_reshape import hoist_over_reshape


def sequence(top: Top, name: str) -> SSAValue:
    """A convolution of an image of height 1, reshaped to a sequence."""
    y = top.conv(f"{name}_image", top.x, outputs=6, kernel=1)
    return top.op("Reshape", name, y, shape=(2, 6, 15))


SEQUENCE = (2, 6, 1, 15)


@pytest.mark.parametrize("kind", ["Relu", "HardSwish", "Sigmoid"])
def test_an_activation_moves_to_the_convolution(kind: str) -> None:
    top = Top(SEQUENCE)
    y = top.op(kind, "y", sequence(top, "a"))
    expected = ["a_image=Conv", f"y_before_reshape={kind}", "y=Reshape"]
    assert rewritten(top.finish(y), hoist_over_reshape) == expected


def test_a_scale_and_slopes_along_the_channels_move() -> None:
    top = Top(SEQUENCE)
    a = top.op("Scale", "b", sequence(top, "a"), top.weight(6), top.weight(6, seed=1))
    y = top.op("PRelu", "y", a, top.weight(1, 6, 1))
    summary = rewritten(top.finish(y), hoist_over_reshape, repeats=2)
    assert [s.split("=")[1] for s in summary] == ["Conv", "Scale", "PRelu", "Reshape"]


def test_a_scale_stays_when_the_reshape_moves_the_channels() -> None:
    top = Top()
    a = top.op("Reshape", "b", top.conv("a", top.x, outputs=6), shape=(2, 42, 6))
    y = top.op("Scale", "y", a, top.weight(42), top.weight(42, seed=1))
    assert rewritten(top.finish(y), hoist_over_reshape) == ["a=Conv", "b=Reshape", "y=Scale"]


def test_a_sum_of_two_sequences_moves() -> None:
    top = Top(SEQUENCE)
    y = top.op("Add", "y", sequence(top, "a"), sequence(top, "b"))
    expected = ["a_image=Conv", "b_image=Conv", "y_before_reshape=Add", "y=Reshape"]
    assert rewritten(top.finish(y), hoist_over_reshape) == expected


def test_another_reader_of_the_reshape_forbids_it() -> None:
    top = Top(SEQUENCE)
    a = sequence(top, "a")
    y = top.op("Add", "y", a, top.op("Relu", "b", a))
    assert rewritten(top.finish(y), hoist_over_reshape) == ["a_image=Conv", "a=Reshape", "b=Relu", "y=Add"]


def test_nothing_moves_without_a_product_to_move_to() -> None:
    top = Top()
    a = top.op("Reshape", "a", top.x, shape=(2, 6, 72))
    assert rewritten(top.finish(top.op("Relu", "y", a)), hoist_over_reshape) == ["a=Reshape", "y=Relu"]


def test_a_sequence_of_convolutions_keeps_no_reshape_inside() -> None:
    top = Top((2, 6, 15))
    value = top.x
    for i in range(3):
        image = top.op("Reshape", f"in{i}", value, shape=(2, 6, 1, 15))
        made = top.conv(f"conv{i}", image, outputs=6, kernel=1)
        flat = top.op("Reshape", f"out{i}", made, shape=(2, 6, 15))
        value = top.op("Relu", f"relu{i}", flat)
    summary = rewritten(top.finish(value), canonicalize)
    assert [s.split("=")[1] for s in summary] == ["Reshape", "Conv+relu", "Conv+relu", "Conv+relu", "Reshape"]
