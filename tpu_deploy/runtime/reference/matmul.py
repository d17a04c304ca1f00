"""tpu.MatMul."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tpu_deploy.runtime.reference.accumulation import FLOAT32_EXACT, exact_ranges, session, sum_bounds
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel
from tpu_deploy.runtime.reference.requantization import Requantizer

CALL = 1 << 18
"""Accumulators wanted from one call of a multiplication."""


@kernel("tpu.MatMul")
def build_matmul(site: Site) -> Kernel:
    """Sums of products in float32 by onnxruntime, the inner dimension cut into exact parts, then requantization."""
    right = site.weight(1)
    inner, columns = right.shape
    rows = math.prod(site.operand_shape(0)[:-1])
    upper, lower = sum_bounds(right.T, *site.operand_range(0))
    bound = np.maximum(upper, -lower)
    zero = site.operand_zero_point(0)
    bias = site.weight(2).astype(np.int64) + zero * right.sum(0, np.int64)
    requantize = Requantizer(site.weight(3), site.weight(4), bias, bound, site.zero_point, site.dtype)
    per_call = min(max(1, CALL // columns), -(-rows // site.workers.threads))
    alone = per_call >= rows
    ranges = exact_ranges(right.T[:, :, None], *site.operand_range(0)) if bound.max() > FLOAT32_EXACT else [(0, inner)]
    assert ranges is not None, "the product of two 8-bit numbers is exact"
    accumulate = _session(site, right, ranges, site.workers.threads if alone else 1)

    def run(operands: Sequence[Array]) -> Array:
        left = operands[0].reshape(rows, inner)
        result = np.empty((1, rows, columns), site.dtype)

        def some(first: int) -> None:
            part = result[:, first : first + per_call]
            sums = accumulate.run(None, {"x": left[first : first + per_call]})
            requantize([each.reshape(part.shape) for each in sums], part, site.workers, spread=alone)

        site.workers.run([partial(some, first) for first in range(0, rows, per_call)])
        return result.reshape(site.shape)

    return run


def _session(site: Site, right: Array, ranges: list[tuple[int, int]], threads: int) -> Any:
    """x (n, inner) to one float32 product for each range of the inner dimension, of x less its zero point."""
    from onnx import TensorProto, helper

    held: dict[str, Array] = {
        "zero": np.array([site.operand_zero_point(0)], np.float32),
        "sizes": np.array([stop - start for start, stop in ranges], np.int64),
    }
    sources, results = ([f"{name}{i}" for i in range(len(ranges))] for name in ("inner", "sum"))
    nodes = [
        helper.make_node("Cast", ["x"], ["value"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["value", "zero"], ["difference"]),
        helper.make_node("Split", ["difference", "sizes"], sources, axis=1),
    ]
    for i, (start, stop) in enumerate(ranges):
        held[f"right{i}"] = right[start:stop].astype(np.float32)
        nodes.append(helper.make_node("MatMul", [sources[i], f"right{i}"], [results[i]]))
    operand = ("x", site.operand_dtype(0), ["n", right.shape[0]])
    return session(nodes, operand, results, held, threads, blocked_layout=False)
