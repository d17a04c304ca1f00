"""MaxPool, AveragePool, their global forms, and ReduceMean/ReduceMax over trailing axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xdsl.ir import SSAValue

from tpu_deploy.frontend.dilated_pool import Size, dilated_average, dilated_maximum
from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.frontend.windows import Window, image, read_window
from tpu_deploy.ir.network import shape_of

REDUCING_POOL = {"ReduceMean": "top.AvgPool", "ReduceMax": "top.MaxPool"}


@converts("MaxPool", "AveragePool")
def convert_pool(node: Node) -> SSAValue:
    """`top.MaxPool` or `top.AvgPool` with explicit pads; a 1-D pool becomes a 2-D one of height 1 between reshapes."""
    x = image(node)
    n, c, *spatial = shape_of(x)
    window = read_window(node, spatial, node.attribute("kernel_shape"))
    ceil_mode = bool(node.attribute("ceil_mode", 0))
    output = window.output(spatial, ceil_mode)
    flat = len(node.shape()) == 3
    name = node.derived("image") if flat else node.tensor
    if node.op_type == "MaxPool":
        y = _maximum(node, x, window, output, name, ceil_mode)
    else:
        y = _average(node, x, window, output, name, ceil_mode)
    return node.reshaped(y, (n, c, output[1]), node.tensor) if flat else y


def _maximum(node: Node, x: SSAValue, window: Window, output: Size, name: str, ceil_mode: bool) -> SSAValue:
    if window.dilations != (1, 1):
        return dilated_maximum(node, x, window, output, name)
    n, c, *spatial = shape_of(x)
    if ceil_mode:
        window = window.without_ceil(spatial, output)
    return node.emit("top.MaxPool", [x], (n, c, *output), name, **window.attributes())


def _average(node: Node, x: SSAValue, window: Window, output: Size, name: str, ceil_mode: bool) -> SSAValue:
    include = bool(node.attribute("count_include_pad", 0))
    if window.dilations != (1, 1):
        return dilated_average(node, x, window, output, name, count_include_pad=include)
    n, c, *spatial = shape_of(x)
    exact = window.without_ceil(spatial, output)
    if ceil_mode and (not include or all(a <= b for a, b in zip(exact.pads, window.pads, strict=True))):
        window, ceil_mode = exact, False  # what is left of ceil_mode reaches beyond pads that count
    attributes = {**window.attributes(), "ceil_mode": ceil_mode, "count_include_pad": include}
    return node.emit("top.AvgPool", [x], (n, c, *output), name, **attributes)


@converts("GlobalAveragePool", "GlobalMaxPool")
def convert_global_pool(node: Node) -> SSAValue:
    """A pool whose window is the whole image."""
    op = "top.MaxPool" if node.op_type == "GlobalMaxPool" else "top.AvgPool"
    x = node.input()
    rank = len(shape_of(x))
    return _reduced(node, op, x, range(2, rank), keep=True)


@converts(*REDUCING_POOL)
def convert_reduce(node: Node) -> SSAValue:
    """A pool over the reduced axes, brought to the end first when they are elsewhere."""
    x = node.input()
    rank = len(shape_of(x))
    axes = node.integers(1, "axes") or list(range(rank))
    if not node.integers(1, "axes") and node.attribute("noop_with_empty_axes", 0):
        return x
    chosen = sorted({node.normalized(a, rank) for a in axes})
    return _reduced(node, REDUCING_POOL[node.op_type], x, chosen, bool(node.attribute("keepdims", 1)))


def _reduced(node: Node, op: str, x: SSAValue, axes: Sequence[int], keep: bool) -> SSAValue:
    shape = shape_of(x)
    kept = [a for a in range(len(shape)) if a not in axes]
    order = [*kept, *axes]
    if order != list(range(len(shape))):
        x = node.emit("top.Permute", [x], [shape[a] for a in order], node.derived("reordered"), order=order)
    sizes = [shape[a] for a in kept]
    window = [shape[a] for a in axes]
    result = [1 if a in axes else d for a, d in enumerate(shape)] if keep else sizes
    four = _four(sizes, window)
    pooled = (*four[:2], 1, 1)
    exact = pooled == tuple(result)
    y = node.emit(
        op,
        [node.reshaped(x, four)],
        pooled,
        None if exact else node.derived("pooled"),
        kernel_shape=four[2:],
        strides=[1, 1],
        pads=[0, 0, 0, 0],
    )
    return y if exact else node.reshaped(y, result, node.tensor)


def _four(kept: Sequence[int], window: Sequence[int]) -> tuple[int, int, int, int]:
    """(n, c, h, w) with the kept sizes in n and c, the window's in h and w."""
    n, c = (kept[0], math.prod(kept[1:])) if len(kept) > 1 else (1, math.prod(kept))
    h, w = (window[0], math.prod(window[1:])) if len(window) > 1 else (1, math.prod(window))
    return n, c, h, w


@exports("top.MaxPool", "top.AvgPool")
def export_pool(op: ExportedOperation) -> None:
    """MaxPool or AveragePool; the global form when the window is the whole image."""
    average = op.op.name == "top.AvgPool"
    if tuple(op["kernel_shape"]) == op.shape()[2:] and not any(op["pads"]):
        op.emit("GlobalAveragePool" if average else "GlobalMaxPool", op.operands)
        return
    attributes = {name: op[name] for name in ("kernel_shape", "strides", "pads")}
    attributes["ceil_mode"] = int(op["ceil_mode"])
    if average:
        attributes["count_include_pad"] = int(op["count_include_pad"])
    op.emit("AveragePool" if average else "MaxPool", op.operands, **attributes)
