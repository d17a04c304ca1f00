"""Convolutions: depthwise ones on the pooling unit, all others on the CONV unit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.dense import dense_variants, merge_groups
from tpu_deploy.codegen.emitters.depthwise import depthwise_variants
from tpu_deploy.codegen.emitters.gathered import gathered_variant, gathering_pays
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.emitters.requantization import Requantization
from tpu_deploy.codegen.emitters.windows import Problem
from tpu_deploy.codegen.program import Variant
from tpu_deploy.codegen.views import canonical_axes
from tpu_deploy.ir.weights import Array


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


@emits("tpu.Conv2D")
def conv2d(op: OperationView, chip: Chip) -> list[Variant]:
    """Depthwise convolutions on the pooling unit, all others on the CONV unit."""
    attributes = op.attributes
    filters, groups = op.constant("filter"), attributes["group"]
    filters, down = spread_taps(filters, 2, attributes["dilations"][0], chip.max_dilation)
    filters, across = spread_taps(filters, 3, attributes["dilations"][1], chip.max_dilation)
    kernel, strides = (filters.shape[2], filters.shape[3]), (attributes["strides"][0], attributes["strides"][1])
    top, left, bottom, right = attributes["pads"]
    pads = (top, left, bottom, right)
    problem = Problem(op, chip, canonical_axes(4), filters, groups, kernel, strides, (down, across), pads)
    if groups > 1 and filters.shape[1] == 1 and filters.shape[0] == groups:
        return depthwise_variants(problem)
    filters, groups = merge_groups(filters, groups, chip.conv_block(filters.dtype.itemsize), chip.lanes)
    merged = replace(problem, filters=filters, groups=groups)
    epilogue = Requantization(merged)
    gathered = [gathered_variant(merged, epilogue)] if gathering_pays(merged) else []
    return [*gathered, *dense_variants(merged, epilogue)]
