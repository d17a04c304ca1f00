from top_networks import Top, rewritten
from xdsl.ir import SSAValue

from tpu_deploy.lowering.merge_scales import merge_scales


def scale(top: Top, name: str, x: SSAValue, seed: int = 0, **attributes: object) -> SSAValue:
    return top.op("Scale", name, x, top.weight(6, seed=seed), top.weight(6, seed=seed + 1), **attributes)


def test_a_chain_becomes_one_scale() -> None:
    top = Top()
    a = scale(top, "a", top.x)
    b = top.op("MulConst", "b", a, const_val=0.5)
    c = top.op("AddConst", "c", b, const_val=2.0)
    y = scale(top, "y", c, 2, do_relu=True, relu_limit=6.0)
    assert rewritten(top.finish(y), merge_scales) == ["y=Scale+relu6"]


def test_numbers_stay_numbers() -> None:
    top = Top()
    a = top.op("MulConst", "a", top.x, const_val=0.5)
    y = top.op("MulConst", "y", a, const_val=3.0)
    assert rewritten(top.finish(y), merge_scales) == ["y=MulConst"]


def test_a_relu_between_forbids_it() -> None:
    top = Top()
    a = scale(top, "a", top.x, do_relu=True, relu_limit=-1.0)
    assert rewritten(top.finish(scale(top, "y", a)), merge_scales) == ["a=Scale+relu", "y=Scale"]


def test_another_reader_or_an_output_between_forbids_it() -> None:
    top = Top()
    a = scale(top, "a", top.x)
    b = scale(top, "b", a)
    y = top.op("Add", "y", a, b)
    assert rewritten(top.finish(y), merge_scales) == ["a=Scale", "b=Scale", "y=Add"]
    top = Top()
    a = scale(top, "a", top.x)
    assert rewritten(top.finish(a, scale(top, "y", a)), merge_scales) == ["a=Scale", "y=Scale"]


def test_constants_along_different_axes_stay_apart() -> None:
    top = Top()
    a = scale(top, "a", top.x)
    y = top.op("Mul", "y", a, top.weight(8))
    assert rewritten(top.finish(y), merge_scales) == ["a=Scale", "y=Mul"]


def test_constants_along_the_last_axis_merge() -> None:
    top = Top((2, 3, 5))
    a = top.op("Add", "a", top.x, top.weight(5))
    y = top.op("Add", "y", a, top.weight(5, seed=1))
    assert rewritten(top.finish(y), merge_scales) == ["y=Add"]
