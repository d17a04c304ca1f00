import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.runtime.reference.accumulation import FLOAT32_EXACT

TYPES = st.builds(
    lambda dtype, zero: UniformType.of(dtype, 0.1, int(np.clip(zero, np.iinfo(dtype).min, np.iinfo(dtype).max))),
    st.sampled_from([np.int8, np.uint8]),
    st.sampled_from([-128, 0, 0, 5, 127, 255]),
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    rows=st.lists(st.integers(1, 5), max_size=3), inner=st.integers(1, 70), columns=st.integers(1, 40),
    kind=TYPES, result=TYPES, seed=st.integers(0, 2**16), threads=st.integers(1, 3),
)  # fmt: skip
def test_a_product_of_any_rank_is_requantized_by_column(
    evaluate, requantized, rows, inner, columns, kind, result, seed, threads
):
    rng = np.random.default_rng(seed)
    limits = np.iinfo(kind.dtype)
    x = rng.integers(limits.min, limits.max + 1, (*rows, inner)).astype(kind.dtype)
    right = rng.integers(-128, 128, (inner, columns)).astype(np.int8)
    bias = rng.integers(-5000, 5000, columns).astype(np.int32)
    multiplier = (rng.integers(2**22, 2**23, columns) * rng.choice([1, -1], columns)).astype(np.int32)
    shift = rng.integers(28, 36, columns).astype(np.int32)
    sums = np.tensordot(x.astype(np.int64), right.astype(np.int64), 1) + bias
    y = evaluate("tpu.MatMul", [(x, kind), right, bias, multiplier, shift], sums.shape, result, threads)
    np.testing.assert_array_equal(y, requantized(sums, multiplier, shift, result))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("rows", [1, 3])
def test_sums_beyond_the_integers_of_float32_are_exact(evaluate, dtype, rows):
    rng = np.random.default_rng(0)
    x = rng.integers(100, 128, (rows, 5000)).astype(dtype)
    right = rng.choice([125, 126, 127], (5000, 40)).astype(np.int8)
    sums = x.astype(np.int64) @ right.astype(np.int64)
    assert sums.min() > 2 * FLOAT32_EXACT
    bias = (np.arange(40) - sums[0]).astype(np.int32)
    ones, zeros = np.ones(40, np.int32), np.zeros(40, np.int32)
    operands = [(x, UniformType.of(dtype, 0.1)), right, bias, ones, zeros]
    y = evaluate("tpu.MatMul", operands, sums.shape, UniformType.of(np.int16, 0.1))
    np.testing.assert_array_equal(y, np.clip(sums + bias, -32768, 32767))
