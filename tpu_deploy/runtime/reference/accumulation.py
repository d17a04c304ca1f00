"""Exact integer sums of products by the float32 kernels of onnxruntime.

A float32 sum of integers is exact, in any order of summation, while no sum of any of its terms exceeds 2**24. The bound
is computed from the weights and the range of the operand; where the whole sum breaks it, the sum is cut into parts that
keep it, and the parts are added in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.runtime.reference.registry import Array

FLOAT32_EXACT = 1 << 24
"""All integers up to here are float32 numbers."""

INTRA_OP_THREADS = 8
"""Most threads of one session: each operation has its own, and idle threads are not free."""

Int64Array = npt.NDArray[np.int64]


def sum_bounds(weights: Array, low: int, high: int) -> tuple[Int64Array, Int64Array]:
    """Greatest and least value of sum(w * x) over the last axis, or over any choice of its terms, for x in [low, high].

    low <= 0 <= high.
    """
    positive = np.maximum(weights, 0).sum(-1, dtype=np.int64)
    negative = weights.sum(-1, dtype=np.int64) - positive
    return positive * high + negative * low, positive * low + negative * high


def exact_ranges(weights: Array, low: int, high: int) -> list[tuple[int, int]] | None:
    """Ranges of axis 1 of `weights` (outputs, units, terms), as few as can be, whose sums are exact in every output.

    None when a single unit is not.
    """
    upper, lower = sum_bounds(weights, low, high)
    zeros = np.zeros((len(weights), 1), np.int64)
    above, below = (np.concatenate([zeros, np.cumsum(each, 1)], 1) for each in (upper, lower))
    ranges, start, units = [], 0, weights.shape[1]
    while start < units:
        reach = np.maximum(above[:, start + 1 :] - above[:, [start]], below[:, [start]] - below[:, start + 1 :]).max(0)
        count = int(np.searchsorted(reach, FLOAT32_EXACT, "right"))
        if count == 0:
            return None
        ranges.append((start, start + count))
        start += count
    return ranges


def session(
    nodes: Sequence[Any], operand: tuple[str, npt.DTypeLike, Sequence[int | str]], results: Sequence[str],
    weights: Mapping[str, Array], threads: int, blocked_layout: bool,
) -> Any:  # fmt: skip
    """An onnxruntime session of `nodes` from one operand (name, dtype, shape) to float32 results.

    `blocked_layout` lets onnxruntime store activations by blocks of channels.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    name, dtype, shape = operand
    graph = helper.make_graph(
        nodes,
        "accumulation",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in results],
        [numpy_helper.from_array(np.ascontiguousarray(array), each) for each, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(threads, INTRA_OP_THREADS)
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if blocked_layout else levels.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
