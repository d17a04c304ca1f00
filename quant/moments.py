"""First and second moments of what a product reads and of what it should give: all that fitting its weights needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

FEW_TERMS = 32
"""Terms up to which the moments of many groups are taken term by term instead of group by group."""


PRECISION = 2.0**-20
"""What sums of products in float32 are off by, as a share of the sum of their magnitudes."""


@dataclass(frozen=True)
class Moments:
    """Sums over `count` rows of G groups with K terms and J outputs each.

    `x` (G, K), `y` (G, J), `xx` (G, K, K), `xy` (G, K, J), `yy` (G, J), float64.
    """

    count: int
    x: Float64Array
    y: Float64Array
    xx: Float64Array
    xy: Float64Array
    yy: Float64Array

    @classmethod
    def nothing(cls, groups: int, terms: int, outputs: int) -> Moments:
        """The moments of no rows."""
        g, k, j = groups, terms, outputs
        return cls(0, np.zeros((g, k)), np.zeros((g, j)), np.zeros((g, k, k)), np.zeros((g, k, j)), np.zeros((g, j)))

    @classmethod
    def of(cls, x: Float32Array, y: Float32Array) -> Moments:
        """The moments of `x` (K, rows, G) and `y` (J, rows, G)."""
        xx = _squares(x)
        xy = _by_terms(x, y) if _is_many_small(x) else x.transpose(2, 0, 1) @ y.transpose(2, 1, 0)
        squares = np.einsum("jrg,jrg->gj", y, y, dtype=np.float64)
        sums = (x.sum(1, np.float64).T, y.sum(1, np.float64).T)
        return cls(x.shape[1], *sums, xx.astype(np.float64), xy.astype(np.float64), squares)

    @classmethod
    def of_operand(cls, x: Float32Array, outputs: int, only_means: bool) -> Moments:
        """Those of `x` (K, rows, G) alone, or its means alone; 0 for all others."""
        terms, rows, groups = x.shape
        found = replace(cls.nothing(groups, terms, outputs), count=rows, x=x.sum(1, np.float64).T)
        return found if only_means else replace(found, xx=_squares(x).astype(np.float64))

    def __add__(self, other: Moments) -> Moments:
        """The moments of the rows of both."""
        pairs = ((getattr(self, n), getattr(other, n)) for n in ("x", "y", "xx", "xy", "yy"))
        return Moments(self.count + other.count, *(a + b for a, b in pairs))

    def of_groups(self, chosen: npt.NDArray[np.bool_]) -> Moments:
        """The moments of some of the groups."""
        return Moments(self.count, *(getattr(self, n)[chosen] for n in ("x", "y", "xx", "xy", "yy")))

    def of_outputs(self, chosen: npt.NDArray[np.int_]) -> Moments:
        """The moments of some of the outputs of each group."""
        return replace(self, y=self.y[:, chosen], xy=self.xy[:, :, chosen], yy=self.yy[:, chosen])

    @property
    def second(self) -> Float64Array:
        """Mean products of terms, (G, K, K)."""
        return self.xx / self.count

    @cached_property
    def covariance(self) -> Float64Array:
        """Of the terms, (G, K, K); variances a little larger, so that what float32 sums lose leaves it positive."""
        mean, second = self.x / self.count, self.second
        found = second - mean[:, :, None] * mean[:, None, :]
        terms = np.arange(found.shape[1])
        found[:, terms, terms] += PRECISION * second[:, terms, terms].max(1, keepdims=True)
        return found

    @property
    def cross_covariance(self) -> Float64Array:
        """Of terms and outputs, (G, K, J)."""
        return self.xy / self.count - (self.x / self.count)[:, :, None] * (self.y / self.count)[:, None, :]

    @property
    def variance(self) -> Float64Array:
        """Of the outputs, (G, J)."""
        return np.maximum(self.yy / self.count - (self.y / self.count) ** 2, 0.0)

    def errors(self, weights: Float64Array) -> Float64Array:
        """Mean squared errors (G, J) of `weights` (G, J, K) with the best bias."""
        cross = np.einsum("gjk,gkj->gj", weights, self.cross_covariance)
        own = np.einsum("gjk,gjk->gj", weights @ self.covariance, weights)
        found: Float64Array = np.maximum(self.variance - 2 * cross + own, 0.0)
        return found


def _is_many_small(x: Float32Array) -> bool:
    return x.shape[2] > 1 and len(x) <= FEW_TERMS


def _squares(x: Float32Array) -> npt.NDArray[Any]:
    """Sums of products of the terms of `x` (K, rows, G) over the rows, (G, K, K)."""
    if _is_many_small(x):
        return _by_terms(x, x)
    rows = np.ascontiguousarray(x.transpose(2, 0, 1))
    return rows @ rows.transpose(0, 2, 1)


def _by_terms(a: Float32Array, b: Float32Array) -> npt.NDArray[Any]:
    """Sums of products over rows (G, K, J), each pair of terms for all groups at once."""
    found = np.empty((a.shape[2], len(a), len(b)))
    for k, left in enumerate(a):
        for j, right in enumerate(b):
            found[:, k, j] = found[:, j, k] if b is a and j < k else np.einsum("rg,rg->g", left, right)
    return found
