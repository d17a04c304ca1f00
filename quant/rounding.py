"""Weights rounded one term after another, each taking over the errors of those before it.

Source: Frantar et al., "GPTQ", arXiv 2210.17323, for the recursion; terms of large second moment come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tpu_deploy.quant.weights import WEIGHT_LIMIT

Float64Array = npt.NDArray[np.float64]

BLOCK = 64
"""Terms whose errors are passed on to the rest at once, as a matrix product."""


def second_order_rounding(
    weights: Float64Array, scales: Float64Array, hessians: Float64Array, damping: float
) -> npt.NDArray[np.int8]:
    """Integers q (G, J, K) for which the sum of (w - s q)^T H (w - s q) is small, for each output of each group.

    `weights` (G, J, K), `scales` (G, J), `hessians` (G, K, K), to whose diagonals `damping` times their mean is added.
    """
    diagonal = np.einsum("gkk->gk", hessians)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    upper = _inverse_factor(hessians, order, damping)
    rest = np.take_along_axis(weights / scales[:, :, None], order[:, None, :], 2)
    chosen = np.empty(rest.shape, np.int8)
    terms = rest.shape[2]
    for start in range(0, terms, BLOCK):
        stop = min(start + BLOCK, terms)
        errors = np.empty((*rest.shape[:2], stop - start))
        for k in range(start, stop):
            integers = np.clip(np.rint(rest[:, :, k]), -WEIGHT_LIMIT, WEIGHT_LIMIT)
            chosen[:, :, k] = integers
            errors[:, :, k - start] = error = (rest[:, :, k] - integers) / upper[:, k, k, None]
            rest[:, :, k + 1 : stop] -= error[:, :, None] * upper[:, None, k, k + 1 : stop]
        rest[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    result = np.empty_like(chosen)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], chosen.shape), chosen, 2)
    return result


def _inverse_factor(hessians: Float64Array, order: npt.NDArray[np.int64], damping: float) -> Float64Array:
    """Upper triangular U with U^T U the inverse of each damped Hessian, its terms in `order`."""
    rows = np.arange(len(order))[:, None, None]
    permuted = hessians[rows, order[:, :, None], order[:, None, :]]
    mean = np.einsum("gkk->g", permuted) / permuted.shape[1]
    # A group whose inputs never vary is rounded to nearest: any multiple of the unit matrix does that.
    permuted += np.where(mean > 0, damping * mean, 1.0)[:, None, None] * np.eye(permuted.shape[1])
    # With J the reversal of rows, J H J = L L^T gives H = (J L J)(J L J)^T, whose inverse is U^T U, U = (J L J)^-1.
    lower = np.linalg.cholesky(permuted[:, ::-1, ::-1])[:, ::-1, ::-1]
    factor: Float64Array = np.linalg.inv(lower)
    return factor
