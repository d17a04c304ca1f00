import pytest
from top_networks import Top, rewritten

from tpu_deploy.ir.top import UNBOUNDED
from tpu_deploy.lowering.clamp import Interval
from tpu_deploy.lowering.merge_clips import merge_clips


@pytest.mark.parametrize(("high", "limit"), [(6.0, 6.0), (UNBOUNDED, -1.0)])
def test_a_clip_from_zero_becomes_relu(high: float, limit: float) -> None:
    top = Top()
    network = top.finish(top.op("Clip", "y", top.x, min=0.0, max=high))
    assert rewritten(network, merge_clips) == ["y=Relu"]
    assert network.operations[0].attributes["relu_limit"].value.data == limit


def test_a_clip_from_elsewhere_stays() -> None:
    top = Top()
    assert rewritten(top.finish(top.op("Clip", "y", top.x, min=-1.0, max=1.0)), merge_clips) == ["y=Clip"]


def test_maximum_then_minimum_becomes_one_relu() -> None:
    top = Top()
    a = top.op("Clip", "a", top.x, min=0.0, max=UNBOUNDED)
    y = top.op("Clip", "y", a, min=-UNBOUNDED, max=6.0)
    assert rewritten(top.finish(y), merge_clips) == ["y=Relu"]


def test_chains_merge_and_disjoint_intervals_give_the_nearer_end() -> None:
    top = Top()
    a = top.op("Clip", "a", top.x, min=-1.0, max=1.0)
    b = top.op("Relu", "b", a)
    y = top.op("Clip", "y", b, min=2.0, max=3.0)
    assert rewritten(top.finish(y), merge_clips) == ["y=Clip"]
    assert Interval(2, 3).after(Interval(0, 1)) == Interval(2, 2)


def test_another_reader_forbids_it() -> None:
    top = Top()
    a = top.op("Relu", "a", top.x)
    y = top.op("Clip", "y", a, min=-1.0, max=1.0)
    assert rewritten(top.finish(a, y), merge_clips) == ["a=Relu", "y=Clip"]
