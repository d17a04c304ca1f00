"""Pools whose windows are dilated, expressed by operations that the chip has."""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue

from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.tensors import Array
from tpu_deploy.frontend.windows import Window
from tpu_deploy.ir.network import shape_of

Size = tuple[int, int]


def dilated_maximum(node: Node, x: SSAValue, window: Window, output: Size, name: str) -> SSAValue:
    """One MaxPool over the phases of the image: rows and columns that lie a dilation apart are brought together."""
    n, c, *spatial = shape_of(x)
    pairs = list(zip(spatial, output, window.kernel, window.strides, window.dilations, strict=True))
    needed = [(out - 1) * stride + dilation * (k - 1) + 1 for _, out, k, stride, dilation in pairs]
    if any(window.pads) or any(a > b for a, b in zip(needed, spatial, strict=True)):
        node.unsupported("its windows are dilated and reach into padding", "pad explicitly before it")
    (dh, dw), (kh, kw) = window.dilations, window.kernel
    h, w = (-(-size // d) * d for size, d in zip(spatial, window.dilations, strict=True))
    paddings = [0, 0, 0, 0, 0, 0, h - spatial[0], w - spatial[1]]
    if any(paddings):  # only windows that the Slice below drops reach there
        x = node.emit("top.Pad", [x, node.absent()], (n, c, h, w), node.derived("aligned"), paddings=paddings, val=0.0)
    y = _permuted(node, node.reshaped(x, (n, c, h // dh, dh, w // dw, dw)), [0, 3, 5, 1, 2, 4], "phases")
    y = node.reshaped(y, (n * dh * dw, c, h // dh, w // dw))
    places = (h // dh - kh + 1, w // dw - kw + 1)
    attributes = {"kernel_shape": window.kernel, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    y = node.emit("top.MaxPool", [y], (n * dh * dw, c, *places), node.derived("maxima"), **attributes)
    y = _permuted(node, node.reshaped(y, (n, dh, dw, c, *places)), [0, 3, 4, 1, 5, 2], "together")
    y = node.reshaped(y, (n, c, places[0] * dh, places[1] * dw))
    pieces = [range(0, (out - 1) * stride + 1, stride) for _, out, _, stride, _ in pairs]
    return node.emit_slice(y, [range(n), range(c), *pieces], name)


def _permuted(node: Node, x: SSAValue, order: list[int], suffix: str) -> SSAValue:
    shape = [shape_of(x)[a] for a in order]
    return node.emit("top.Permute", [x], shape, node.derived(suffix), order=order)


def dilated_average(
    node: Node, x: SSAValue, window: Window, output: Size, name: str, *, count_include_pad: bool
) -> SSAValue:
    """A depthwise convolution with equal weights, corrected where windows count fewer positions."""
    n, c, *spatial = shape_of(x)
    kh, kw = window.kernel
    pads, shape = list(window.pads), (n, c, *output)
    for axis in (0, 1):
        reach = (output[axis] - 1) * window.strides[axis] + window.dilations[axis] * (window.kernel[axis] - 1) + 1
        pads[axis + 2] = max(pads[axis + 2], reach - spatial[axis] - pads[axis])
    counts = np.outer(*(_counts(window, axis, spatial[axis], output[axis], count_include_pad) for axis in (0, 1)))
    uniform = bool(np.all(counts == counts[0, 0]))
    weight = np.full((c, 1, kh, kw), 1 / (counts[0, 0] if uniform else kh * kw), np.float32)
    attributes = {**window.attributes(), "pads": pads, "dilations": window.dilations, "group": c}
    operands = [x, node.weight(weight, suffix="window"), node.absent()]
    y = node.emit("top.Conv", operands, shape, name if uniform else node.derived("average"), **attributes)
    if uniform:
        return y
    correction = (kh * kw / counts).astype(np.float32)[None, None]
    return node.emit("top.Mul", [y, node.weight(correction, suffix="correction")], shape, name)


def _counts(window: Window, axis: int, size: int, output: int, count_include_pad: bool) -> Array:
    """How many positions each window counts along an axis."""
    begin, end = window.pads[axis], window.pads[axis + 2]
    low, high = (-begin, size + end) if count_include_pad else (0, size)
    starts = np.arange(output)[:, None] * window.strides[axis] - begin
    places = starts + np.arange(window.kernel[axis]) * window.dilations[axis]
    counted: Array = ((places >= low) & (places < high)).sum(1)
    return counted
