"""Convolutions: depthwise ones on the pooling unit, all others on the CONV unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.dense import dense_variants, merge_groups
from tpu_deploy.codegen.emitters.depthwise import Narrowing, depthwise_variants
from tpu_deploy.codegen.emitters.epilogue import Epilogue
from tpu_deploy.codegen.emitters.floating import F32, Dequantization, FloatSums
from tpu_deploy.codegen.emitters.gathered import gathered_variant, gathering_pays
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.emitters.requantization import Requantization
from tpu_deploy.codegen.emitters.windows import Problem
from tpu_deploy.codegen.program import Variant
from tpu_deploy.codegen.views import canonical_axes
from tpu_deploy.ir.weights import Array
from tpu_deploy.numbers import widened


def spread_taps(filters: Array, axis: int, dilation: int, limit: int) -> tuple[Array, int]:
    """Filters and dilation along an axis such that the dilation is at most `limit`: zero taps stand between."""
    size = filters.shape[axis]
    if size == 1:
        return filters, 1
    kept = max(k for k in range(1, limit + 1) if dilation % k == 0)
    apart = dilation // kept
    if apart == 1:
        return filters, dilation
    shape = list(filters.shape)
    shape[axis] = (size - 1) * apart + 1
    spread = np.zeros(shape, filters.dtype)
    spread[tuple(slice(None, None, apart) if a == axis else slice(None) for a in range(4))] = filters
    return spread, kept


def _problem(op: OperationView, chip: Chip) -> Problem:
    """The convolution with dilations that instructions can express."""
    attributes = op.attributes
    filters, groups = op.constant("filter"), attributes["group"]
    filters, down = spread_taps(filters, 2, attributes["dilations"][0], chip.max_dilation)
    filters, across = spread_taps(filters, 3, attributes["dilations"][1], chip.max_dilation)
    kernel, strides = (filters.shape[2], filters.shape[3]), (attributes["strides"][0], attributes["strides"][1])
    top, left, bottom, right = attributes["pads"]
    pads, inserts = (top, left, bottom, right), (attributes["inserts"][0], attributes["inserts"][1])
    return Problem(op, chip, canonical_axes(4), filters, groups, kernel, strides, (down, across), pads, inserts)


def _is_depthwise(problem: Problem) -> bool:
    """Whether each channel has its own filter and the pooling unit can insert the zeros."""
    single = problem.groups > 1 and problem.filters.shape[1] == 1 and problem.filters.shape[0] == problem.groups
    return single and max(problem.inserts) <= problem.chip.max_pool_inserts


def _on_the_cube(problem: Problem, epilogue: Callable[[Problem], Epilogue]) -> list[Variant]:
    """Variants on the CONV unit, of few input channels with the rows of the kernel gathered first."""
    chip = problem.chip
    block = chip.conv_block(problem.filters.dtype.itemsize)
    filters, groups = merge_groups(problem.filters, problem.groups, block, chip.lanes)
    merged = replace(problem, filters=filters, groups=groups)
    gathered = [gathered_variant(merged, epilogue(merged))] if gathering_pays(merged) else []
    return [*gathered, *dense_variants(merged, epilogue(merged))]


@emits("tpu.Conv2D")
def conv2d(op: OperationView, chip: Chip) -> list[Variant]:
    """Depthwise convolutions on the pooling unit, all others on the CONV unit."""
    problem = _problem(op, chip)
    if _is_depthwise(problem):
        return depthwise_variants(problem, Narrowing(problem))
    return _on_the_cube(problem, Requantization)


@emits("tpu.FloatConv2D")
def float_conv2d(op: OperationView, chip: Chip) -> list[Variant]:
    """The same in floating point; the pooling unit works in float32 whatever the type."""
    problem = _problem(op, chip)
    if _is_depthwise(problem):
        wide = replace(problem, filters=widened(problem.filters))
        return depthwise_variants(wide, FloatSums(wide, F32))
    return _on_the_cube(problem, lambda p: FloatSums(p, op.result.dtype))


@emits("tpu.DequantizedConv2D")
def dequantized_conv2d(op: OperationView, chip: Chip) -> list[Variant]:
    """Integer sums as in tpu.Conv2D that become floats."""
    problem = _problem(op, chip)
    if _is_depthwise(problem):
        return depthwise_variants(problem, Dequantization(problem, is_bias_added=True))
    return _on_the_cube(problem, Dequantization)
