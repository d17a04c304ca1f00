"""tpu.MatMul, tpu.DequantizedMatMul and tpu.FloatMatMul."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tpu_deploy.numbers import widened
from tpu_deploy.runtime.reference.accumulation import FLOAT32_EXACT, exact_ranges, session, sum_bounds
from tpu_deploy.runtime.reference.floating import Finish, dequantized, fed, fed_dtype, with_bias
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel
from tpu_deploy.runtime.reference.requantization import Requantizer

CALL = 1 << 18
"""Accumulators wanted from one call of a multiplication."""

Ranges = list[tuple[int, int]]
"""Parts of the inner dimension."""


def weight_limits(site: Site) -> tuple[Array, Array]:
    """The bias of the sums and the greatest magnitude they reach without it, both (columns), of x less its zero
    point."""
    right = site.weight(1)
    upper, lower = sum_bounds(right.T, *site.operand_range(0))
    bias = site.weight(2).astype(np.int64) + site.operand_zero_point(0) * right.sum(0, np.int64)
    return bias, np.maximum(upper, -lower)


def exact_parts(site: Site, bound: Array) -> Ranges:
    """Ranges of the inner dimension whose sums are exact in float32."""
    right = site.weight(1)
    if bound.max() <= FLOAT32_EXACT:
        return [(0, len(right))]
    ranges = exact_ranges(right.T[:, :, None], *site.operand_range(0))
    assert ranges is not None, "the product of two 8-bit numbers is exact"
    return ranges


@kernel("tpu.MatMul")
def build_matmul(site: Site) -> Kernel:
    """Sums of products in float32 by onnxruntime, the inner dimension cut into exact parts, then requantization."""
    bias, bound = weight_limits(site)
    requantize = Requantizer(site.weight(3), site.weight(4), bias, bound, site.zero_point, site.dtype)

    def finish(sums: list[Array], part: Array, is_all: bool) -> None:
        requantize(sums, part, site.workers, spread=is_all)

    return _over_rows(site, site.weight(1), exact_parts(site, bound), finish)


@kernel("tpu.DequantizedMatMul")
def build_dequantized_matmul(site: Site) -> Kernel:
    """The exact sums times the scales."""
    bias, bound = weight_limits(site)
    return _over_rows(site, site.weight(1), exact_parts(site, bound), dequantized(site, bias, site.weight(3)))


@kernel("tpu.FloatMatMul")
def build_float_matmul(site: Site) -> Kernel:
    """Sums of products in float32 by onnxruntime."""
    right = widened(site.weight(1))
    return _over_rows(site, right, [(0, len(right))], with_bias(site, site.weight(2)))


def _over_rows(site: Site, right: Array, ranges: Ranges, finish: Finish) -> Kernel:
    """The products over all `ranges` for some rows at a time, finished while the sums are in the cache."""
    inner, columns = right.shape
    rows = math.prod(site.operand_shape(0)[:-1])
    per_call = min(max(1, CALL // columns), -(-rows // site.workers.threads))
    alone = per_call >= rows
    accumulate = _session(site, right, ranges, site.workers.threads if alone else 1)

    def run(operands: Sequence[Array]) -> Array:
        left = operands[0].reshape(rows, inner)
        result = np.empty((1, rows, columns), site.dtype)

        def some(first: int) -> None:
            part = result[:, first : first + per_call]
            sums = accumulate.run(None, {"x": fed(left[first : first + per_call])})
            finish([each.reshape(part.shape) for each in sums], part, alone)

        site.workers.run([partial(some, first) for first in range(0, rows, per_call)])
        return result.reshape(site.shape)

    return run


def _session(site: Site, right: Array, ranges: Ranges, threads: int) -> Any:
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
    operand = ("x", fed_dtype(site.operand_dtype(0)), ["n", right.shape[0]])
    return session(nodes, operand, results, held, threads, blocked_layout=False)
