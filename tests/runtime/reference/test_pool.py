import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.geometry import output_size
from tpu_deploy.ir.quant_types import UniformType


@st.composite
def windows(draw: st.DrawFn, most_padding: int = 4):
    """Operand shape, result shape (floor or ceil), attributes; pads smaller than the kernel or to `most_padding`."""
    size, kernel, strides = ([draw(st.integers(1, top)) for _ in range(2)] for top in (9, 5, 4))
    pads = [draw(st.integers(0, max(length - 1, most_padding))) for length in (*kernel, *kernel)]
    ceil_mode = draw(st.booleans())
    out = []
    for axis in range(2):
        both = pads[axis] + pads[axis + 2]
        kernel[axis] = min(kernel[axis], size[axis] + both)  # a larger one has no window
        count = output_size(size[axis], kernel[axis], strides[axis], both, ceil_mode=ceil_mode)
        while (count - 1) * strides[axis] >= size[axis] + pads[axis]:
            count -= 1
        out.append(count)
    leading = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 17])))
    return (*leading, *size), (*leading, *out), {"kernel_shape": kernel, "strides": strides, "pads": pads}


def positions(window, axis, output, size):
    """Input positions under one window along an axis (0 or 1): those on the input, and how many on explicit pads."""
    first = output * window["strides"][axis] - window["pads"][axis]
    covered = range(first, first + window["kernel_shape"][axis])
    inside = [p for p in covered if 0 <= p < size]
    padded = [p for p in covered if -window["pads"][axis] <= p < size + window["pads"][axis + 2]]
    return inside, len(padded)


def stored(rng, dtype, shape):
    limits = np.iinfo(dtype)
    if rng.random() < 0.3:
        return np.full(shape, rng.choice([limits.min, limits.max]), dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(case=windows(), dtype=st.sampled_from([np.int8, np.uint8]), seed=st.integers(0, 2**16))
def test_padding_never_wins_a_maximum(evaluate, case, dtype, seed):
    shape, result, window = case
    x = stored(np.random.default_rng(seed), dtype, shape)
    kind = UniformType.of(dtype, 0.1, 100)
    y = evaluate("tpu.MaxPool2D", [(x, kind)], result, kind, **window)
    for i, j in np.ndindex(*result[2:]):
        rows, _ = positions(window, 0, i, shape[2])
        columns, _ = positions(window, 1, j, shape[3])
        least = np.iinfo(dtype).min
        expected = x[:, :, rows][..., columns].max((2, 3), initial=least)
        np.testing.assert_array_equal(y[:, :, i, j], expected)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    case=windows(most_padding=0), dtype=st.sampled_from([np.int8, np.uint8]), zero=st.integers(0, 127),
    seed=st.integers(0, 2**16), include=st.booleans(), result_zero=st.integers(0, 127),
)  # fmt: skip
def test_an_average_divides_by_the_positions_it_counts(
    evaluate, requantized, case, dtype, zero, seed, include, result_zero
):
    shape, result, window = case
    rng = np.random.default_rng(seed)
    x = stored(rng, dtype, shape)
    kind, made = UniformType.of(dtype, 0.1, zero), UniformType.of(np.int8, 0.1, result_zero)
    multipliers = {count: int(rng.integers(-(2**10), 2**20)) for count in range(0, 26)}
    y = evaluate(
        "tpu.AvgPool2D", [(x, kind)], result, made, **window, counts=list(multipliers),
        multipliers=list(multipliers.values()), rshift=17, count_include_pad=int(include),
    )  # fmt: skip
    for i, j in np.ndindex(*result[2:]):
        rows, padded_rows = positions(window, 0, i, shape[2])
        columns, padded_columns = positions(window, 1, j, shape[3])
        count = padded_rows * padded_columns if include else len(rows) * len(columns)
        total = (x[:, :, rows][..., columns].astype(np.int64) - zero).sum((2, 3))
        np.testing.assert_array_equal(y[:, :, i, j], requantized(total, multipliers[count], 17, made))


def test_a_global_average_of_the_largest_values_does_not_overflow(evaluate):
    kind = UniformType.of(np.uint8, 0.1)
    x = np.full((1, 2, 300, 200), 255, np.uint8)
    window = {"kernel_shape": [300, 200], "strides": [1, 1], "pads": [0] * 4}
    multiplier, rshift = round(2**38 / 60000), 38
    y = evaluate(
        "tpu.AvgPool2D",
        [(x, kind)],
        (1, 2, 1, 1),
        kind,
        counts=[60000],
        multipliers=[multiplier],
        rshift=rshift,
        **window,
    )
    assert y.reshape(-1).tolist() == [255, 255]


def test_a_count_without_multiplier_is_named(evaluate):
    kind = UniformType.of(np.uint8, 0.1)
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    with pytest.raises(ValueError, match="y: no multiplier for windows of 4 positions"):
        x = np.zeros((1, 1, 5, 5), np.uint8)
        evaluate("tpu.AvgPool2D", [(x, kind)], x.shape, kind, counts=[9, 6], multipliers=[1, 1], rshift=0, **window)
