"""Matrix products by constant matrices: a 1x1 convolution whose images are the rows."""

from __future__ import annotations

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.dense import dense_variants
from tpu_deploy.codegen.emitters.floating import Dequantization, FloatSums
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.emitters.requantization import Requantization
from tpu_deploy.codegen.emitters.windows import Problem
from tpu_deploy.codegen.program import Variant
from tpu_deploy.codegen.views import rows_axes


def _problem(op: OperationView, chip: Chip) -> Problem:
    """Rows as images of K channels."""
    right = np.ascontiguousarray(op.constant("right").T)
    filters = right.reshape(*right.shape, 1, 1)
    axes = rows_axes(len(op.result.shape))
    return Problem(op, chip, axes, filters, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))


@emits("tpu.MatMul")
def matmul(op: OperationView, chip: Chip) -> list[Variant]:
    """Per-column requantization is per-channel requantization."""
    problem = _problem(op, chip)
    return dense_variants(problem, Requantization(problem))


@emits("tpu.FloatMatMul")
def float_matmul(op: OperationView, chip: Chip) -> list[Variant]:
    """Float sums."""
    problem = _problem(op, chip)
    return dense_variants(problem, FloatSums(problem, op.result.dtype))


@emits("tpu.DequantizedMatMul")
def dequantized_matmul(op: OperationView, chip: Chip) -> list[Variant]:
    """Integer sums as in tpu.MatMul that become floats."""
    problem = _problem(op, chip)
    return dense_variants(problem, Dequantization(problem))
