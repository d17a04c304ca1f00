"""Each pass over a product's weights betters what it is for, on any data, and no sum leaves the accumulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.quant.fitting import PASSES, Halves, Product, fit, reconstructed
from tpu_deploy.quant.moments import Moments
from tpu_deploy.quant.plan import ChosenWeights, TensorQuantization
from tpu_deploy.quant.rounding import second_order_rounding
from tpu_deploy.quant.weights import ACCUMULATOR_LIMIT, accumulator_reach

X, Y = TensorQuantization("uint8", 0.02), TensorQuantization("int8", 0.1)

SHAPES = st.sampled_from([(1, 6, 40), (1, 3, 130), (7, 1, 9), (4, 3, 18), (1, 1, 1)])
"""Groups, outputs and terms: dense, more terms than a block, depthwise, grouped, a single weight."""


def made_up(shape: tuple[int, int, int], seed: int, rows: int = 400) -> tuple[Product, np.ndarray, np.ndarray]:
    """A product, its inputs (K, rows, G) that go up and down together, and float results (J, rows, G)."""
    groups, outputs, terms = shape
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(shape)
    common = rng.random((1, rows, groups)) * 2
    x = np.clip(np.rint((common + rng.random((terms, rows, groups))) / X.scale), 0, 255) * X.scale
    bias = rng.standard_normal((groups, outputs))
    y = np.einsum("gjk,krg->jrg", weights, x) + bias.T[:, None, :]
    product = Product(weights, bias, X, Y, (groups * outputs, terms), 0)
    return product, x.astype(np.float32), y.astype(np.float32)


def halves(x: np.ndarray, y: np.ndarray) -> Halves:
    return Moments.of(x[:, ::2], y[:, ::2]), Moments.of(x[:, 1::2], y[:, 1::2])


def results(product: Product, chosen: ChosenWeights, x: np.ndarray) -> np.ndarray:
    weights = (chosen.weights.astype(float) * chosen.scales[:, None]).reshape(product.weights.shape)
    bias = chosen.bias.reshape(product.bias.shape)
    return np.einsum("gjk,krg->jrg", weights, x.astype(np.float64)) + bias.T[:, None, :]


def error(product: Product, chosen: ChosenWeights, x: np.ndarray, y: np.ndarray) -> float:
    return float(((results(product, chosen, x) - y) ** 2).mean())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SHAPES, st.integers(0, 9), st.integers(1, 70))
def test_moments_are_those_of_all_rows(shape: tuple[int, int, int], seed: int, rows: int) -> None:
    _, x, y = made_up(shape, seed, rows)
    moments = Moments.of(x, y)
    wide = x.astype(np.float64).transpose(2, 0, 1)
    np.testing.assert_allclose(moments.second, wide @ wide.transpose(0, 2, 1) / rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.xy, wide @ y.astype(np.float64).transpose(2, 1, 0), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(moments.variance, y.astype(np.float64).var(1).T, rtol=1e-3, atol=1e-3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SHAPES, st.integers(0, 9))
def test_second_order_rounding_never_loses_to_nearest_by_more_than_its_damping(
    shape: tuple[int, int, int], seed: int
) -> None:
    product, x, y = made_up(shape, seed)
    second = Moments.of(x, y).second
    scales = np.abs(product.weights).max(2) / 127

    def loss(integers: np.ndarray) -> float:
        rest = product.weights - integers * scales[:, :, None]
        return float(np.einsum("gjk,gkl,gjl->", rest, second, rest))

    ours = loss(second_order_rounding(product.weights, scales, second, 0.01))
    nearest = loss(np.rint(product.weights / scales[:, :, None]))
    assert ours <= nearest * 1.05 + 1e-12


def test_second_order_rounding_halves_the_error_of_inputs_that_vary_together() -> None:
    product, x, y = made_up((1, 16, 100), 3)
    given_halves = halves(x, y)
    nearest = fit(product, given_halves, (), "max")
    assert error(product, fit(product, given_halves, ("rounding",), "max"), x, y) < 0.5 * error(product, nearest, x, y)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(SHAPES, st.integers(0, 9))
def test_bias_gives_every_output_the_mean_of_unrounded_weights(shape: tuple[int, int, int], seed: int) -> None:
    product, x, y = made_up(shape, seed)
    chosen = fit(product, halves(x, y), ("bias",), "max")
    np.testing.assert_allclose(results(product, chosen, x).mean(1), y.astype(np.float64).mean(1), atol=2e-3)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(SHAPES, st.integers(0, 9), st.floats(0.8, 1.25))
def test_affine_takes_away_a_gain_and_an_offset_of_the_inputs(
    shape: tuple[int, int, int], seed: int, gain: float
) -> None:
    product, x, y = made_up(shape, seed)
    wrong = (x * np.float32(gain) + np.float32(0.1)).astype(np.float32)
    plain, better = (fit(product, halves(wrong, y), passes, "mse") for passes in ((), ("affine",)))
    assert error(product, better, wrong, y) <= 1.001 * error(product, plain, wrong, y) + 1e-6
    spread = float(y.var(1).mean())
    assert error(product, better, wrong, y) < 0.01 * spread + 1e-4


def test_reconstruction_makes_up_for_noise_of_one_input_by_another_that_knows_the_same() -> None:
    rng = np.random.default_rng(5)
    product, x, y = made_up((1, 4, 8), 1, 2000)
    x[1] = x[0]
    y = np.einsum("gjk,krg->jrg", product.weights, x).astype(np.float32)
    noisy = x.copy()
    noisy[0] += rng.standard_normal(x[0].shape).astype(np.float32)
    fresh = x.copy()
    fresh[0] += rng.standard_normal(x[0].shape).astype(np.float32)
    moved = reconstructed(product, halves(noisy, y))
    judge = Moments.of(fresh, y)
    assert judge.errors(moved.weights).sum() < 0.7 * judge.errors(product.weights).sum()


def test_rows_that_were_cut_off_and_results_beyond_the_type_tell_nothing() -> None:
    product, x, y = made_up((1, 3, 6), 4, 400)
    low, high = (np.float32(np.quantile(y, share)) for share in (0.1, 0.9))
    scale = float(high - low) / 255
    product = replace(product, y=TensorQuantization("int8", scale, round(-128 - float(low) / scale)))
    low, high = np.float32(product.y.low), np.float32(product.y.high)
    cut = x.copy()
    cut[:, :20] = 0.0
    rows, wanted = product.telling(cut, np.where(y > high, y + 100, y))
    assert rows.shape[1] == wanted.shape[1] >= 200
    assert not (rows == 0).all(0).any(), "the rows whose operands were cut off are left out"
    assert np.abs(wanted - product.results(rows)).max() < 0.1 * np.ptp(y)


def test_reconstruction_leaves_weights_that_only_chance_would_move() -> None:
    product, x, _ = made_up((1, 2, 40), 2, 50)
    noise = np.random.default_rng(0).standard_normal((2, 50, 1)) * 50
    y = (np.einsum("gjk,krg->jrg", product.weights, x) + noise).astype(np.float32)
    moved = reconstructed(product, halves(x, y))
    assert np.abs(moved.weights - product.weights).max() < 1.0


@pytest.mark.parametrize("passes", [PASSES, ("rounding", "affine"), ("bias",), ("reconstruction",), ()])
@pytest.mark.parametrize("case", ["zero weights", "zero inputs", "constant inputs", "one row", "no rows"])
def test_degenerate_data_give_finite_weights_within_bounds(case: str, passes: tuple[str, ...]) -> None:
    product, x, y = made_up((3, 2, 9), 0, 20)
    if case == "zero weights":
        product.weights[:] = 0
    elif case == "zero inputs":
        x[:] = 0
    elif case == "constant inputs":
        x[:] = 1.5
    rows = {"one row": 1, "no rows": 0}.get(case, 20)
    chosen = fit(product, halves(x[:, :rows], y[:, :rows]), passes, "mse")
    assert np.isfinite(chosen.scales).all() and (chosen.scales > 0).all()
    assert np.isfinite(chosen.bias).all()
    assert np.abs(chosen.weights.astype(int)).max() <= 127
    assert (accumulator_reach(chosen, 0, X) <= ACCUMULATOR_LIMIT).all()


@pytest.mark.parametrize("passes", [PASSES, ("rounding",), ()])
def test_huge_biases_widen_the_scale_instead_of_the_sum(passes: tuple[str, ...]) -> None:
    product, x, y = made_up((1, 4, 30), 0)
    product.weights[:] *= 1e-4
    product.bias[:] = 1e6
    y = y + np.float32(1e6)
    chosen = fit(product, halves(x, y), passes, "mse")
    assert (accumulator_reach(chosen, 0, X) <= ACCUMULATOR_LIMIT).all()


def test_columns_of_a_matrix_are_fitted_as_rows_are() -> None:
    rng = np.random.default_rng(0)
    matrix, bias = rng.standard_normal((20, 5)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    rows, columns = (Product.of(w, bias, axis, 1, X, Y) for w, axis in ((matrix.T, 0), (matrix, 1)))
    _, x, y = made_up((1, 5, 20), 0)
    by_row, by_column = (fit(p, halves(x, y), PASSES, "mse") for p in (rows, columns))
    assert np.array_equal(by_row.weights.T, by_column.weights)
    assert np.array_equal(by_row.scales, by_column.scales)


def test_fitting_twice_gives_the_same_bits() -> None:
    product, x, y = made_up((4, 3, 18), 4)
    assert fit(product, halves(x, y), PASSES, "mse") == fit(product, halves(x, y), PASSES, "mse")
