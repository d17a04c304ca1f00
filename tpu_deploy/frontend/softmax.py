"""Softmax."""

from __future__ import annotations

import math

from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.ir.network import shape_of


@converts("Softmax")
def convert_softmax(node: Node) -> SSAValue:
    """`top.Softmax` over one axis; before opset 13 over all axes from `axis` on, taken together."""
    x = node.input()
    shape = shape_of(x)
    if node.opset >= 13:
        return node.emit("top.Softmax", [x], shape, axis=node.axis(-1, len(shape)))
    axis = node.axis(1, len(shape))
    if math.prod(shape[axis + 1 :]) == 1:
        return node.emit("top.Softmax", [x], shape, axis=axis)
    flat = (math.prod(shape[:axis]), math.prod(shape[axis:]))
    y = node.emit("top.Softmax", [node.reshaped(x, flat)], flat, node.derived("flat"), axis=1)
    return node.reshaped(y, shape, node.tensor)


@exports("top.Softmax")
def export_softmax(op: ExportedOperation) -> None:
    """Softmax."""
    op.emit("Softmax", op.operands, axis=op["axis"])
