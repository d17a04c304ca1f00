import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.quant_types import UniformType

KINDS = st.sampled_from([UniformType.of(np.int8, 0.1, -3), UniformType.of(np.uint8, 0.1, 200), None])
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=6)
RULES = settings(derandomize=True, deadline=None, max_examples=50)


def numbered(kind, shape):
    """Distinct values as far as the type has them."""
    count = np.arange(np.prod(shape)).reshape(shape)
    return count.astype(np.float32) if kind is None else count.astype(np.uint8).view(kind.dtype)


@RULES
@given(kind=KINDS, shape=SHAPES, data=st.data())
def test_permute_moves_axes(evaluate, kind, shape, data):
    x, order = numbered(kind, shape), data.draw(st.permutations(range(len(shape))))
    result = tuple(shape[axis] for axis in order)
    y = evaluate("tpu.Permute", [(x, kind)], result, kind, order=order)
    for place in np.ndindex(*result):
        source = [0] * len(shape)
        for axis, position in zip(order, place, strict=True):
            source[axis] = position
        assert y[place] == x[tuple(source)]
    assert y.flags.c_contiguous


@RULES
@given(kind=KINDS, shape=SHAPES, seed=st.integers(0, 99))
def test_reshape_keeps_the_order(evaluate, kind, shape, seed):
    x = numbered(kind, shape)
    result = tuple(int(n) for n in np.random.default_rng(seed).permutation(shape))
    y = evaluate("tpu.Reshape", [(x, kind)], result, kind)
    assert y.shape == result and y.reshape(-1).tolist() == x.reshape(-1).tolist()


@RULES
@given(kind=KINDS, shape=SHAPES, data=st.data())
def test_concat_joins_along_any_axis(evaluate, kind, shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    parts = [numbered(kind, [*shape[:axis], length, *shape[axis + 1 :]]) for length in lengths]
    result = (*shape[:axis], sum(lengths), *shape[axis + 1 :])
    y = evaluate("tpu.Concat", [(part, kind) for part in parts], result, kind, axis=axis)
    start = 0
    for part, length in zip(parts, lengths, strict=True):
        np.testing.assert_array_equal(np.take(y, range(start, start + length), axis), part)
        start += length


@RULES
@given(kind=KINDS, shape=SHAPES, data=st.data())
def test_slice_steps_forward_and_backward(evaluate, kind, shape, data):
    x, index = numbered(kind, shape), []
    for size in shape:
        length = data.draw(st.integers(1, size))
        step = data.draw(st.integers(1, max(1, (size - 1) // max(length - 1, 1)))) * data.draw(st.sampled_from([1, -1]))
        span = (length - 1) * step
        offset = data.draw(st.integers(max(0, -span), size - 1 - max(0, span)))
        index.append((offset, step, length))
    offsets, steps, result = zip(*index, strict=True)
    y = evaluate("tpu.Slice", [(x, kind)], result, kind, offset=offsets, steps=steps)
    for place in np.ndindex(*result):
        assert y[place] == x[tuple(o + i * s for o, i, s in zip(offsets, place, steps, strict=True))]


@RULES
@given(kind=KINDS, shape=SHAPES, data=st.data(), value=st.integers(0, 127))
def test_pad_surrounds_with_the_stored_value_given_by_its_bits(evaluate, kind, shape, data, value):
    x, rank = numbered(kind, shape), len(shape)
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    result = tuple(size + pads[axis] + pads[rank + axis] for axis, size in enumerate(shape))
    bits = int(np.array(value, x.dtype).view(f"u{x.dtype.itemsize}"))
    y = evaluate("tpu.Pad", [(x, kind)], result, kind, pads=pads, value=bits)
    for place in np.ndindex(*result):
        source = tuple(p - begin for p, begin in zip(place, pads, strict=False))
        inside = all(0 <= s < size for s, size in zip(source, shape, strict=True))
        assert y[place] == (x[source] if inside else value)
