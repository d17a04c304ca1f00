"""Conv."""

from __future__ import annotations

from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.frontend.windows import image, read_window
from tpu_deploy.ir.network import shape_of


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


def _bias(node: Node, outputs: int) -> SSAValue:
    if not node.has(2):
        return node.absent()
    bias = node.constant(2, "its bias")
    if bias.shape != (outputs,):
        node.refuse(f"its bias has shape {bias.shape}, {outputs} values are needed")
    return node.weight(bias, 2)


@exports("top.Conv")
def export_conv(op: ExportedOperation) -> None:
    """Conv."""
    names = ("kernel_shape", "strides", "pads", "dilations", "group")
    op.emit("Conv", [o for o in op.operands if o], **{name: op[name] for name in names})
