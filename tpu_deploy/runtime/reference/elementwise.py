"""tpu.Add and tpu.Mul, tpu.FloatAdd, tpu.FloatSub, tpu.FloatMul and tpu.Affine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tpu_deploy.numbers import flushed
from tpu_deploy.runtime.reference.accumulation import FLOAT32_EXACT
from tpu_deploy.runtime.reference.floating import Floats, along_channels, elementwise
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel
from tpu_deploy.runtime.reference.requantization import Requantizer
from tpu_deploy.runtime.reference.workers import part_of

WIDTHS = (np.int16, np.uint16, np.int32, np.int64)


def shifted(values: Array, shift: int) -> Array:
    """`round(values >> shift)` half up, in the dtype of `values` and without overflow; a negative shift multiplies."""
    if shift <= 0:
        return values.astype(np.int64) << -shift if shift else values
    nearly = values >> (shift - 1)
    last = nearly & 1
    nearly >>= 1
    nearly += last
    return nearly


def width_for(low: int, high: int) -> type[np.integer]:
    """The narrowest integer type that holds low and high."""
    return next(w for w in WIDTHS if np.iinfo(w).min <= low and high <= np.iinfo(w).max)


@kernel("tpu.Add")
def build_add(site: Site) -> Kernel:
    """Every term in the narrowest integers its product fits, the sum in int16 as its guarantee allows."""
    given = site.attributes
    multipliers, rshifts = given["multipliers"], given["rshifts"]
    limits = np.iinfo(site.dtype)
    widths = []
    for index, multiplier in enumerate(multipliers):
        stored = np.iinfo(site.operand_dtype(index))
        products = [0, multiplier * int(stored.min), multiplier * int(stored.max)]
        widths.append(width_for(min(products), max(products)))

    def term(index: int, values: Array) -> Array:
        if multipliers[index] == 1 and rshifts[index] == 0:
            return values.astype(np.int16)
        product = values.astype(widths[index])
        product *= widths[index](multipliers[index])
        return shifted(product, rshifts[index]).astype(np.int16, copy=False)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def piece(index: tuple[slice, ...]) -> None:
            target = result[index]
            total = np.full(target.shape, given["offset"], np.int16)
            for i, operand in enumerate(operands):
                total += term(i, part_of(operand, index, result.ndim))
            np.copyto(target, np.clip(shifted(total, given["rshift"]), limits.min, limits.max), casting="unsafe")

        site.workers.for_each_piece(site.shape, piece)
        return result

    return run


@kernel("tpu.Mul")
def build_mul(site: Site) -> Kernel:
    """The product of two 8-bit numbers is exact in float32, of wider ones in float64."""
    bound = 1
    for index in (0, 1):
        low, high = site.operand_range(index)
        bound *= max(-low, high)
    exact: npt.DTypeLike = np.float32 if bound <= FLOAT32_EXACT else np.float64
    given = site.attributes
    requantize = Requantizer(given["multiplier"], given["rshift"], 0, bound, site.zero_point, site.dtype)

    def factor(index: int, values: Array) -> Array:
        wide = values.astype(exact)
        zero = site.operand_zero_point(index)
        if zero:
            wide -= zero
        return wide

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def piece(index: tuple[slice, ...]) -> None:
            target = result[index]
            product = np.empty(target.shape, exact)
            left, right = (factor(i, part_of(operands[i], index, result.ndim)) for i in (0, 1))
            np.multiply(left, right, out=product)
            requantize([product.reshape(1, 1, -1)], target.reshape(1, 1, -1), site.workers)

        site.workers.for_each_piece(site.shape, piece)
        return result

    return run


@kernel("tpu.FloatAdd")
def build_float_add(site: Site) -> Kernel:
    """One rounding to the type."""
    return elementwise(site, lambda operands: np.add(*operands))


@kernel("tpu.FloatSub")
def build_float_sub(site: Site) -> Kernel:
    """One rounding to the type."""
    return elementwise(site, lambda operands: np.subtract(*operands))


@kernel("tpu.FloatMul")
def build_float_mul(site: Site) -> Kernel:
    """One rounding to the type."""
    return elementwise(site, lambda operands: np.multiply(*operands))


@kernel("tpu.Affine")
def build_affine(site: Site) -> Kernel:
    """The two steps, of which one may be none."""
    scale, bias = site.weight(1), site.weight(2)
    scales, adds = bool((scale != 1).any()), bool((bias != 0).any())
    constants = [along_channels(each, len(site.shape)) for each in (scale, bias)]

    def value(operands: Sequence[Floats]) -> Floats:
        x, factor, offset = operands
        if scales:
            x = flushed(x * factor)
        return x + offset if adds else x.copy()

    kernel = elementwise(site, value)
    return lambda operands: kernel([operands[0], *constants])
