"""Accumulators to stored integers: exact in float64 where that is provably so, else in 64-bit integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from tpu_deploy import numbers
from tpu_deploy.runtime.reference.registry import Array
from tpu_deploy.runtime.reference.workers import Workers

BLOCK = 1 << 15
"""Accumulators handled at once: their float64 copies stay in a core's second-level cache."""

EXACT = float(1 << 52)
"""Integers up to here are exact in float64, with a bit to spare for the estimate of their size."""

Index = tuple[slice, slice]


class Requantizer:
    """`y = sat(round((acc + bias) * multiplier >> rshift) + zero_point)` over arrays of shape (images, rows, columns).

    `multiplier`, `rshift`, `bias` and `bound` (greatest possible |acc|) broadcast to (rows, columns).

    In float64 the value is `acc * ratio + offset`, ratio = multiplier / 2**rshift, and adding the half turns rounding
    into truncation. It is exact while every term, counted in units of 2**-max(rshift, 1), stays below 2**53. Where the
    bound cannot promise that, the elements are computed again in 64-bit integers. A product that cannot reach one half
    is zero whatever the accumulator, which covers the dead channels of real networks, whose shifts are large.
    """

    def __init__(
        self,
        multiplier: npt.ArrayLike,
        rshift: npt.ArrayLike,
        bias: npt.ArrayLike,
        bound: npt.ArrayLike,
        zero_point: int,
        dtype: npt.DTypeLike,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.zero_point = zero_point
        self.multiplier, self.rshift, self.bias = (
            np.atleast_2d(np.asarray(each, np.int64)) for each in (multiplier, rshift, bias)
        )
        limits = np.iinfo(self.dtype)
        self.unsigned = np.dtype(f"u{self.dtype.itemsize}")
        self.sign = self.unsigned.type(-int(limits.min))
        self.ceiling = float(int(limits.max) - int(limits.min)) + 0.5
        base = 0.5 + zero_point - int(limits.min)
        ratio = np.ldexp(self.multiplier.astype(np.float64), -self.rshift)
        reach = (np.atleast_2d(np.asarray(bound, np.float64)) + np.abs(self.bias)) * np.abs(ratio)
        nothing = reach < 0.49
        self.ratio = np.where(nothing, 0.0, ratio)
        self.offset = np.where(nothing, base, self.bias * ratio + base)
        exact = (reach + abs(base)) * np.ldexp(1.0, np.maximum(self.rshift, 1)) <= EXACT
        self.inexact = ~(exact | nothing)
        self.any_inexact = bool(self.inexact.any())

    def __call__(self, parts: Sequence[Array], result: Array, workers: Workers, spread: bool = False) -> None:
        """Fills `result` from the accumulators, which are the sum of `parts` (float32 or integers).

        `spread` shares the blocks among the workers; a task of theirs must not ask for it.
        """
        images, rows, columns = result.shape
        tasks = [
            partial(self._block, [part[image][index] for part in parts], result[image][index], index, workers)
            for image in range(images)
            for index in _blocks(rows, columns)
        ]
        if spread:
            workers.run(tasks)
            return
        for task in tasks:
            task()

    def _block(self, parts: Sequence[Array], result: Array, index: Index, workers: Workers) -> None:
        value = workers.scratch(result.size).reshape(result.shape)
        np.copyto(value, parts[0])
        for part in parts[1:]:
            np.add(value, part, out=value)
        np.multiply(value, _within(self.ratio, index), out=value)
        np.add(value, _within(self.offset, index), out=value)
        np.clip(value, 0.0, self.ceiling, out=value)
        stored = result.view(self.unsigned)
        np.copyto(stored, value, casting="unsafe")
        if self.sign:
            np.bitwise_xor(stored, self.sign, out=stored)
        if self.any_inexact:
            self._repair(parts, result, index)

    def _repair(self, parts: Sequence[Array], result: Array, index: Index) -> None:
        def picked(constants: Array) -> Array:
            return np.broadcast_to(_within(constants, index), result.shape)[where]

        where = np.nonzero(np.broadcast_to(_within(self.inexact, index), result.shape))
        if where[0].size:
            total = sum((part[where].astype(np.int64) for part in parts), picked(self.bias))
            result[where] = numbers.requantize(
                total, picked(self.multiplier), picked(self.rshift), self.zero_point, self.dtype
            )


def _blocks(rows: int, columns: int) -> Iterator[Index]:
    width = min(columns, BLOCK)
    height = max(1, BLOCK // max(width, 1))
    for top in range(0, rows, height):
        for left in range(0, columns, max(width, 1)):
            yield slice(top, top + height), slice(left, left + width)


def _within(constants: Array, index: Index) -> Array:
    rows, columns = index
    return constants[
        rows if constants.shape[0] > 1 else slice(None), columns if constants.shape[1] > 1 else slice(None)
    ]
