"""Integer weights reproduce float products, whatever the scales, and their sums fit the accumulator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.numbers import requantize
from tpu_deploy.quant.plan import LIMITS, TensorQuantization
from tpu_deploy.quant.weights import ACCUMULATOR_LIMIT, IntegerProduct, integer_product, requantization

X = TensorQuantization("int8", 0.02)
Y = TensorQuantization("int8", 0.05)


def random_product(channels: int = 6, inner: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.standard_normal((channels, inner)).astype(np.float32), rng.standard_normal(channels).astype(np.float32)


def integer_result(x: np.ndarray, integers: IntegerProduct, y: TensorQuantization) -> np.ndarray:
    sums = x.astype(np.int64) @ integers.weights.astype(np.int64).T + integers.bias
    stored = requantize(sums, integers.multiplier, integers.rshift, y.zero_point, y.numpy_dtype)
    return (stored.astype(np.float64) - y.zero_point) * y.scale


@pytest.mark.parametrize("x_zero, y_zero", [(0, 0), (-7, 11)])
def test_the_integer_product_is_the_float_product_within_rounding(x_zero: int, y_zero: int) -> None:
    weights, bias = random_product()
    x, y = TensorQuantization("int8", 0.02, x_zero), TensorQuantization("int8", 0.3, y_zero)
    stored = np.random.default_rng(1).integers(-128, 128, (50, 40))
    real = (stored - x_zero) * x.scale @ weights.T.astype(np.float64) + bias
    got = integer_result(stored, integer_product(weights, bias, 0, x, y), y)
    inside = (real > y.low) & (real < y.high)
    noise = 0.5 * np.abs(weights).max() / 127 * np.abs((stored - x_zero) * x.scale).sum(1, keepdims=True)
    assert inside.mean() > 0.9
    assert (np.abs(got - real) <= 0.5 * y.scale + noise)[inside].all()


def test_columns_of_a_matrix_are_channels_when_the_axis_says_so() -> None:
    weights, bias = random_product()
    rows, columns = integer_product(weights, bias, 0, X, Y), integer_product(weights.T, bias, 1, X, Y)
    assert np.array_equal(rows.weights.T, columns.weights)
    assert np.array_equal(rows.multiplier, columns.multiplier)
    assert np.array_equal(rows.bias, columns.bias)


def test_every_channel_uses_its_whole_range() -> None:
    weights, bias = random_product()
    weights *= np.geomspace(1, 1e3, len(weights), dtype=np.float32)[:, None]
    assert (np.abs(integer_product(weights, bias, 0, X, Y, "max").weights).max(1) == 127).all()
    assert (np.abs(integer_product(weights, bias, 0, X, Y, "mse").weights).max(1) > 127 / 1.4).all()


@pytest.mark.parametrize("inner, gain", [(9, 2.5), (64, 1.8), (1000, 1.7)])
def test_the_mse_method_errs_less_on_inputs_that_vary_together(inner: int, gain: float) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((200, inner)).astype(np.float32)
    together = rng.standard_normal((500, 1)) + rng.standard_normal((500, inner))
    y = TensorQuantization("int8", 0.01)

    def error(method: str) -> float:
        integers = integer_product(weights, None, 0, X, y, method)
        scales = integers.multiplier / 2.0**integers.rshift * y.scale / X.scale
        return float((((integers.weights * scales[:, None] - weights) @ together.T) ** 2).sum())

    assert error("mse") < error("max") / gain


def test_weights_too_small_to_matter_do_not_get_a_scale_of_their_own() -> None:
    weights, bias = random_product()
    weights[0] *= 1e-6
    integers = integer_product(weights, bias, 0, X, Y)
    ratio = integers.multiplier / 2.0**integers.rshift
    assert ratio[1:].min() / 100 < ratio[0] < ratio[1:].min()
    assert not integers.weights[0].any()


def test_a_channel_of_zeros_gives_its_bias() -> None:
    weights, bias = np.zeros((3, 4), np.float32), np.float32([1.0, -2.0, 0.0])
    got = integer_result(np.ones((1, 4), int), integer_product(weights, bias, 0, X, Y), Y)
    assert np.allclose(got, bias, atol=Y.scale / 2)


def test_a_large_bias_widens_the_scale_of_its_channel_alone() -> None:
    weights, _ = random_product(2)
    weights[0] *= 1e-9
    integers = integer_product(weights, np.float32([4.0, 4.0]), 0, X, Y)
    assert np.allclose(integer_result(np.zeros((1, 40), int), integers, Y), 4.0, atol=Y.scale / 2)
    assert np.abs(integers.weights[1]).max() == 127


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    weight=st.sampled_from([0.0, 1e-40, 1e-20, 1e-6, 1.0, 1e6, 1e20]),
    bias=st.sampled_from([0.0, 1e-20, 1.0, 1e6, 1e30]),
    x_scale=st.sampled_from([1e-20, 1e-3, 1e10]),
    y_scale=st.sampled_from([1e-20, 1e-3, 1e10]),
    x_dtype=st.sampled_from(["int8", "uint8"]),
    zero_point=st.sampled_from([0, 90]),
)
def test_no_accumulator_leaves_its_limit(
    weight: float, bias: float, x_scale: float, y_scale: float, x_dtype: str, zero_point: int
) -> None:
    weights, offsets = random_product(4, 3000)
    x, y = TensorQuantization(x_dtype, x_scale, zero_point), TensorQuantization("int8", y_scale)
    integers = integer_product(weights * np.float32(weight), offsets * np.float32(bias), 0, x, y)
    reach = max(abs(n) for n in LIMITS[x_dtype])
    largest = np.abs(integers.weights.astype(np.int64)).sum(1) * reach + np.abs(integers.bias.astype(np.int64))
    assert largest.max() <= ACCUMULATOR_LIMIT
    assert (integers.rshift >= 0).all() and (integers.rshift <= 62).all()
    assert (np.abs(integers.multiplier) < 2**23).all()


def test_a_limited_ratio_saturates_as_the_true_one_would() -> None:
    multiplier, rshift = requantization(1e9)
    got = requantize(np.array([-1, 0, 1]), multiplier, rshift, 3, np.int8)
    assert got.tolist() == [-128, 3, 127]
