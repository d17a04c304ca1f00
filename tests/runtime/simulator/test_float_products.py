"""The addition tree of the 16-bit units, against the same sum in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.runtime.simulator.float_products import aligned_sum


def slow_sum(terms: list[float]) -> float:
    """Terms cut to 25 bits below the largest one's leading bit, towards zero, added exactly and rounded to float32."""
    normal = [t for t in terms if abs(t) >= 2.0**-126]
    if not normal:
        return 0.0
    quantum = Fraction(2) ** (int(np.frexp(max(map(abs, normal)))[1]) - 25)
    total = sum(int(Fraction(t) / quantum) for t in normal)
    return float(np.float32(total * float(quantum))) if abs(total) < 1 << 53 else np.nan


@settings(derandomize=True, max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), spread=st.sampled_from([0, 3, 12, 40]), middle=st.sampled_from([0, -110, -88, 80]))
def test_sums_follow_the_tree_whatever_the_size_of_their_terms(seed: int, spread: int, middle: int) -> None:
    rng = np.random.default_rng(seed)
    exponents = middle + rng.integers(-spread, spread + 1, (2, 32, 3))
    terms = np.ldexp(rng.standard_normal((2, 32, 3)), exponents).astype(np.float32)
    terms[rng.random(terms.shape) < 0.2] = 0
    terms[0, :, 0] = 0
    with np.errstate(all="ignore"):
        found = aligned_sum(terms.copy())
    for row, column in np.ndindex(2, 3):
        assert found[row, column] == slow_sum(terms[row, :, column].tolist())


@pytest.mark.parametrize("term, wanted", [(np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan)])
def test_infinity_and_nan_reach_the_sum(term: float, wanted: float) -> None:
    terms = np.ones((1, 32, 2), np.float32)
    terms[0, 5, 1] = term
    with np.errstate(all="ignore"):
        found = aligned_sum(terms)
    np.testing.assert_array_equal(found, [[32.0, wanted]])
