"""BatchNormalization."""

from __future__ import annotations

from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.ir.network import shape_of


@converts("BatchNormalization")
def convert_batch_normalization(node: Node) -> SSAValue:
    """`top.BatchNorm` with the running mean and variance; training mode is unsupported."""
    if node.attribute("training_mode", 0):
        node.unsupported("it is in training mode", "export the network with model.eval()")
    x = node.input()
    shape = shape_of(x)
    channels = shape[1] if len(shape) > 1 else 1
    names = {1: "scale", 2: "bias", 3: "mean", 4: "variance"}
    for index, name in names.items():
        if node.constant(index, f"its {name}").shape != (channels,):
            node.refuse(f"its {name} has shape {node.shape(index)}, {channels} values are needed")
    epsilon = float(node.attribute("epsilon", 1e-5))
    if float(node.constant(4).min()) + epsilon <= 0:
        node.refuse(f"its variance {node.proto.input[4]} is negative")
    gamma, beta, mean, variance = (node.weight(node.constant(i), i) for i in names)
    operands = [x, mean, variance, gamma, beta]
    return node.emit("top.BatchNorm", operands, shape, epsilon=epsilon)


@exports("top.BatchNorm")
def export_batch_norm(op: ExportedOperation) -> None:
    """BatchNormalization."""
    x, mean, variance, gamma, beta = op.operands
    op.emit("BatchNormalization", [x, gamma, beta, mean, variance], epsilon=op["epsilon"])


@exports("top.Scale")
def export_scale(op: ExportedOperation) -> None:
    """Mul and Add of values per channel."""
    wide = (1, -1) + (1,) * (len(op.shape()) - 2)
    scale, bias = (op.constant(a.reshape(wide)) for a in (op.array(1), op.array(2)) if a is not None)
    op.emit("Add", [op.emit("Mul", [op.operand(), scale], [op.inner("scaled")]), bias])
