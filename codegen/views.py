"""How tensors of any rank are seen as (n, c, h, w), and where their elements lie in global memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np

AxisMap = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Which axes of a tensor, merged in order, make n, c, h and w; an empty tuple stands for a dimension of size 1."""

Dims = tuple[int, int, int, int]


def canonical_axes(rank: int) -> AxisMap:
    """Axis 0 is n, axis 1 is c, the last is w, the ones between are h; a vector is all channels."""
    if rank == 0:
        return ((), (), (), ())
    if rank == 1:
        return ((), (0,), (), ())
    if rank == 2:
        return ((0,), (1,), (), ())
    return ((0,), (1,), tuple(range(2, rank - 1)), (rank - 1,))


def rows_axes(rank: int) -> AxisMap:
    """The last axis is c, all others together n: the rows of a matrix product."""
    return (tuple(range(rank - 1)), (rank - 1,), (), ())


def dims_of(shape: Sequence[int], axes: AxisMap) -> Dims:
    """Sizes (n, c, h, w) of a shape under an axis map."""
    n, c, h, w = (prod(shape[a] for a in group) for group in axes)
    return n, c, h, w


@dataclass(frozen=True)
class Box:
    """A half-open box in (n, c, h, w) coordinates."""

    start: Dims
    stop: Dims

    @property
    def dims(self) -> Dims:
        """Its sizes."""
        n, c, h, w = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return n, c, h, w

    @staticmethod
    def whole(dims: Dims) -> Box:
        """The box of everything."""
        return Box((0, 0, 0, 0), dims)


@dataclass(frozen=True)
class Storage:
    """Where a tensor lies: a buffer of global memory, an offset and strides in elements, one stride an axis."""

    buffer: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def contiguous(buffer: str, dtype: np.dtype[np.generic], shape: Sequence[int]) -> Storage:
        """The row-major storage of a whole buffer."""
        return Storage(buffer, dtype, tuple(shape), contiguous_strides(shape))

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in row-major order without gaps."""
        expected = contiguous_strides(self.shape)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return all(size == 1 or stride == want for size, stride, want in pairs)

    def sliced(self, starts: Sequence[int], steps: Sequence[int], shape: Sequence[int]) -> Storage:
        """The storage of `x[start + i * step]` for each axis."""
        offset = self.offset + sum(s * k for s, k in zip(starts, self.strides, strict=True))
        strides = tuple(s * k for s, k in zip(self.strides, steps, strict=True))
        return replace(self, shape=tuple(shape), strides=strides, offset=offset)

    def permuted(self, order: Sequence[int]) -> Storage:
        """The storage of the transposed tensor."""
        return replace(self, shape=tuple(self.shape[a] for a in order), strides=tuple(self.strides[a] for a in order))

    def reshaped(self, shape: Sequence[int]) -> Storage | None:
        """The storage under another shape, None where strides cannot express it."""
        if self.is_contiguous:
            return replace(self, shape=tuple(shape), strides=contiguous_strides(shape))
        kept = [(k, s) for k, s in zip(self.shape, self.strides, strict=True) if k != 1]
        if [k for k, _ in kept] != [k for k in shape if k != 1]:
            return None
        steps = iter(s for _, s in kept)
        return replace(self, shape=tuple(shape), strides=tuple(next(steps) if k != 1 else 0 for k in shape))

    def broadcast_to(self, shape: Sequence[int]) -> Storage:
        """The storage repeated over axes of size 1 (and missing leading axes) by strides of 0."""
        missing = len(shape) - len(self.shape)
        own = (1,) * missing + self.shape
        strides = (0,) * missing + self.strides
        fixed = tuple(
            0 if size == 1 and want != 1 else stride for size, want, stride in zip(own, shape, strides, strict=True)
        )
        return replace(self, shape=tuple(shape), strides=fixed)

    def seen_as(self, shape: tuple[int, ...]) -> Storage | None:
        """The storage under another shape, reshaped or broadcast; None where strides cannot express it."""
        if shape == self.shape:
            return self
        if prod(shape) == prod(self.shape):
            return self.reshaped(shape)
        own = (1,) * (len(shape) - len(self.shape)) + self.shape
        if len(own) != len(shape) or any(a not in (1, b) for a, b in zip(own, shape, strict=True)):
            return None
        return self.broadcast_to(shape)

    def as_nchw(self, axes: AxisMap) -> tuple[Dims, Dims] | None:
        """Sizes and strides in elements under an axis map, None where merged axes do not follow each other."""
        strides = [self._merged_stride(group) for group in axes]
        if any(s is None for s in strides):
            return None
        n, c, h, w = (s or 0 for s in strides)
        return dims_of(self.shape, axes), (n, c, h, w)

    def _merged_stride(self, group: Sequence[int]) -> int | None:
        kept = [a for a in group if self.shape[a] != 1]
        if not kept:
            return 0
        for outer, inner in pairwise(kept):
            if self.strides[outer] != self.strides[inner] * self.shape[inner]:
                return None
        return self.strides[kept[-1]]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
