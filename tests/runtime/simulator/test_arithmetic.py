"""The arithmetic under the simulator, against exact fractions and plain sums."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.isa import Precision, RoundMode
from tpu_deploy.runtime.simulator.elements import rounded, saturated, to_float
from tpu_deploy.runtime.simulator.exact import exact_product
from tpu_deploy.runtime.simulator.floating import divide
from tpu_deploy.runtime.simulator.rounding import round_float, shift_right
from tpu_deploy.runtime.simulator.windows import Window, padded

PREFERENCE = {
    RoundMode.HALF_EVEN: lambda x, below: below if below % 2 == 0 else below + 1,
    RoundMode.HALF_AWAY: lambda x, below: below if x < 0 else below + 1,
    RoundMode.HALF_UP: lambda x, below: below + 1,
    RoundMode.HALF_DOWN: lambda x, below: below,
}
DIRECTED = {RoundMode.TO_ZERO: int, RoundMode.FLOOR: floor, RoundMode.CEIL: ceil}


def exactly(x: Fraction, mode: RoundMode) -> int:
    if mode in DIRECTED:
        return DIRECTED[mode](x)
    below = floor(x)
    if x - below == Fraction(1, 2):
        return PREFERENCE[mode](x, below)
    return below + (x - below > Fraction(1, 2))


modes = st.sampled_from(list(RoundMode))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=8), st.integers(-20, 30), modes)
def test_shifts_round_as_the_mode_says(values, amount, mode):
    expected = [exactly(Fraction(value) / Fraction(2) ** amount, mode) for value in values]
    wide = np.array(values, np.int64)
    assert shift_right(wide, amount, mode).tolist() == expected
    assert shift_right(wide, np.full(len(values), amount, np.int64), mode).tolist() == expected


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(-4000, 4000), min_size=1, max_size=8), modes)
def test_floats_round_as_the_mode_says(quarters, mode):
    values = np.array(quarters, np.float64) / 4
    assert round_float(values, mode).tolist() == [exactly(Fraction(q, 4), mode) for q in quarters]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3000), st.integers(1, 5), st.sampled_from([1, 3, 255]), st.integers(0, 99))
def test_products_in_float32_are_exact_however_long_the_sums(rows, depth, columns, size, seed):
    rng = np.random.default_rng(seed)
    left, right = rng.integers(-size, size + 1, (rows, depth)), rng.integers(-255, 256, (depth, columns))
    found = exact_product(left.astype(np.float32), right.astype(np.float32))
    assert found.dtype == np.int32 and np.array_equal(found, left @ right)


def test_products_of_the_largest_values_are_exact():
    left, right = np.full((2, 30000), 255.0, np.float32), np.full((30000, 3), -128.0, np.float32)
    assert (exact_product(left, right) == -255 * 128 * 30000).all()


def test_saturation_clips_to_the_narrower_range():
    values = np.array([-(2**31), -129, -1, 0, 127, 255, 2**31 - 1], np.int32)
    assert saturated(values, np.dtype(np.int8)).tolist() == [-128, -128, -1, 0, 127, 127, 127]
    assert saturated(values, np.dtype(np.uint8)).tolist() == [0, 0, 0, 0, 127, 255, 255]
    assert saturated(np.array([255], np.uint8), np.dtype(np.int32)).tolist() == [255]


def test_windows_meet_inserted_zeros_and_pads():
    x = np.array([[1, 2], [3, 4]], np.int32).reshape(1, 1, 2, 2)
    vertical, horizontal = Window(1, 1, 1, 1, 1, 0, 4), Window(1, 1, 1, 0, 0, 2, 4)
    expected = [[9, 9, 9, 9], [1, 2, 9, 9], [0, 0, 9, 9], [3, 4, 9, 9]]
    assert padded(x, vertical, horizontal, 9)[0, 0].tolist() == expected
    assert [(tap, part.start, part.stop, part.step) for tap, part in Window(2, 3, 2, 0, 0, 0, 2).taps()] == [
        (0, 0, 4, 3),
        (1, 2, 6, 3),
    ]


def test_half_precision_rounds_to_even_and_has_one_nan():
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1e6, -np.nan], np.float32)
    assert to_float(values, Precision.F16).tolist() == [0x3C00, 0x3C02, 0x7C00, 0x7FFF]
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1e-40, -1e-40], np.float32)
    assert to_float(values, Precision.BF16).tolist() == [0x3F80, 0x3F82, 0, 0x8000]


def test_float32_denormals_are_flushed_to_zeros_of_their_sign():
    found = rounded(np.array([1e-40, -1e-40, 2e-38], np.float32), Precision.F32)
    assert found.tolist() == [0, 0, np.float32(2e-38)] and np.signbit(found).tolist() == [False, True, False]


def test_division_comes_closer_with_every_iteration():
    a, b = np.float32([1, -7, 1e10, 3]), np.float32([3, 0.3, 1e-5, -9])
    errors = [float(np.max(np.abs(divide(a, b, k) / (a / b) - 1))) for k in (1, 2, 3, 4)]
    assert errors[0] < 5e-3 and errors[1] < 2e-5 and errors[3] < 5e-7
