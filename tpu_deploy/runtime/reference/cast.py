"""tpu.Quantize, tpu.Dequantize, tpu.Requantize and tpu.Cast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tpu_deploy import numbers
from tpu_deploy.runtime.reference.activation import shared_table
from tpu_deploy.runtime.reference.floating import elementwise
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel
from tpu_deploy.runtime.reference.requantization import Requantizer


@kernel("tpu.Quantize")
def build_quantize(site: Site) -> Kernel:
    """Floats to stored integers."""
    scales, zero = site.scales, site.zero_point
    whole = np.broadcast_to(scales, site.shape)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)

        def piece(index: tuple[slice, ...]) -> None:
            with np.errstate(over="ignore"):
                reals, step = numbers.widened(operands[0][index]), scales if scales.size == 1 else whole[index]
                result[index] = numbers.quantize(reals, step, zero, site.dtype)

        site.workers.for_each_piece(site.shape, piece)
        return result

    return run


@kernel("tpu.Dequantize")
def build_dequantize(site: Site) -> Kernel:
    """Stored integers to float32, then to the result's float type."""
    scales, zero = site.operand_scales(0), site.operand_zero_point(0)
    return lambda operands: numbers.rounded(numbers.dequantize(operands[0], scales, zero), site.dtype)


@kernel("tpu.Cast")
def build_cast(site: Site) -> Kernel:
    """One float type to another."""
    return elementwise(site, lambda operands: operands[0])


@kernel("tpu.Requantize")
def build_requantize(site: Site) -> Kernel:
    """From 8 bits by a table of all 256 results; from wider integers by arithmetic."""
    stored, zero = site.operand_dtype(0), site.operand_zero_point(0)
    multiplier, rshift = site.attributes["multiplier"], site.attributes["rshift"]
    if stored.itemsize == 1:
        every = np.arange(256, dtype=np.uint8).view(stored).astype(np.int64) - zero
        return shared_table(site, numbers.requantize(every, multiplier, rshift, site.zero_point, site.dtype))
    bound = max(abs(end) for end in site.operand_range(0))
    requantize = Requantizer(multiplier, rshift, -zero, bound, site.zero_point, site.dtype)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)
        flat = (1, 1, -1)
        requantize([operands[0].reshape(flat)], result.reshape(flat), site.workers, spread=True)
        return result

    return run
