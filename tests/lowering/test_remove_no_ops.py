import pytest
from top_networks import Top, rewritten
from xdsl.ir import SSAValue

from tpu_deploy.ir.network import name_of
from tpu_deploy.ir.top import UNBOUNDED
from tpu_deploy.lowering.remove_no_ops import remove_no_ops


def slice_of(top: Top, x: SSAValue, steps: list[int], offset: list[int], ends: list[int]) -> SSAValue:
    none = [top.absent() for _ in range(3)]
    return top.op("Slice", "b", x, *none, offset=offset, steps=steps, ends=ends)


NOTHING = {
    "reshape": lambda top, x: top.op("Reshape", "b", x),
    "permute": lambda top, x: top.op("Permute", "b", x, order=[0, 1, 2, 3]),
    "pad": lambda top, x: top.pad("b", x, [0] * 8),
    "slice": lambda top, x: slice_of(top, x, [1] * 4, [0] * 4, [2, 6, 9, 8]),
    "clip": lambda top, x: top.op("Clip", "b", x, min=-UNBOUNDED, max=UNBOUNDED),
    "concat": lambda top, x: top.op("Concat", "b", x, axis=1),
    "split": lambda top, x: top.op("Split", "b", x, axis=1, num=1, split_size=[6]),
    "times_one": lambda top, x: top.op("MulConst", "b", x, const_val=1.0),
    "plus_zero": lambda top, x: top.op("AddConst", "b", x, const_val=0.0),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_changes_nothing_disappears(name: str) -> None:
    top = Top()
    y = top.op("Sigmoid", "y", NOTHING[name](top, top.op("Relu", "a", top.x)))
    assert rewritten(top.finish(y), remove_no_ops) == ["a=Relu", "y=Sigmoid"]


def test_an_output_is_then_the_value_before_under_its_onnx_name() -> None:
    top = Top()
    network = top.finish(top.op("Reshape", "y", top.op("Relu", "a", top.x)))
    assert rewritten(network, remove_no_ops) == ["a=Relu"]
    assert [name_of(v) for v in network.outputs] == ["a"] and network.output_names == ["y"]


def test_a_network_of_nothing_returns_its_input() -> None:
    top = Top()
    network = top.finish(top.op("MulConst", "y", top.x, const_val=1.0))
    assert rewritten(network, remove_no_ops) == []


SOMETHING = {
    "reversed": lambda top, x: slice_of(top, x, [1, -1, 1, 1], [0, 5, 0, 0], [2, -7, 9, 8]),
    "relu": lambda top, x: top.op("MulConst", "b", x, const_val=1.0, do_relu=True, relu_limit=-1.0),
    "times_two": lambda top, x: top.op("MulConst", "b", x, const_val=2.0),
    "plus_one": lambda top, x: top.op("AddConst", "b", x, const_val=1.0),
    "clip": lambda top, x: top.op("Clip", "b", x, min=-UNBOUNDED, max=1.0),
}


@pytest.mark.parametrize("name", SOMETHING)
def test_what_changes_something_stays(name: str) -> None:
    top = Top()
    y = top.op("Sigmoid", "y", SOMETHING[name](top, top.x))
    assert len(rewritten(top.finish(y), remove_no_ops)) == 2
