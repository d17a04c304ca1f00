import pytest
from top_networks import Top, rewritten

from tpu_deploy.lowering.fold_scale_into_reader import fold_scale_into_reader


def test_a_factor_goes_into_a_padded_convolution() -> None:
    top = Top()
    a = top.op("MulConst", "a", top.x, const_val=1 / 255)
    assert rewritten(top.finish(top.conv("y", a, pad=1)), fold_scale_into_reader) == ["y=Conv"]


@pytest.mark.parametrize("group", [1, 2, 6])
def test_a_scale_goes_into_a_convolution_without_padding(group: int) -> None:
    top = Top()
    a = top.op("Scale", "a", top.x, top.weight(6), top.weight(6, seed=1))
    y = top.conv("y", a, outputs=12, group=group, do_relu=True, relu_limit=-1.0)
    assert rewritten(top.finish(y), fold_scale_into_reader) == ["y=Conv+relu"]


def test_an_addend_does_not_go_into_a_padded_convolution() -> None:
    top = Top()
    a = top.op("AddConst", "a", top.x, const_val=0.5)
    assert rewritten(top.finish(top.conv("y", a, pad=1)), fold_scale_into_reader) == ["a=AddConst", "y=Conv"]


def test_a_vector_goes_into_a_product() -> None:
    top = Top((2, 3, 8))
    a = top.op("Add", "a", top.x, top.weight(8))
    b = top.op("Mul", "b", a, top.weight(8, seed=1))
    assert rewritten(top.finish(top.matmul("y", b)), fold_scale_into_reader, repeats=2) == ["y=MatMul"]


def test_a_relu_or_another_reader_forbids_it() -> None:
    top = Top()
    a = top.op("MulConst", "a", top.x, const_val=2.0, do_relu=True, relu_limit=-1.0)
    assert rewritten(top.finish(top.conv("y", a)), fold_scale_into_reader) == ["a=MulConst+relu", "y=Conv"]
    top = Top()
    a = top.op("MulConst", "a", top.x, const_val=2.0)
    assert rewritten(top.finish(a, top.conv("y", a)), fold_scale_into_reader) == ["a=MulConst", "y=Conv"]
