import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.quant_types import UniformType

TYPES = [np.int8, np.uint8, np.int16]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=5), dtype=st.sampled_from(TYPES[:2]),
    result=st.sampled_from(TYPES), by_channel=st.booleans(), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_the_byte_of_x_is_the_index(evaluate, shape, dtype, result, by_channel, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, shape).astype(np.uint8).view(dtype)
    rows = (shape[1], 256) if by_channel and len(shape) > 1 else (256,)
    table = rng.integers(np.iinfo(result).min, np.iinfo(result).max + 1, rows).astype(result)
    y = evaluate("tpu.Lut", [(x, UniformType.of(dtype, 0.1, 3)), table], tuple(shape), UniformType.of(result, 0.1))
    expected = np.empty(shape, result)
    for place in np.ndindex(*shape):
        byte = int(x[place]) % 256
        expected[place] = table[place[1], byte] if table.ndim == 2 else table[byte]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("rows", [(256,), (3, 256)])
@pytest.mark.parametrize("result", TYPES)
def test_tensors_of_many_pieces_and_odd_size_are_whole(evaluate, rows, result):
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (1, 3, 333, 555)).astype(np.int8)
    table = rng.integers(-100, 100, rows).astype(np.int8).astype(result)
    y = evaluate("tpu.Lut", [(x, UniformType.of(np.int8, 0.1)), table], x.shape, UniformType.of(result, 0.1))
    index = x.view(np.uint8)
    expected = table[index] if table.ndim == 1 else table[np.arange(3).reshape(3, 1, 1), index]
    np.testing.assert_array_equal(y, expected)
