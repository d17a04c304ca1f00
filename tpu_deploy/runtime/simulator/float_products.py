"""Matrix products of floats, every sum in the order and with the roundings of the chip's units.

Source: the addition tree and the loops of the vendor's chip model, compared with it bit for bit.
"""

import numpy as np
import numpy.typing as npt

from tpu_deploy.runtime.simulator.elements import flushed

Floats = npt.NDArray[np.float32]

BLOCK = 32
"""How many 16-bit products one tree adds."""

_TREE_BYTES = 1 << 22
"""How many bytes of products are held at a time."""

_EXPONENT_BIAS = 127
_CUT_BITS = 24
"""What a float32's exponent is stored above, and the bits that a term keeps below the leading one of the largest."""

_SCALABLE = 2.0**-90
"""Where the largest term is no smaller, terms scaled to integers overflow no float32, and no denormal counts."""

_SAFE = 2.0**-100
"""Where all non-zero factors multiply to more than this, no product and no sum can be a denormal but zero."""


def alternating_product(left: Floats, right: Floats, bias: Floats, before: Floats | None) -> Floats:
    """(rows, columns) of `left @ right` in float32: two accumulators that take the products by turns, then their sum.

    One starts at zero, or at what was there `before`; the other at the bias. The bias's takes the first product when
    there was something before. Source: 32-bit CONV and MM.
    """
    shape = left.shape[0], right.shape[1]
    start = np.zeros(shape, np.float32) if before is None else before.reshape(shape)
    sums = [flushed(start), np.broadcast_to(flushed(bias), shape)]
    safe = _smallest(left) * _smallest(right) > _SAFE and min(_smallest(start), _smallest(bias)) > _SAFE
    turn = 0 if before is None else 1
    for column, row in zip(left.T, right, strict=True):
        product = column[:, None] * row
        total = sums[turn] + (product if safe else flushed(product))
        sums[turn] = total if safe else flushed(total)
        turn = 1 - turn
    return flushed(sums[0] + sums[1])


def _smallest(values: Floats) -> float:
    """The smallest magnitude that is not zero; infinity when there is none."""
    return float(np.min(np.abs(values), where=values != 0, initial=np.inf))


def tree_product(left: Floats, right: Floats, start: Floats) -> Floats:
    """(rows, columns) of 16-bit products in float32: `start` plus one tree of 32 products after the other.

    `left` is (rows, steps, 32), `right` (steps, 32, columns), filled up with zeros; `start` is (rows, columns).
    """
    rows, columns = left.shape[0], right.shape[2]
    width = max(1, _TREE_BYTES // (4 * BLOCK * rows))
    result = np.empty((rows, columns), np.float32)
    for first in range(0, columns, width):
        part = slice(first, first + width)
        total = flushed(start[:, part])
        for step in range(left.shape[1]):
            products = left[:, step, :, None] * right[None, step, :, part]
            total = flushed(total + aligned_sum(products))
        result[:, part] = total
    return result


def aligned_sum(terms: Floats) -> Floats:
    """The sum over axis 1 as the addition tree makes it: terms cut to 25 bits below the largest, then one rounding.

    Spends the terms.
    """
    largest = np.maximum(terms.max(axis=1), -terms.min(axis=1))
    if not np.isfinite(largest).all() or ((largest < _SCALABLE) & (largest > 0)).any():
        return _aligned_sum_of_any(terms)
    exponent = largest.view(np.uint32) >> np.uint32(23)
    terms *= _power(_CUT_BITS + 2 * _EXPONENT_BIAS - np.maximum(exponent, 1))[:, None]
    total = terms.astype(np.int32).sum(axis=1, dtype=np.int32)
    result: Floats = total.astype(np.float32) * _power(np.maximum(exponent, _CUT_BITS + 1) - _CUT_BITS)
    return result


def _power(exponent: npt.NDArray[np.uint32]) -> Floats:
    """Powers of two with these exponents, as the bits of a float32 hold them."""
    result: Floats = (np.minimum(exponent, 254) << np.uint32(23)).astype(np.uint32).view(np.float32)
    return result


def _aligned_sum_of_any(terms: Floats) -> Floats:
    """The same of terms that may be tiny, infinite or NaN."""
    bits = terms.view(np.int32)
    exponent = bits >> 23 & 0xFF
    largest = exponent.max(axis=1, keepdims=True)
    significand = np.where(exponent == 0, 0, (bits & 0x7FFFFF) << 1 | 1 << 24)
    significand >>= np.minimum(largest - exponent, 31)
    total = np.where(bits < 0, -significand, significand).sum(axis=1, dtype=np.int64)
    scale = np.ldexp(1.0, largest[:, 0] - 151)
    with np.errstate(over="ignore"):
        result: Floats = (total * scale).astype(np.float32)
    if (largest == 0xFF).any():
        with np.errstate(invalid="ignore"):
            result = np.where(largest[:, 0] == 0xFF, terms.sum(axis=1), result)
    return result
