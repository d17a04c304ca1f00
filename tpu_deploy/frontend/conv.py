"""Conv and ConvTranspose."""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.frontend.tensors import Array
from tpu_deploy.frontend.windows import Window, image, read_spread, read_window
from tpu_deploy.ir.geometry import spread_size
from tpu_deploy.ir.network import is_absent, shape_of


@converts("Conv")
def convert_conv(node: Node) -> SSAValue:
    """`top.Conv` with explicit pads; a 1-D convolution becomes a 2-D one of height 1 between reshapes."""
    filters = node.constant(1, "its weight")
    spatial_rank = filters.ndim - 2
    window_input = image(node)
    n, c, *spatial = shape_of(window_input)
    group = int(node.attribute("group", 1))
    kernel = [int(k) for k in node.attribute("kernel_shape", filters.shape[2:])]
    if filters.ndim != len(node.shape()) or kernel != list(filters.shape[2:]):
        node.refuse(f"its weight of shape {filters.shape} does not fit kernel {kernel} and input {node.shape()}")
    if filters.shape[1] * group != c:
        node.refuse(f"its weight takes {filters.shape[1] * group} channels, input {node.proto.input[0]} has {c}")
    outputs = filters.shape[0]
    if outputs % group:
        node.refuse(f"{outputs} output channels cannot be divided into {group} groups")
    window = read_window(node, spatial, kernel)
    right = node.weight(filters if spatial_rank == 2 else filters[:, :, None, :], 1)
    shape = (n, outputs, *window.output(spatial))
    y = node.emit(
        "top.Conv",
        [window_input, right, _bias(node, outputs)],
        shape,
        None if spatial_rank == 2 else node.derived("image"),
        **window.attributes(),
        dilations=window.dilations,
        group=group,
    )
    return y if spatial_rank == 2 else node.reshaped(y, (n, outputs, shape[3]), node.tensor)


@converts("ConvTranspose")
def convert_conv_transpose(node: Node) -> SSAValue:
    """`top.Conv` over the input with zeros between its elements: strides become inserts, the filter is turned round."""
    filters = node.constant(1, "its weight")
    x = image(node)
    n, c, *spatial = shape_of(x)
    group = int(node.attribute("group", 1))
    kernel = [int(k) for k in node.attribute("kernel_shape", filters.shape[2:])]
    if filters.ndim != len(node.shape()) or kernel != list(filters.shape[2:]):
        node.refuse(f"its weight of shape {filters.shape} does not fit kernel {kernel} and input {node.shape()}")
    if len(filters) != c or c % group:
        node.refuse(f"its weight takes {len(filters)} channels in {group} groups, input {node.proto.input[0]} has {c}")
    spread = read_spread(node, spatial, kernel)
    outputs = filters.shape[1] * group
    turned = transposed_filters(filters if filters.ndim == 4 else filters[:, :, None, :], group)
    rows, columns = (spread_size(size, step - 1) for size, step in zip(spatial, spread.strides, strict=True))
    window = Window(spread.kernel, (1, 1), spread.pads, spread.dilations)
    y = node.emit(
        "top.Conv",
        [x, node.weight(turned, suffix="turned"), _bias(node, outputs)],
        (n, outputs, *window.output((rows, columns))),
        None if len(kernel) == 2 else node.derived("image"),
        **window.attributes(),
        dilations=window.dilations,
        inserts=[step - 1 for step in spread.strides],
        group=group,
    )
    return y if len(kernel) == 2 else node.reshaped(y, (n, outputs, shape_of(y)[3]), node.tensor)


def transposed_filters(filters: Array, group: int) -> Array:
    """Filters (a, b / group, kh, kw) turned by 180 degrees as (b, a / group, kh, kw); twice gives them back."""
    a, b, kh, kw = filters.shape
    parts = filters.reshape(group, a // group, b, kh, kw).swapaxes(1, 2)
    return np.ascontiguousarray(parts.reshape(group * b, a // group, kh, kw)[:, :, ::-1, ::-1])


def _bias(node: Node, outputs: int) -> SSAValue:
    if not node.has(2):
        return node.absent()
    bias = node.constant(2, "its bias")
    if bias.shape != (outputs,):
        node.refuse(f"its bias has shape {bias.shape}, {outputs} values are needed")
    return node.weight(bias, 2)


@exports("top.Conv")
def export_conv(op: ExportedOperation) -> None:
    """Conv; ConvTranspose where zeros are inserted."""
    if any(op["inserts"]):
        _export_spread(op)
        return
    names = ("kernel_shape", "strides", "pads", "dilations", "group")
    op.emit("Conv", [o for o in op.operands if o], **{name: op[name] for name in names})


def _export_spread(op: ExportedOperation) -> None:
    filters, group = op.array(1), op["group"]
    assert filters is not None and set(op["strides"]) == {1}
    reach = [d * (k - 1) for d, k in zip(op["dilations"], op["kernel_shape"], strict=True)]
    pads = [full - pad for full, pad in zip(reach * 2, op["pads"], strict=True)]
    strides = [count + 1 for count in op["inserts"]]
    bias = [] if is_absent(op.op.operands[2]) else [op.operand(2)]
    op.emit(
        "ConvTranspose",
        [op.operand(), op.constant(transposed_filters(filters, group)), *bias],
        kernel_shape=op["kernel_shape"],
        strides=strides,
        dilations=op["dilations"],
        group=group,
        pads=[max(pad, 0) for pad in pads],
        output_padding=[max(-pad, 0) for pad in pads[2:]],
    )
