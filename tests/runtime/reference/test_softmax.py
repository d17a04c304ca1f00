import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.runtime.reference import softmax_chip

F32 = np.float32

CHIP = [
    ([0, 1, 2, 3, -4.5], [0x3D0343E9, 0x3DB26874, 0x3E727B4D, 0x3F24C88A, 0x39BAA723]),
    ([0.1] * 5, [0x3E4CCCCC] * 5),
    ([-1000, 0, 5, 5, 30], [0x114B4EA2, 0x29D2B704, 0x2D7451BB, 0x2D7451BB, 0x3F7FFFFE]),
    ([3e38, -3e38, 1, 2, 3], [0x3F7FFFFE, 0x114B4EA2, 0x114B4EA2, 0x114B4EA2, 0x114B4EA2]),
]
"""Rows and the bits that the vendor's chip model gives for the kernel's instructions."""


def bits_of(value) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def from_bits(bits: int):
    return F32(struct.unpack("<f", struct.pack("<I", bits))[0])


def folded(row, operation):
    row = list(row)
    while len(row) > 1:
        half = 1
        while 2 * half < len(row):
            half *= 2
        row = [operation(row[i], row[half + i]) if half + i < len(row) else row[i] for i in range(half)]
    return row[0]


def slow_exp(x):
    power = F32(round(float(F32(x * F32(1 / math.log(2))))))
    rest = F32(F32(x - F32(power * F32(0.693359375))) - F32(power * F32(-2.12194440e-4)))
    value = F32(1 / math.factorial(7))
    for order in range(6, -1, -1):
        value = F32(F32(value * rest) + F32(1 / math.factorial(order)))
    return from_bits(bits_of(value) + (int(power) << 23))


def slow_softmax(row):
    largest = folded(row, max)
    exponentials = [slow_exp(max(F32(each - largest), F32(-64))) for each in row]
    total = folded(exponentials, lambda a, b: F32(a + b))
    root = from_bits(0x5F3759DF - (bits_of(total) >> 1))
    for _ in range(4):
        root = F32(root * F32(F32(1.5) - F32(F32(root * F32(total * F32(0.5))) * root)))
    return [F32(each * F32(root * root)) for each in exponentials]


@pytest.mark.parametrize(("row", "bits"), CHIP)
def test_known_rows_have_the_bits_of_the_chip(row, bits):
    assert softmax_chip(np.array(row, F32), 0).view(np.uint32).tolist() == bits


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    length=st.integers(1, 70), spread=st.sampled_from([1e-40, 1e-3, 1.0, 10.0, 100.0, 1e30]), seed=st.integers(0, 999)
)
def test_every_step_rounds_once(length, spread, seed):
    row = (np.random.default_rng(seed).uniform(-1, 1, length) * spread).astype(F32)
    assert softmax_chip(row, 0).tolist() == slow_softmax(row)


@pytest.mark.parametrize("length", [1, 2, 10, 1000])
def test_it_is_a_softmax(length):
    x = np.random.default_rng(0).normal(0, 5, (20, length)).astype(F32)
    exact = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    # The distance to the maximum is rounded to float32: at 30, half of its last bit is 1e-6 of the exponential.
    np.testing.assert_allclose(softmax_chip(x, 1), exact, rtol=4e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_any_axis_is_that_axis_moved_to_the_end(evaluate, axis):
    x = np.random.default_rng(axis).normal(0, 2, (2, 3, 4, 5)).astype(F32)
    y = evaluate("tpu.Softmax", [(x, None)], x.shape, axis=axis)
    for place in np.ndindex(*np.delete(x.shape, axis)):
        index = (*place[:axis], slice(None), *place[axis:])
        assert y[index].tolist() == slow_softmax(x[index])
