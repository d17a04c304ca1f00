from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tpu_deploy.reports import similarity as module
from tpu_deploy.reports.similarity import Comparison, similarity

VALUES = st.floats(-1e6, 1e6, width=32)
TENSORS = array_shapes(max_dims=3, max_side=6).flatmap(lambda shape: arrays(np.float32, shape, elements=VALUES))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(TENSORS, st.floats(-1, 1), st.integers(1, 7))
def test_figures_are_those_of_their_definitions(x: np.ndarray, shift: float, chunk: int) -> None:
    y = (x * np.float32(0.9) + np.float32(shift)).astype(np.float32)
    chunks, module.CHUNK = module.CHUNK, chunk
    try:
        found = similarity(x, y)
    finally:
        module.CHUNK = chunks
    a, b = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    assert found.max_error == np.abs(a - b).max()
    assert (found.expected_min, found.expected_max) == (a.min(), a.max())
    if a.any() and b.any():
        assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-9)
        assert found.relative_l2 == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-9)
        if found.relative_l2:
            assert found.sqnr_db == pytest.approx(-20 * math.log10(found.relative_l2), abs=1e-6)


def test_identical_tensors_are_exact() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    found = similarity(x, x)
    assert (found.cosine, found.sqnr_db, found.relative_l2, found.max_error) == (1.0, math.inf, 0.0, 0.0)


def test_the_worst_sample_counts_for_the_cosine_and_all_for_the_rest() -> None:
    comparison = Comparison()
    comparison.add(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert comparison.add(np.array([3.0, 0.0]), np.array([0.0, 1.0])) == 0.0
    found = comparison.result()
    assert (found.samples, found.elements, found.cosine) == (2, 4, 0.0)
    assert found.relative_l2 == math.sqrt(10 / 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_never_masked(value: float, side: int) -> None:
    pair = [np.ones(10, np.float32), np.ones(10, np.float32)]
    pair[side][3] = value
    comparison = Comparison()
    comparison.add(*pair)
    comparison.add(np.ones(10), np.ones(10))
    found = comparison.result()
    assert math.isnan(found.cosine) and found.not_finite == 1
    assert not found.max_error <= 1e30


@pytest.mark.parametrize(
    ("expected", "actual", "cosine"),
    [(np.zeros(3), np.zeros(3), 1.0), (np.zeros(3), np.ones(3), 0.0), (np.ones(3), np.zeros(3), 0.0)],
)
def test_tensors_of_zeros_have_a_cosine(expected: np.ndarray, actual: np.ndarray, cosine: float) -> None:
    assert similarity(expected, actual).cosine == cosine


def test_noise_without_signal_is_no_signal() -> None:
    found = similarity(np.zeros(3), np.ones(3))
    assert found.sqnr_db == -math.inf and found.relative_l2 == math.inf


def test_saturation_is_the_share_beyond_the_limits() -> None:
    comparison = Comparison(-1.0, 1.0)
    comparison.add(np.array([-2.0, -1.0, 0.0, 1.0, 1.1]), np.zeros(5))
    assert comparison.result().saturated == 0.4


def test_different_shapes_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="shapes"):
        similarity(np.zeros((2, 3)), np.zeros((3, 2)))
