"""tpu.MaxPool2D, tpu.AvgPool2D and tpu.FloatAvgPool2D."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from tpu_deploy.ir.geometry import window_counts
from tpu_deploy.numbers import rounded
from tpu_deploy.runtime.reference.floating import stored, taken
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel
from tpu_deploy.runtime.reference.requantization import Requantizer


def canvas(values: Array, site: Site, fill: float) -> Array:
    """`values` (n, c, h, w) amid `fill`, cut to exactly what the windows of the result cover."""
    given = site.attributes
    top, left, _, _ = given["pads"]
    height, width = (
        (count - 1) * stride + size
        for count, stride, size in zip(site.shape[2:], given["strides"], given["kernel_shape"], strict=True)
    )
    bottom, right = height - top - values.shape[2], width - left - values.shape[3]
    if max(top, left, bottom, right) > 0:
        margins = ((0, 0), (0, 0), (top, max(bottom, 0)), (left, max(right, 0)))
        values = np.pad(values, margins, constant_values=fill)
    return values[:, :, :height, :width]


def over_windows(ufunc: np.ufunc, values: Array, site: Site) -> Array:
    """`ufunc` reduced over the windows of `values` (n, c, h, w): first down the columns, then along the rows."""
    for axis in (2, 3):
        size, stride = site.attributes["kernel_shape"][axis - 2], site.attributes["strides"][axis - 2]
        span = (site.shape[axis] - 1) * stride + 1
        taken = [values[(*(slice(None),) * axis, slice(first, first + span, stride))] for first in range(size)]
        values = taken[0].copy()
        for other in taken[1:]:
            ufunc(values, other, out=values)
    return values


def taps(values: Array, site: Site) -> Iterator[Array]:
    """What each tap of the windows of `values` (n, c, h, w) meets, row after row of the kernel."""
    (rows, columns), (down, across) = site.attributes["kernel_shape"], site.attributes["strides"]
    height, width = ((count - 1) * stride + 1 for count, stride in zip(site.shape[2:], (down, across), strict=True))
    for row in range(rows):
        for column in range(columns):
            yield values[..., row : row + height : down, column : column + width : across]


@kernel("tpu.MaxPool2D")
def build_max_pool(site: Site) -> Kernel:
    """Padding holds the least stored number; of a window wholly in padding that is the maximum too."""
    if not np.issubdtype(site.dtype, np.integer):
        return float_maximum(site)
    least = int(np.iinfo(site.dtype).min)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def image(number: int) -> None:
            values = canvas(operands[0][number : number + 1], site, least)
            result[number] = over_windows(np.maximum, values, site)[0]

        site.workers.run([partial(image, number) for number in range(site.shape[0])])
        return result

    return run


def float_maximum(site: Site) -> Kernel:
    """Tap after tap, as the unit decides between zeros of either sign and passes NaN on or not."""

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def image(number: int) -> None:
            values = canvas(taken(operands[0][number : number + 1]), site, -np.inf)
            found: Array | None = None
            with np.errstate(invalid="ignore"):
                for tap in taps(values, site):
                    found = tap if found is None else np.where(found > tap, found, tap)
            assert found is not None
            result[number] = rounded(found, site.dtype)[0]

        site.workers.run([partial(image, number) for number in range(site.shape[0])])
        return result

    return run


@kernel("tpu.FloatAvgPool2D")
def build_float_avg_pool(site: Site) -> Kernel:
    """Sums in float32, times the reciprocal of each count."""
    factors = (1 / counted_positions(site)).astype(np.float32)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def image(number: int) -> None:
            chosen = slice(number, number + 1)
            with np.errstate(all="ignore"):
                sums = over_windows(np.add, canvas(taken(operands[0][chosen]), site, 0), site)
                result[chosen] = stored(sums * factors, site)

        site.workers.run([partial(image, number) for number in range(site.shape[0])])
        return result

    return run


@kernel("tpu.AvgPool2D")
def build_avg_pool(site: Site) -> Kernel:
    """Padding holds the zero point, so that the sum less the zero point of every position is the sum wanted."""
    area = math.prod(site.attributes["kernel_shape"])
    zero = site.operand_zero_point(0)
    bound = area * max(abs(end) for end in site.operand_range(0))
    multipliers = _multipliers(site)
    images, channels, *plane = site.shape
    requantize = Requantizer(
        multipliers.reshape(1, -1), site.attributes["rshift"], 0, bound, site.zero_point, site.dtype
    )

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty((images, channels, math.prod(plane)), site.dtype)

        def image(number: int) -> None:
            chosen = slice(number, number + 1)
            values = canvas(operands[0][chosen], site, zero).astype(np.int32)
            sums = over_windows(np.add, values, site) - zero * area
            requantize([sums.reshape(result[chosen].shape)], result[chosen], site.workers)

        site.workers.run([partial(image, number) for number in range(images)])
        return result.reshape(site.shape)

    return run


def counted_positions(site: Site) -> Array:
    """How many positions count at every position (oh, ow) of the result."""
    given = site.attributes
    top, left, bottom, right = given["pads"]
    rows, columns = (
        window_counts(size, kernel_size, stride, begin, end, output, bool(given["count_include_pad"]))
        for size, kernel_size, stride, begin, end, output in zip(
            site.operand_shape(0)[2:],
            given["kernel_shape"],
            given["strides"],
            (top, left),
            (bottom, right),
            site.shape[2:],
            strict=True,
        )
    )
    return np.outer(rows, columns)


def _multipliers(site: Site) -> Array:
    """The multiplier at every position (oh, ow) of the result."""
    given = site.attributes
    by_count = dict(zip(given["counts"], given["multipliers"], strict=True))
    counted = counted_positions(site)
    missing = sorted(set(counted.reshape(-1).tolist()) - by_count.keys())
    if missing:
        raise ValueError(f"{site.name}: no multiplier for windows of {missing[0]} positions")
    multipliers: Array = np.vectorize(by_count.__getitem__, otypes=[np.int64])(counted)
    return multipliers
