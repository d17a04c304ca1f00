"""Shifts and conversions to integer with each of the chip's rounding modes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.precision import RoundMode

Array = npt.NDArray[Any]


def shift_right(values: Array, amount: int | Array, mode: RoundMode) -> Array:
    """Signed integers divided by `2**amount`, rounded; a negative amount multiplies. Keeps the dtype.

    An array of amounts must have the dtype of the values and broadcast against them. The caller sees to it that nothing
    overflows: the values need one bit of room when an amount is positive.
    """
    kind = values.dtype.type
    if isinstance(amount, int):
        if amount <= 0:
            return values << kind(-amount) if amount else values
        return _right(values, kind(amount), mode)
    if (amount <= 0).all():
        return values << -amount
    shifted = _right(values, np.maximum(amount, 1), mode)
    return np.where(amount > 0, shifted, values << np.maximum(-amount, 0))


def _right(values: Array, amount: Any, mode: RoundMode) -> Array:
    """Division by `2**amount` for amounts above zero: what is added first decides how the floor rounds."""
    one = values.dtype.type(1)
    whole, half = one << amount, one << (amount - one)
    negative = (values < 0).astype(values.dtype) if mode in (RoundMode.TO_ZERO, RoundMode.HALF_AWAY) else None
    if mode == RoundMode.HALF_UP:
        added = half
    elif mode == RoundMode.HALF_DOWN:
        added = half - one
    elif mode == RoundMode.FLOOR:
        added = values.dtype.type(0)
    elif mode == RoundMode.CEIL:
        added = whole - one
    elif mode == RoundMode.TO_ZERO:
        added = negative * (whole - one)
    elif mode == RoundMode.HALF_AWAY:
        added = half - negative
    else:
        added = (half - one) + ((values >> amount) & one)
    result: Array = (values + added) >> amount
    return result


def round_float(values: Array, mode: RoundMode) -> Array:
    """Floating-point values rounded to whole numbers, still floating-point (float64, or float32 kept exact)."""
    if mode == RoundMode.HALF_EVEN:
        return np.rint(values)
    if mode == RoundMode.HALF_AWAY:
        whole = np.trunc(values)
        return whole + np.where(np.abs(values - whole) >= 0.5, np.copysign(1.0, values), 0.0)
    simple = {RoundMode.TO_ZERO: np.trunc, RoundMode.FLOOR: np.floor, RoundMode.CEIL: np.ceil}
    if mode in simple:
        result: Array = simple[mode](values)
        return result
    below = np.floor(values)
    rest = values - below
    return below + (rest >= 0.5 if mode == RoundMode.HALF_UP else rest > 0.5)
