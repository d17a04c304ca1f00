import numpy as np
import pytest
from onnx_cases import positive
from top_networks import Top, rewritten

from tpu_deploy.lowering.constants_to_scale import constants_to_scale


def test_batch_norm_becomes_scale() -> None:
    top = Top()
    mean, beta = top.weight(6), top.weight(6, seed=1)
    variance, gamma = top.constant(positive(6)), top.constant(positive(6))
    y = top.op("BatchNorm", "y", top.x, mean, variance, gamma, beta, epsilon=1e-3, do_relu=True, relu_limit=-1.0)
    assert rewritten(top.finish(y), constants_to_scale) == ["y=Scale+relu"]


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1)])
def test_a_constant_along_the_channels_becomes_scale(kind: str, shape: tuple[int, ...]) -> None:
    top = Top()
    assert rewritten(top.finish(top.op(kind, "y", top.x, top.weight(*shape))), constants_to_scale) == ["y=Scale"]


def test_a_tensor_subtracted_from_a_constant_along_the_channels_becomes_scale() -> None:
    top = Top()
    y = top.op("Sub", "y", top.weight(6, 1, 1), top.x, shape=(2, 6, 9, 8))
    assert rewritten(top.finish(y), constants_to_scale) == ["y=Scale"]


@pytest.mark.parametrize(("kind", "result"), [("Add", "AddConst"), ("Sub", "AddConst"), ("Mul", "MulConst")])
def test_a_constant_of_one_element_becomes_a_number(kind: str, result: str) -> None:
    top = Top()
    y = top.op(kind, "y", top.x, top.constant(np.full((1, 1), 3.0)))
    assert rewritten(top.finish(y), constants_to_scale) == [f"y={result}"]


def test_a_subtracted_number_is_added() -> None:
    top = Top()
    assert rewritten(top.finish(top.op("SubConst", "y", top.x, const_val=2.0)), constants_to_scale) == ["y=AddConst"]


def test_a_number_minus_a_tensor_becomes_scale() -> None:
    top = Top()
    y = top.op("SubConst", "y", top.x, const_val=2.0, is_reverse=True)
    assert rewritten(top.finish(y), constants_to_scale) == ["y=Scale"]


def test_constants_along_the_last_axis_stay() -> None:
    top = Top((2, 3, 5))
    a = top.op("Add", "a", top.x, top.weight(5))
    b = top.op("Mul", "b", a, top.weight(5))
    y = top.op("Sub", "y", b, top.weight(5))
    assert rewritten(top.finish(y), constants_to_scale) == ["a=Add", "b=Mul", "y=Add"]


def test_constants_along_two_axes_stay() -> None:
    top = Top()
    a = top.op("Add", "a", top.x, top.weight(9, 8))
    y = top.op("Sub", "y", a, top.weight(6, 9, 1))
    assert rewritten(top.finish(y), constants_to_scale) == ["a=Add", "y=Sub"]


def test_a_constant_that_widens_the_tensor_stays() -> None:
    top = Top((2, 1, 9, 8))
    y = top.op("Mul", "y", top.x, top.weight(6, 1, 1), shape=(2, 6, 9, 8))
    assert rewritten(top.finish(y), constants_to_scale) == ["y=Mul"]


def test_two_tensors_stay() -> None:
    top = Top()
    assert rewritten(top.finish(top.op("Mul", "y", top.x, top.x)), constants_to_scale) == ["y=Mul"]
