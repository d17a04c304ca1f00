"""Integer matrix products by the fast float32 routines, split where a sum could leave the exact range."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_EXACT = float(1 << 24)
"""Below this every integer is a float32, so sums are exact in any order."""


def exact_product(left: Floats, right: Floats) -> npt.NDArray[np.int32]:
    """`left @ right` as int32 (wrapped), for matrices of whole numbers held as float32.

    The sum of |left| along a row times the largest |right| bounds every partial sum; where it is not safely below 2**24
    the inner dimension is cut.
    """
    largest = max(abs(float(right.max())), abs(float(right.min()))) if right.size else 0.0
    return _bounded(left, right, largest).astype(np.int32)


def _bounded(left: Floats, right: Floats, largest: float) -> npt.NDArray[Any]:
    depth = left.shape[1]
    bound = float(np.abs(left).sum(axis=1).max()) * largest
    if bound < 0.99 * _EXACT or depth == 1:
        return left @ right
    pieces = min(depth, int(bound / _EXACT) + 2)
    cuts = [depth * k // pieces for k in range(pieces + 1)]
    total = np.zeros((left.shape[0], right.shape[1]), np.int64 if bound >= 1 << 30 else np.int32)
    for start, stop in pairwise(cuts):
        total += _bounded(left[:, start:stop], right[start:stop], largest).astype(total.dtype)
    return total
