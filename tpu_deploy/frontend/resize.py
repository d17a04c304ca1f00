"""Resize by whole factors to the nearest neighbour."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts
from tpu_deploy.ir.network import shape_of

Places = npt.NDArray[np.float64]


@converts("Resize")
def convert_resize(node: Node) -> SSAValue:
    """The input repeated along height and width by a `top.Conv`: nearest neighbour, whole factors; else unsupported."""
    x = node.input()
    shape = shape_of(x)
    scales, result = _sizes(node, shape)
    if result == shape:
        return x
    mode = node.attribute("mode", "nearest")
    if mode != "nearest":
        node.unsupported(f"its mode is {mode}; only nearest is supported", "export it as a transposed convolution")
    axes = zip(shape, scales, result, strict=True)
    repeated = all(_repeats(node, size, scale, made) for size, scale, made in axes)
    if len(shape) != 4 or result[:2] != shape[:2] or not repeated:
        told = f"it resizes {shape} to {result}"
        node.unsupported(f"{told}; only height and width can be repeated, a whole number of times")
    n, c, *_ = shape
    kernel = [made // size for made, size in zip(result[2:], shape[2:], strict=True)]
    pads = [step - 1 for step in kernel]
    ones = np.ones((c, 1, *kernel), np.float32)
    return node.emit(
        "top.Conv",
        [x, node.weight(ones, suffix="ones"), node.absent()],
        (n, c, *result[2:]),
        kernel_shape=kernel,
        strides=[1, 1],
        pads=pads * 2,
        dilations=[1, 1],
        inserts=pads,
        group=c,
    )


def _sizes(node: Node, shape: Sequence[int]) -> tuple[list[float], tuple[int, ...]]:
    """By how much each axis is scaled, and the result's shape."""
    axes = [node.normalized(int(axis), len(shape)) for axis in node.attribute("axes", range(len(shape)))]
    scales, result = [1.0] * len(shape), list(shape)
    if node.has(3) and node.constant(3, "sizes").size:
        if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            node.unsupported("it keeps the aspect ratio")
        given = node.constant(3, "sizes").reshape(-1)
    else:
        given = node.constant(2, "scales").reshape(-1)
    if len(given) != len(axes):
        node.refuse(f"it has {len(given)} factors or sizes for {len(axes)} axes")
    for axis, value in zip(axes, given.tolist(), strict=True):
        by_size = isinstance(value, int)
        result[axis] = value if by_size else math.floor(shape[axis] * value)
        scales[axis] = value / shape[axis] if by_size else value
    return scales, tuple(result)


def _repeats(node: Node, size: int, scale: float, made: int) -> bool:
    """Whether the `made` elements of an axis are its `size` elements, each as often as the others, in order."""
    if made % size:
        return False
    index = np.arange(made, dtype=np.float64)
    where = node.attribute("coordinate_transformation_mode", "half_pixel")
    if where == "asymmetric":
        place = index / scale
    elif where == "align_corners":
        place = index * (size - 1) / (made - 1) if made > 1 else index * 0
    elif where in ("half_pixel", "pytorch_half_pixel"):
        place = (index + 0.5) / scale - 0.5 if made > 1 or where == "half_pixel" else index * 0
    else:
        node.unsupported(f"its coordinates are {where}")
    nearest = np.clip(_rounded(place, node.attribute("nearest_mode", "round_prefer_floor")), 0, size - 1)
    return bool(np.array_equal(nearest, index // (made // size)))


def _rounded(place: Places, how: str) -> Places:
    if how == "floor":
        return np.floor(place)
    if how == "ceil":
        return np.ceil(place)
    return np.floor(place + 0.5) if how == "round_prefer_ceil" else np.ceil(place - 0.5)
