"""Fixed-point arithmetic against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.numbers import RoundMode, dequantize, fixed_point, quantize, requantize, round_shift


def exactly(value: int, shift: int, mode: RoundMode) -> int:
    exact = Fraction(value, 1 << shift)
    floor = math.floor(exact)
    rest = exact - floor
    if mode is RoundMode.FLOOR or rest == 0:
        return floor
    if mode is RoundMode.CEIL:
        return floor + 1
    if mode is RoundMode.TO_ZERO:
        return floor + (value < 0)
    if rest != Fraction(1, 2):
        return floor + (rest > Fraction(1, 2))
    ties = {
        RoundMode.HALF_UP: True,
        RoundMode.HALF_DOWN: False,
        RoundMode.HALF_AWAY: value >= 0,
        RoundMode.HALF_EVEN: floor % 2 == 1,
    }
    return floor + ties[mode]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(-(2**62), 2**62), st.integers(0, 62), st.sampled_from(list(RoundMode)))
def test_a_rounding_shift_is_the_rounded_quotient(value, shift, mode):
    assert round_shift(np.array([value], np.int64), shift, mode)[0] == exactly(value, shift, mode)


@pytest.mark.parametrize("mode", list(RoundMode))
def test_the_largest_product_of_two_int32_is_rounded_without_overflow(mode):
    largest = 2**62
    assert round_shift(np.array([largest], np.int64), 63, mode)[0] == exactly(largest, 63, mode)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e3))
def test_a_fixed_point_ratio_is_within_half_a_unit_of_its_bits(ratio):
    multiplier, shift = fixed_point(ratio)
    assert 0 < int(multiplier) < 2**23
    assert abs(Fraction(int(multiplier)) / Fraction(2) ** int(shift) / Fraction(ratio) - 1) <= Fraction(1, 2**23)


def test_a_ratio_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        fixed_point([1.0, np.inf])


def test_requantization_rounds_before_the_zero_point_and_saturates_after_it():
    values = np.array([-(2**31), -3, -1, 0, 1, 3, 2**31 - 1], np.int64)
    assert requantize(values, 1, 1, 7, np.int8).tolist() == [-128, 6, 7, 7, 8, 9, 127]


def test_quantizing_rounds_halves_away_from_zero_and_saturates():
    values = np.array([-1e30, -2.5, -0.5, -0.0, 0.49999997, 0.5, 2.5, 1e30], np.float32)
    assert quantize(values, 1.0, 0, np.int8).tolist() == [-128, -3, -1, 0, 0, 1, 3, 127]
    assert quantize(values, 1.0, 5, np.uint8).tolist() == [0, 2, 4, 5, 5, 6, 8, 255]


def test_every_integer_survives_dequantizing_and_quantizing():
    for dtype, zero in ((np.int8, -7), (np.uint8, 131)):
        limits = np.iinfo(dtype)
        values = np.arange(limits.min, limits.max + 1).astype(dtype)
        assert np.array_equal(quantize(dequantize(values, 0.037, zero), 0.037, zero, dtype), values)


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_stored_as_zero() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert quantize(values, 0.5, -3, np.int8).tolist() == [-3, 127, -128, -1]
