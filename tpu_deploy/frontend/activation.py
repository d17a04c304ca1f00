"""Element-wise functions of one tensor: the ReLU family, Clip, sigmoids and their relatives."""

from __future__ import annotations

from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.ir.network import shape_of
from tpu_deploy.ir.top import UNBOUNDED


def _unary(node: Node, op: str, **attributes: Any) -> SSAValue:
    x = node.input()
    return node.emit(op, [x], shape_of(x), **attributes)


@converts("Relu")
def convert_relu(node: Node) -> SSAValue:
    """`top.Relu`."""
    return _unary(node, "top.Relu")


@converts("LeakyRelu")
def convert_leaky_relu(node: Node) -> SSAValue:
    """`top.LeakyRelu`."""
    return _unary(node, "top.LeakyRelu", alpha=float(node.attribute("alpha", 0.01)))


@converts("PRelu")
def convert_prelu(node: Node) -> SSAValue:
    """`top.PRelu` with one slope per channel (axis 1), shaped to broadcast; one slope for all is a `top.LeakyRelu`."""
    x = node.input()
    shape = shape_of(x)
    slope = node.constant(1, "its slope")
    if slope.size == 1:
        return node.emit("top.LeakyRelu", [x], shape, alpha=float(slope.reshape(())))
    if node.broadcast(slope.shape, shape) != shape:
        node.refuse(f"its slope of shape {slope.shape} does not broadcast to {shape}")
    wide = (1,) * (len(shape) - slope.ndim) + slope.shape
    if len(shape) < 2 or slope.size != wide[1]:
        node.unsupported(f"its slope of shape {slope.shape} varies along other axes than the channels")
    return node.emit("top.PRelu", [x, node.weight(slope.reshape(wide), 1)], shape)


@converts("Clip")
def convert_clip(node: Node) -> SSAValue:
    """`top.Clip` between constant bounds; an absent bound is the largest float32. No bounds: the input itself."""
    low, high = _bound(node, 1, "min", -UNBOUNDED), _bound(node, 2, "max", UNBOUNDED)
    if low <= -UNBOUNDED and high >= UNBOUNDED:
        return node.input()
    return _unary(node, "top.Clip", min=min(low, high), max=high)


def _bound(node: Node, index: int, name: str, absent: float) -> float:
    if not node.has(index):
        return absent
    value = float(node.constant(index, f"its bound {name}").reshape(-1)[0])
    if np.isnan(value):
        node.refuse(f"its bound {name} is NaN")
    return float(np.clip(value, -UNBOUNDED, UNBOUNDED))


@converts("Sigmoid")
def convert_sigmoid(node: Node) -> SSAValue:
    """`top.Sigmoid`."""
    return _unary(node, "top.Sigmoid")


@converts("Tanh")
def convert_tanh(node: Node) -> SSAValue:
    """`top.Tanh`."""
    return _unary(node, "top.Tanh")


@converts("Erf")
def convert_erf(node: Node) -> SSAValue:
    """`top.Erf`; x * (1 + erf(x / sqrt(2))) / 2 becomes a `top.GELU`."""
    return _unary(node, "top.Erf")


@converts("HardSigmoid")
def convert_hard_sigmoid(node: Node) -> SSAValue:
    """`top.HardSigmoid`."""
    alpha, beta = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    return _unary(node, "top.HardSigmoid", alpha=alpha, beta=beta)


@converts("HardSwish")
def convert_hard_swish(node: Node) -> SSAValue:
    """`top.HardSwish`."""
    return _unary(node, "top.HardSwish")


@converts("Swish")
def convert_swish(node: Node) -> SSAValue:
    """`top.SiLU`; x * sigmoid(alpha * x) is SiLU(alpha * x) / alpha."""
    alpha = float(node.attribute("alpha", 1.0))
    if alpha == 1:
        return _unary(node, "top.SiLU")
    if alpha == 0:
        return _unary(node, "top.MulConst", const_val=0.5)
    x = node.input()
    shape = shape_of(x)
    scaled = node.emit("top.MulConst", [x], shape, node.derived("scaled"), const_val=alpha)
    y = node.emit("top.SiLU", [scaled], shape, node.derived("silu"))
    return node.emit("top.MulConst", [y], shape, const_val=1 / alpha)


@converts("Mish")
def convert_mish(node: Node) -> SSAValue:
    """`top.Mish`."""
    return _unary(node, "top.Mish")


@converts("Softplus")
def convert_softplus(node: Node) -> SSAValue:
    """`top.Softplus`."""
    return _unary(node, "top.Softplus")


@converts("Elu")
def convert_elu(node: Node) -> SSAValue:
    """`top.Elu`."""
    return _unary(node, "top.Elu", alpha=float(node.attribute("alpha", 1.0)))


@converts("Gelu")
def convert_gelu(node: Node) -> SSAValue:
    """`top.GELU`, exact or approximated by tanh."""
    mode = node.attribute("approximate", "none")
    if mode not in ("none", "tanh"):
        node.refuse(f"approximate is {mode}")
    return _unary(node, "top.GELU", approx_mode="tanh" if mode == "tanh" else "normal")


@exports("top.Relu")
def export_relu(op: ExportedOperation) -> None:
    """Relu, or Clip from 0 to the limit."""
    if op["relu_limit"] < 0:
        op.emit("Relu", op.operands)
    else:
        op.emit("Clip", [*op.operands, op.constant(0.0), op.constant(float(op["relu_limit"]))])


@exports("top.Clip")
def export_clip(op: ExportedOperation) -> None:
    """Clip, without the bounds that stand for none."""
    low = op.constant(op["min"]) if op["min"] > -UNBOUNDED else ""
    high = [op.constant(op["max"])] if op["max"] < UNBOUNDED else []
    op.emit("Clip", [*op.operands, low, *high])


SAME_NAME = ("LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Erf", "HardSigmoid", "HardSwish", "Mish", "Softplus", "Elu")
"""Operations that ONNX has under the same name, with the same operands and those of these attributes that TOP has."""

ATTRIBUTES = ("alpha", "beta")


@exports(*(f"top.{name}" for name in SAME_NAME))
def export_same_name(op: ExportedOperation) -> None:
    """The ONNX operator of the same name."""
    attributes = {name: op[name] for name in ATTRIBUTES if name in op.attributes}
    op.emit(op.op.name.removeprefix("top."), op.operands, **attributes)


@exports("top.SiLU")
def export_silu(op: ExportedOperation) -> None:
    """Sigmoid and Mul."""
    gate = op.emit("Sigmoid", op.operands, [op.inner("sigmoid")])
    op.emit("Mul", [*op.operands, gate])


@exports("top.GELU")
def export_gelu(op: ExportedOperation) -> None:
    """Gelu."""
    op.emit("Gelu", op.operands, approximate="tanh" if op["approx_mode"] == "tanh" else "none")
