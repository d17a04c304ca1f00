"""What the float kernels share: operands as the chip takes them, ReLU, the last rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.numbers import BFLOAT16, flushed, rounded, widened
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site
from tpu_deploy.runtime.reference.workers import part_of, pieces

Floats = npt.NDArray[np.float32]

Function = Callable[[Sequence[Floats]], Floats]
"""Operands, widened, to the value before the ReLU; of arrays that broadcast against each other."""


def taken(values: Array) -> Floats:
    """An operand as float32, denormals of it zero."""
    return flushed(widened(values))


def apply_relu(values: Floats, attributes: Mapping[str, Any]) -> Floats:
    """`values` after the ReLU that the attributes of their operation ask for, in place; NaN stays."""
    if attributes.get("do_relu"):
        np.copyto(values, np.float32(0), where=values < 0)
        if attributes["relu_limit"] >= 0:
            np.copyto(values, np.float32(attributes["relu_limit"]), where=values >= attributes["relu_limit"])
    return values


def stored(values: Floats, site: Site) -> Array:
    """Values in the type of the result, after its ReLU; `values` may be overwritten."""
    return rounded(flushed(apply_relu(values, site.attributes)), site.dtype)


def elementwise(site: Site, function: Function) -> Kernel:
    """The kernel that computes `function` of all operands piece by piece, which must not look beyond an element."""

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def piece(index: tuple[slice, ...]) -> None:
            with np.errstate(all="ignore"):
                parts = [taken(part_of(operand, index, result.ndim)) for operand in operands]
                result[index] = stored(np.array(function(parts), np.float32, copy=None), site)

        site.workers.for_each_piece(site.shape, piece)
        return result

    return run


def along_channels(values: Array, rank: int) -> Array:
    """Numbers (1) or (C) shaped to broadcast along axis 1 of a tensor."""
    return values.reshape((1, -1, *(1,) * (rank - 2)) if values.size > 1 else (1,) * rank)


# ---- products

Finish = Callable[[list[Array], Array, bool], None]
"""Fills a part (n, rows, columns) of the result from its sums of products, which are to be added to each other; the
last argument says whether that is all of the result, so that the workers may share it."""


def fed_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which onnxruntime takes an operand: numpy's arrays of it know no bfloat16."""
    return np.dtype(np.float32) if dtype == BFLOAT16 else dtype


def fed(values: Array) -> Array:
    """An operand in that type."""
    return widened(values) if values.dtype == BFLOAT16 else values


def _in_pieces(site: Site, value: Callable[[list[Array], tuple[slice, ...]], Floats]) -> Finish:
    """Stores `value` of the sums, for an index of (rows, columns) at a time."""

    def finish(sums: list[Array], part: Array, is_all: bool) -> None:
        def piece(index: tuple[slice, ...]) -> None:
            with np.errstate(all="ignore"):
                part[index] = stored(value([each[index] for each in sums], index[1:]), site)

        if is_all:
            site.workers.for_each_piece(part.shape, piece)
            return
        for index in pieces(part.shape, 1):
            piece(index)

    return finish


def _within(constants: Array, index: tuple[slice, ...]) -> Array:
    """The part of (rows, 1) or (columns) that belongs to an index of (rows, columns)."""
    return part_of(constants, index, 2)


def with_bias(site: Site, bias: Array) -> Finish:
    """Float sums plus `bias`, which broadcasts to (rows, columns)."""
    return _in_pieces(site, lambda sums, index: sums[0] + _within(bias, index))


def dequantized(site: Site, bias: Array, scale: Array) -> Finish:
    """Integer sums plus `bias`, rounded to float32, times `scale`; both broadcast to (rows, columns)."""

    def value(sums: list[Array], index: tuple[slice, ...]) -> Floats:
        total = np.add(sums[0], _within(bias, index), dtype=np.float64)
        for each in sums[1:]:
            total += each
        result: Floats = total.astype(np.float32) * _within(scale, index)
        return result

    return _in_pieces(site, value)
