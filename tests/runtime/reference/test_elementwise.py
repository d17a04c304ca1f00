import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.runtime.reference.elementwise import shifted

BYTES = [np.int8, np.uint8]


@st.composite
def broadcast_shapes(draw: st.DrawFn, count: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """A result shape and shapes that broadcast to it together: axes of 1, leading axes left out."""
    result = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    shapes = [result]
    for _ in range(count - 1):
        first = draw(st.integers(0, len(result) - 1))
        shapes.append(tuple(draw(st.sampled_from([1, size])) for size in result[first:]))
    return result, draw(st.permutations(shapes))


def any_integers(rng, dtype, shape):
    limits = np.iinfo(dtype)
    if rng.random() < 0.3:
        return rng.choice([limits.min, limits.max, 0], shape).astype(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data(), count=st.integers(1, 4), result=st.sampled_from(BYTES), seed=st.integers(0, 2**16))
def test_a_sum_rounds_each_term_and_the_total(evaluate, requantized, data, count, result, seed):
    rng = np.random.default_rng(seed)
    shape, shapes = data.draw(broadcast_shapes(count))
    operands, multipliers, rshifts, total, room = [], [], [], 0, 32767
    for i, own in enumerate(shapes):
        if i and data.draw(st.booleans()):
            term = rng.integers(-room // count, room // count + 1, own)
            operands.append(term.astype(np.int16))
            multipliers.append(1)
            rshifts.append(0)
        else:
            kind = UniformType.of(data.draw(st.sampled_from(BYTES)), 0.1, 1)
            values = any_integers(rng, kind.dtype, own)
            multiplier = data.draw(st.sampled_from([-128, 127, 128, 255, 1, 0]) | st.integers(-128, 255))
            shift = data.draw(st.integers(0, 17))
            while 256 * abs(multiplier) / 2**shift > room / count - 1:
                shift += 1
            operands.append((values, kind))
            multipliers.append(multiplier)
            rshifts.append(shift)
            term = requantized(values, multiplier, shift, UniformType.of(np.int16, 1.0))
        total = total + term.astype(np.int64)
    offset = data.draw(st.integers(-32767, 32767))
    offset = int(np.clip(offset, -32767 - min(int(np.min(total)), 0), 32767 - max(int(np.max(total)), 0)))
    rshift = data.draw(st.integers(0, 16))
    kind = UniformType.of(result, 0.1, 9)
    y = evaluate(
        "tpu.Add", operands, shape, kind, multipliers=multipliers, rshifts=rshifts, offset=offset, rshift=rshift
    )
    expected = requantized(total + offset, 1, rshift, UniformType.of(result, 0.1))
    np.testing.assert_array_equal(y, np.broadcast_to(expected, shape))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    shapes=broadcast_shapes(2), seed=st.integers(0, 2**16), result=st.sampled_from(BYTES), zeros=st.booleans(),
    multiplier=st.integers(2**22, 2**23 - 1) | st.sampled_from([1, 2**31 - 1, -(2**22)]), rshift=st.integers(0, 50),
    weight=st.booleans(),
)  # fmt: skip
def test_a_product_takes_zero_points_off_both_sides(
    evaluate, requantized, shapes, seed, result, zeros, multiplier, rshift, weight
):
    rng = np.random.default_rng(seed)
    shape, (left, right) = shapes
    kinds = [UniformType.of(rng.choice(BYTES), 0.1, int(rng.integers(0, 128)) if zeros else 0) for _ in range(2)]
    a, b = (any_integers(rng, kind.dtype, own) for kind, own in zip(kinds, (left, right), strict=True))
    operands = [(a, kinds[0]), (b, kinds[1])]
    factors = [each.astype(np.int64) - kind.zero_point for each, kind in operands]
    if weight:
        b = any_integers(rng, np.int8, right)
        operands[1], factors[1] = b, b.astype(np.int64)
    kind = UniformType.of(result, 0.1, 3)
    y = evaluate("tpu.Mul", operands, shape, kind, multiplier=multiplier, rshift=rshift)
    np.testing.assert_array_equal(y, requantized(factors[0] * factors[1], multiplier, rshift, kind))


def test_products_of_16_bit_numbers_are_exact(evaluate, requantized):
    rng = np.random.default_rng(0)
    kind = UniformType.of(np.int16, 0.1, 11)
    a, b = (any_integers(rng, np.int16, (2, 50)) for _ in range(2))
    y = evaluate("tpu.Mul", [(a, kind), (b, kind)], (2, 50), kind, multiplier=2**22 + 1, rshift=38)
    product = (a.astype(np.int64) - 11) * (b.astype(np.int64) - 11)
    np.testing.assert_array_equal(y, requantized(product, 2**22 + 1, 38, kind))


@pytest.mark.parametrize("op", ["tpu.Add", "tpu.Mul"])
def test_tensors_of_many_pieces_are_whole(evaluate, op):
    rng = np.random.default_rng(0)
    kind = UniformType.of(np.int8, 0.1)
    a, b = rng.integers(-128, 128, (2, 5, 3, 90, 211)), rng.integers(-128, 128, (1, 5, 1, 1, 211))
    given = {"multiplier": 2**22, "rshift": 28}
    expected = (a * b * 2**22 + 2**27) >> 28
    if op == "tpu.Add":
        given = {"multipliers": [64, 64], "rshifts": [0, 0], "rshift": 6}
        expected = a + b
    y = evaluate(op, [(a.astype(np.int8), kind), (b.astype(np.int8), kind)], a.shape, kind, **given)
    np.testing.assert_array_equal(y, np.clip(expected, -128, 127))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32])
def test_rounding_shifts_never_overflow(dtype):
    limits = np.iinfo(dtype)
    values = np.array(
        [limits.min, limits.min + 1, -1 if limits.min else 0, 0, 1, 2, 3, limits.max - 1, limits.max], dtype
    )
    for shift in range(40):
        expected = [(2 * int(v) + 2**shift) // 2 ** (shift + 1) for v in values]
        assert shifted(values, shift).tolist() == expected
