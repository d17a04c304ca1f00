"""tpu.Conv2D, tpu.DequantizedConv2D and tpu.FloatConv2D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tpu_deploy.ir.geometry import spread_size
from tpu_deploy.numbers import widened
from tpu_deploy.runtime.reference.accumulation import FLOAT32_EXACT, exact_ranges, session, sum_bounds
from tpu_deploy.runtime.reference.floating import Finish, dequantized, fed, fed_dtype, with_bias
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel
from tpu_deploy.runtime.reference.requantization import Requantizer

CALL = 1 << 18
"""Accumulators wanted from one call of a convolution: enough to outweigh the call, few enough for the cache."""

LARGE_PLANE = 512
"""Pixels of a result from which a 1x1 convolution is faster on plain planes than on blocks of channels; measured."""


INT16_REACH = 1 << 15
"""Sums narrowed to int16 lie in [-INT16_REACH, INT16_REACH)."""

Part = tuple[slice, Array]
"""Input channels and the filter over them."""


def weight_limits(site: Site) -> tuple[Array, Array]:
    """The bias of the sums and the greatest magnitude they reach without it, both (channels, 1), of x less its zero
    point."""
    weights = site.weight(1)
    upper, lower = sum_bounds(weights.reshape(len(weights), -1), *site.operand_range(0))
    bias = site.weight(2).astype(np.int64).reshape(-1, 1)
    bias = bias + site.operand_zero_point(0) * weights.sum((1, 2, 3), np.int64).reshape(-1, 1)
    return bias, np.maximum(upper, -lower).reshape(-1, 1)


def exact_parts(site: Site, bound: Array) -> list[Part]:
    """Parts of the integer convolution whose sums are exact in float32."""
    if bound.max() > FLOAT32_EXACT:
        return _parts(site, site.weight(1))
    return [(slice(0, site.operand_shape(0)[1]), site.weight(1))]


@kernel("tpu.Conv2D")
def build_conv(site: Site) -> Kernel:
    """Sums of products in float32 by onnxruntime, as exact parts, then requantization while they are in the cache."""
    bias, bound = weight_limits(site)
    multiplier, rshift = (site.weight(i).astype(np.int64).reshape(-1, 1) for i in (3, 4))
    narrow = site.attributes["acc_shift"]
    if narrow < 0:
        requantize = Requantizer(multiplier, rshift, bias, bound, site.zero_point, site.dtype)
    else:
        nothing = np.zeros_like(bias)
        requantize = Requantizer(multiplier, rshift, nothing, nothing + INT16_REACH, site.zero_point, site.dtype)

    def finish(sums: list[Array], part: Array, is_all: bool) -> None:
        requantize([narrowed(sums, bias, narrow)] if narrow >= 0 else sums, part, site.workers, spread=is_all)

    return _over_images(site, exact_parts(site, bound), finish)


@kernel("tpu.DequantizedConv2D")
def build_dequantized_conv(site: Site) -> Kernel:
    """The exact sums times the scales."""
    bias, bound = weight_limits(site)
    finish = dequantized(site, bias, site.weight(3).reshape(-1, 1))
    return _over_images(site, exact_parts(site, bound), finish)


@kernel("tpu.FloatConv2D")
def build_float_conv(site: Site) -> Kernel:
    """Sums of products in float32 by onnxruntime."""
    weights = widened(site.weight(1))
    finish = with_bias(site, site.weight(2).reshape(-1, 1))
    return _over_images(site, [(slice(0, site.operand_shape(0)[1]), weights)], finish)


def _over_images(site: Site, parts: list[Part], finish: Finish) -> Kernel:
    """The convolutions of all `parts` for some images at a time, finished while the sums are in the cache."""
    images, channels, *plane = site.shape
    per_call = min(max(1, CALL // math.prod(site.shape[1:])), -(-images // site.workers.threads))
    alone = per_call >= images
    accumulate = _session(site, parts, site.workers.threads if alone else 1)
    inserts = site.attributes["inserts"]

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty((images, channels, math.prod(plane)), site.dtype)

        def some(first: int) -> None:
            part = result[first : first + per_call]
            sums = accumulate.run(None, {"x": fed(spread(operands[0][first : first + per_call], inserts))})
            finish([each.reshape(part.shape) for each in sums], part, alone)

        site.workers.run([partial(some, first) for first in range(0, images, per_call)])
        return result.reshape(site.shape)

    return run


def spread(x: Array, inserts: Sequence[int]) -> Array:
    """(n, c, h, w) with zeros between its rows and columns."""
    if not any(inserts):
        return x
    result = np.zeros((*x.shape[:2], *map(spread_size, x.shape[2:], inserts)), x.dtype)
    result[:, :, :: inserts[0] + 1, :: inserts[1] + 1] = x
    return result


def narrowed(sums: Sequence[Array], bias: Array, shift: int) -> Array:
    """`sat16(round((sum of sums + bias) >> shift))` as float64, which holds every int32 exactly."""
    total = np.add(sums[0], bias, dtype=np.float64)
    for each in sums[1:]:
        total += each
    if shift:
        total += 1 << shift - 1
        total *= 2.0**-shift
        np.floor(total, out=total)
    return np.clip(total, -INT16_REACH, INT16_REACH - 1, out=total)


def _parts(site: Site, weights: Array) -> list[Part]:
    """Convolutions that are exact in float32 and add up to that with `weights`."""
    outputs, channels, *_ = weights.shape
    limits = site.operand_range(0)
    if site.attributes["group"] == 1:
        ranges = exact_ranges(weights.reshape(outputs, channels, -1), *limits)
        if ranges is not None:
            return [(slice(*each), weights[:, slice(*each)]) for each in ranges]
    flat = weights.reshape(outputs, -1)
    ranges = exact_ranges(flat[:, :, None], *limits)
    assert ranges is not None, "the product of two 8-bit numbers is exact"
    taps = np.arange(flat.shape[1])
    kept = [np.where((taps >= start) & (taps < stop), flat, 0) for start, stop in ranges]
    return [(slice(0, site.operand_shape(0)[1]), each.reshape(weights.shape)) for each in kept]


def _session(site: Site, parts: list[Part], threads: int) -> Any:
    """x to one float32 result for each part, of x less its zero point, so that padding is zero."""
    from onnx import TensorProto, helper

    window = {name: site.attributes[name] for name in ("kernel_shape", "strides", "pads", "dilations", "group")}
    nodes = [helper.make_node("Cast", ["x"], ["value"], to=TensorProto.FLOAT)]
    held: dict[str, Array] = {}
    source = "value"
    if site.operand_zero_point(0):
        source = "difference"
        held["zero"] = np.array([site.operand_zero_point(0)], np.float32)
        nodes.append(helper.make_node("Sub", ["value", "zero"], [source]))
    sources = [source] * len(parts)
    if len({chosen.start for chosen, _ in parts}) > 1:
        sources = [f"channels{i}" for i in range(len(parts))]
        held["sizes"] = np.array([chosen.stop - chosen.start for chosen, _ in parts], np.int64)
        nodes.append(helper.make_node("Split", [source, "sizes"], sources, axis=1))
    results = [f"sum{i}" for i in range(len(parts))]
    for i, (_, weights) in enumerate(parts):
        held[f"filter{i}"] = weights.astype(np.float32)
        nodes.append(helper.make_node("Conv", [sources[i], f"filter{i}"], [results[i]], **window))
    pointwise = max(window["kernel_shape"]) == 1 and math.prod(site.shape[2:]) >= LARGE_PLANE
    channels, *plane = site.operand_shape(0)[1:]
    operand_shape: list[int | str] = ["n", channels, *map(spread_size, plane, site.attributes["inserts"])]
    return session(
        nodes,
        ("x", fed_dtype(site.operand_dtype(0)), operand_shape),
        results,
        held,
        threads,
        blocked_layout=not pointwise,
    )
