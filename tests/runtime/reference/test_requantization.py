import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.runtime.reference.requantization import BLOCK, Requantizer
from tpu_deploy.runtime.reference.workers import Workers

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)
WORKERS = Workers(2)


@st.composite
def types(draw: st.DrawFn, dtypes=(np.int8, np.uint8, np.int16)) -> UniformType:
    dtype = draw(st.sampled_from(dtypes))
    limits = np.iinfo(dtype)
    return UniformType.of(dtype, 0.1, draw(st.integers(int(limits.min), int(limits.max)) | st.just(0)))


@st.composite
def channels(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Multiplier, shift, bias and bound: any, or such that the results are small and ties are frequent."""
    if draw(st.booleans()):
        return draw(INT32), draw(st.integers(0, 63)), draw(INT32), draw(st.integers(0, 2**31 - 1))
    exponent = draw(st.integers(0, 30))
    multiplier = draw(st.sampled_from([1, -1, 3])) << min(exponent, 28)
    shift = max(0, min(exponent, 28) + draw(st.integers(-2, 4)))
    return multiplier, shift, draw(st.integers(-300, 300)), draw(st.integers(0, 600))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(kind=types(), rows=st.lists(channels(), min_size=1, max_size=4), by_row=st.booleans(), seed=st.integers(0, 99))
def test_any_multiplier_shift_bias_and_zero_point_gives_the_exact_integers(requantized, kind, rows, by_row, seed):
    multiplier, shift, bias, bound = (
        np.array(each, np.int64).reshape((-1, 1) if by_row else (1, -1)) for each in zip(*rows, strict=True)
    )
    rng = np.random.default_rng(seed)
    shape = (2, len(rows), 9) if by_row else (2, 9, len(rows))
    values = rng.integers(-bound, bound + 1, shape)
    values[:, :1, :1] = -bound[:1, :1]
    values[0, -1:, -1:] = bound[-1:, -1:]
    result = np.empty(shape, kind.dtype)
    Requantizer(multiplier, shift, bias, bound, kind.zero_point, kind.dtype)([values], result, WORKERS)
    np.testing.assert_array_equal(result, requantized(values + bias, multiplier, shift, kind))


@pytest.mark.parametrize("shift", range(40, 60))
def test_shifts_at_the_end_of_float64_are_exact(requantized, shift):
    kind = UniformType.of(np.int8, 0.1, 5)
    bound = 2**24
    multiplier = 2**23 - 1
    nearly = ((2 * np.arange(-40, 40) + 1) * 2 ** (shift - 1)) // multiplier
    values = np.clip(nearly[:, None] + np.arange(-1, 2), -bound, bound)[None]
    result = np.empty(values.shape, np.int8)
    Requantizer(multiplier, shift, 0, bound, 5, np.int8)([values], result, WORKERS)
    np.testing.assert_array_equal(result, requantized(values, multiplier, shift, kind))


def test_a_channel_beyond_float64_does_not_disturb_its_neighbours(requantized):
    kind = UniformType.of(np.uint8, 0.1, 3)
    multiplier, shift = np.array([[2**23 - 5], [2**31 - 1], [1]]), np.array([[31], [36], [0]])
    values = np.random.default_rng(0).integers(-(2**24), 2**24, (1, 3, 500))
    made = Requantizer(multiplier, shift, 0, 2**24, 3, np.uint8)
    assert made.inexact.reshape(-1).tolist() == [False, True, False]
    result = np.empty(values.shape, np.uint8)
    made([values.astype(np.float32)], result, WORKERS)
    np.testing.assert_array_equal(result, requantized(values, multiplier, shift, kind))


def test_a_negative_shift_multiplies(requantized):
    kind = UniformType.of(np.int16, 0.1, -7)
    values = np.arange(-20000, 20000, 77)[None, None]
    result = np.empty(values.shape, np.int16)
    Requantizer(3, -2, 1, 20000, -7, np.int16)([values], result, WORKERS)
    np.testing.assert_array_equal(result, requantized(values + 1, 3, -2, kind))


def test_dead_channels_with_large_shifts_keep_to_float64():
    made = Requantizer([[5], [2**22]], [[62], [30]], [[1000], [0]], [[0], [2**24]], 0, np.int8)
    assert not made.any_inexact


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, BLOCK + 5), (1, 2 * BLOCK // 7 + 3, 7), (1, 1, 3 * BLOCK + 1)])
def test_arrays_of_several_blocks_and_parts_are_whole(requantized, spread, shape):
    rng = np.random.default_rng(1)
    parts = [rng.integers(-9000, 9000, shape).astype(np.float32) for _ in range(3)]
    multiplier = rng.integers(1, 2**20, (shape[1], 1))
    result = np.empty(shape, np.int8)
    Requantizer(multiplier, 28, 0, 27000, 0, np.int8)(parts, result, WORKERS, spread)
    product = sum(part.astype(np.int64) for part in parts) * multiplier
    np.testing.assert_array_equal(result, np.clip((product + 2**27) >> 28, -128, 127))
