import pytest
from top_networks import Top, rewritten

from tpu_deploy.ir.top import UNBOUNDED
from tpu_deploy.lowering.fold_pad import fold_pad

AROUND = [0, 0, 1, 0, 0, 0, 2, 1]
"""One row above, two below, one column right."""


def test_zeros_go_into_a_convolution_and_add_to_its_own() -> None:
    top = Top()
    network = top.finish(top.conv("y", top.pad("a", top.x, AROUND), pad=1))
    assert rewritten(network, fold_pad) == ["y=Conv"]
    assert [p.value.data for p in network.operations[0].attributes["pads"]] == [2, 1, 3, 2]


@pytest.mark.parametrize("paddings", [[0, 1, 0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0, 0]])
def test_pads_of_batch_or_channels_stay(paddings: list[int]) -> None:
    top = Top()
    y = top.conv("y", top.pad("a", top.x, paddings))
    assert rewritten(top.finish(y), fold_pad) == ["a=Pad", "y=Conv"]


def test_other_values_do_not_go_into_a_convolution() -> None:
    top = Top()
    y = top.conv("y", top.pad("a", top.x, AROUND, 1.0))
    assert rewritten(top.finish(y), fold_pad) == ["a=Pad", "y=Conv"]


@pytest.mark.parametrize(("pad", "include"), [(0, False), (0, True), (1, True)])
def test_zeros_go_into_an_average_that_counts_them(pad: int, include: bool) -> None:
    top = Top()
    y = top.pool("AvgPool", "y", top.pad("a", top.x, [0, 0, 1, 0, 0, 0, 1, 1]), pad=pad, count_include_pad=include)
    assert rewritten(top.finish(y), fold_pad) == ["y=AvgPool"]


def test_zeros_do_not_go_into_an_average_that_leaves_its_padding_out() -> None:
    top = Top()
    y = top.pool("AvgPool", "y", top.pad("a", top.x, AROUND), pad=1)
    assert rewritten(top.finish(y), fold_pad) == ["a=Pad", "y=AvgPool"]


def test_what_never_wins_goes_into_a_maximum() -> None:
    top = Top()
    y = top.pool("MaxPool", "y", top.pad("a", top.x, AROUND, -UNBOUNDED))
    assert rewritten(top.finish(y), fold_pad) == ["y=MaxPool"]


def test_zeros_go_into_a_maximum_of_values_that_are_never_negative() -> None:
    top = Top()
    y = top.pool("MaxPool", "y", top.pad("b", top.op("Relu", "a", top.x), AROUND))
    assert rewritten(top.finish(y), fold_pad) == ["a=Relu", "y=MaxPool"]
    top = Top()
    a = top.pool("MaxPool", "b", top.conv("a", top.x, do_relu=True, relu_limit=6.0))
    y = top.pool("MaxPool", "y", top.pad("c", a, AROUND))
    assert rewritten(top.finish(y), fold_pad) == ["a=Conv+relu6", "b=MaxPool", "y=MaxPool"]


def test_zeros_stay_in_front_of_a_maximum_of_any_values() -> None:
    top = Top()
    y = top.pool("MaxPool", "y", top.pad("a", top.x, AROUND))
    assert rewritten(top.finish(y), fold_pad) == ["a=Pad", "y=MaxPool"]


def test_windows_that_would_lie_in_padding_alone_forbid_it() -> None:
    top = Top()
    y = top.pool("MaxPool", "y", top.pad("b", top.op("Relu", "a", top.x), [0, 0, 3, 0, 0, 0, 0, 0]))
    assert fold_pad(top.finish(y)) == 0  # not run: onnxruntime refuses what its own fusion makes of it


def test_another_reader_forbids_it() -> None:
    top = Top()
    a = top.pad("a", top.x, AROUND)
    assert rewritten(top.finish(a, top.conv("y", a)), fold_pad) == ["a=Pad", "y=Conv"]
