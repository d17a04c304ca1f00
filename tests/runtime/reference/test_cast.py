import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.quant_types import UniformType

TYPES = st.builds(
    lambda dtype, scale, zero: UniformType.of(
        dtype, scale, int(np.clip(zero, np.iinfo(dtype).min, np.iinfo(dtype).max))
    ),
    st.sampled_from([np.int8, np.uint8, np.int16]),
    st.floats(1e-6, 1e4),
    st.integers(-128, 255),
)


def half_away(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(kind=TYPES, values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_quantize_multiplies_by_the_float32_inverse_and_rounds_half_away(evaluate, kind, values):
    inverse = np.float32(1 / kind.scale)
    with np.errstate(over="ignore"):
        ties = (np.arange(-6, 7, dtype=np.float32) + np.float32(0.5)) / inverse
    edges = np.array([0.0, -0.0, 0.49999997, -0.49999997, 8388609, 3.4e38, 1e-45], np.float32)
    x = np.concatenate([np.array(values, np.float32), ties, edges])
    limits = np.iinfo(kind.dtype)
    expected = []
    for each in x:
        with np.errstate(over="ignore"):
            scaled = float(np.float32(each * inverse))
        whole = half_away(min(max(scaled, -1e6), 1e6))
        expected.append(min(max(whole + kind.zero_point, limits.min), limits.max))
    y = evaluate("tpu.Quantize", [(x, None)], x.shape, kind)
    assert y.dtype == kind.dtype and y.tolist() == expected


@settings(derandomize=True, deadline=None, max_examples=60)
@given(kind=TYPES, seed=st.integers(0, 2**16))
def test_dequantize_rounds_once(evaluate, kind, seed):
    limits = np.iinfo(kind.dtype)
    x = np.random.default_rng(seed).integers(limits.min, limits.max + 1, (3, 50)).astype(kind.dtype)
    y = evaluate("tpu.Dequantize", [(x, kind)], x.shape)
    expected = [[np.float32(int(v) - kind.zero_point) * np.float32(kind.scale) for v in row] for row in x]
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("axis", [1, 2])
def test_channels_are_cast_by_scales_of_their_own(evaluate, axis):
    rng = np.random.default_rng(axis)
    x = rng.standard_normal((2, 5, 700)).astype(np.float32)
    scales = rng.uniform(0.002, 0.1, x.shape[axis])
    y = evaluate("tpu.Quantize", [(x, None)], x.shape, kind := UniformType.of(np.int8, scales.tolist(), 3, axis))
    back = evaluate("tpu.Dequantize", [(y, kind)], x.shape)
    for index, scale in enumerate(scales):
        one = UniformType.of(np.int8, float(scale), 3)
        mine = [np.ascontiguousarray(np.take(each, [index], axis)) for each in (x, y, back)]
        assert np.array_equal(evaluate("tpu.Quantize", [(mine[0], None)], mine[0].shape, one), mine[1])
        assert np.array_equal(evaluate("tpu.Dequantize", [(mine[1], one)], mine[1].shape), mine[2])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    source=TYPES, result=TYPES, seed=st.integers(0, 2**16), rshift=st.integers(0, 50),
    multiplier=st.integers(2**22, 2**23 - 1) | st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31) + 1]),
)  # fmt: skip
def test_requantize_is_exact_from_any_type(evaluate, requantized, source, result, seed, rshift, multiplier):
    limits = np.iinfo(source.dtype)
    x = np.random.default_rng(seed).integers(limits.min, limits.max + 1, (2, 150)).astype(source.dtype)
    x[0, :2] = limits.min, limits.max
    y = evaluate("tpu.Requantize", [(x, source)], x.shape, result, multiplier=multiplier, rshift=rshift)
    expected = requantized(x.astype(np.int64) - source.zero_point, multiplier, rshift, result)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("multiplier", [2**22 + 7, -(2**22) - 7])
def test_requantize_from_32_bits_is_exact(evaluate, requantized, multiplier):
    kind, result = UniformType.of(np.int32, 0.1, 3), UniformType.of(np.int16, 0.1, 1)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(-(2**31), 2**31, 500), [-(2**31) + 4, 2**31 - 1]]).astype(np.int32)
    y = evaluate("tpu.Requantize", [(x, kind)], x.shape, result, multiplier=multiplier, rshift=39)
    np.testing.assert_array_equal(y, requantized(x.astype(np.int64) - 3, multiplier, 39, result))
