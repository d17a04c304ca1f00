import numpy as np
from onnx_cases import positive
from top_networks import Top, rewritten

from tpu_deploy.lowering.fold_scale_into_weights import fold_scale_into_weights


def test_batch_norm_goes_into_the_convolution() -> None:
    top = Top()
    a = top.conv("a", top.x)
    mean, beta = top.weight(4), top.weight(4, seed=1)
    variance, gamma = top.constant(positive(4)), top.constant(positive(4))
    y = top.op("BatchNorm", "y", a, mean, variance, gamma, beta, epsilon=1e-3, do_relu=True, relu_limit=-1.0)
    assert rewritten(top.finish(y), fold_scale_into_weights) == ["y=Conv+relu"]


def test_a_scale_goes_into_a_grouped_convolution() -> None:
    top = Top()
    a = top.conv("a", top.x, group=2)
    y = top.op("Scale", "y", a, top.weight(4), top.weight(4, seed=1))
    assert rewritten(top.finish(y), fold_scale_into_weights) == ["y=Conv"]


def test_a_number_and_a_vector_go_into_the_product() -> None:
    top = Top((2, 3, 8))
    a = top.matmul("a", top.x, bias=False)
    b = top.op("MulConst", "b", a, const_val=0.5)
    y = top.op("Add", "y", b, top.weight(5))
    network = top.finish(y)
    assert rewritten(network, fold_scale_into_weights, repeats=2) == ["y=MatMul"]


def test_a_scale_along_the_rows_of_a_product_stays() -> None:
    top = Top((2, 3, 8))
    a = top.matmul("a", top.x)
    y = top.op("Scale", "y", a, top.weight(3), top.weight(3, seed=1))
    assert rewritten(top.finish(y), fold_scale_into_weights) == ["a=MatMul", "y=Scale"]


def test_an_added_constant_leaves_the_weight_as_it_is() -> None:
    top = Top()
    a = top.conv("a", top.x)
    y = top.op("AddConst", "y", a, const_val=2.0)
    network = top.finish(y)
    before = network.weight(network.operations[0].operands[1])
    assert rewritten(network, fold_scale_into_weights) == ["y=Conv"]
    assert network.weight(network.operations[0].operands[1]) is before


def test_a_bias_that_cancels_disappears() -> None:
    top = Top()
    a = top.conv("a", top.x)
    bias = top.network.weight(a.owner.operands[2])  # type: ignore[union-attr]
    assert bias is not None
    y = top.op("Add", "y", a, top.constant(-bias[:, None, None]))
    network = top.finish(y)
    assert rewritten(network, fold_scale_into_weights) == ["y=Conv"]
    assert network.weight(network.operations[0].operands[2]) is None


def test_the_sum_is_rounded_to_float32_once() -> None:
    top = Top((1, 1, 1, 1))
    filters = top.constant(np.full((1, 1, 1, 1), 1 / 3))
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    a = top.op("Conv", "a", top.x, filters, top.absent(), **window)
    y = top.op("MulConst", "y", a, const_val=3.1)
    network = top.finish(y)
    fold_scale_into_weights(network)
    array = network.weight(network.operations[0].operands[1])
    assert array is not None and array.item() == np.float32(np.float64(np.float32(1 / 3)) * 3.1)


def test_a_relu_another_reader_or_an_output_between_forbids_it() -> None:
    top = Top()
    a = top.conv("a", top.x, do_relu=True, relu_limit=-1.0)
    y = top.op("MulConst", "y", a, const_val=2.0)
    assert rewritten(top.finish(y), fold_scale_into_weights) == ["a=Conv+relu", "y=MulConst"]
    top = Top()
    a = top.conv("a", top.x)
    b = top.op("MulConst", "b", a, const_val=2.0)
    y = top.op("Add", "y", a, b)
    assert rewritten(top.finish(y), fold_scale_into_weights) == ["a=Conv", "b=MulConst", "y=Add"]
    top = Top()
    a = top.conv("a", top.x)
    y = top.op("MulConst", "y", a, const_val=2.0)
    assert rewritten(top.finish(a, y), fold_scale_into_weights) == ["a=Conv", "y=MulConst"]


def test_two_convolutions_that_share_a_weight_are_scaled_apart() -> None:
    top = Top()
    shared, bias = top.weight(6, 6, 1, 1), top.absent()
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    a = top.op("Conv", "a", top.x, shared, bias, **window)
    b = top.op("MulConst", "b", a, const_val=2.0)
    y = top.op("Conv", "y", b, shared, bias, **window)
    assert rewritten(top.finish(y), fold_scale_into_weights) == ["b=Conv", "y=Conv"]
