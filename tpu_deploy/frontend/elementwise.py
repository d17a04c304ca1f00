"""Arithmetic of two or more tensors with broadcasting; a constant operand becomes a weight or an attribute."""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.frontend.tensors import Array
from tpu_deploy.ir.network import shape_of
from tpu_deploy.ir.top import UNBOUNDED

FLOATS = frozenset({1, 10, 11, 16})
"""ONNX element types that are computed in float32: float, float16, double, bfloat16."""


def _dynamic_side(node: Node) -> int | None:
    """0 or 1 for the operand that is computed by the network, None when both are."""
    constants = [node.is_constant(i) for i in (0, 1)]
    return None if not any(constants) else constants.index(False)


def _widened(node: Node, x: SSAValue, constant: Array) -> SSAValue:
    """`x` with the rank that broadcasting against `constant` gives it."""
    shape = shape_of(x)
    missing = constant.ndim - len(shape)
    return node.reshaped(x, (1,) * missing + shape) if missing > 0 else x


def _binary(node: Node, op: str) -> SSAValue:
    left, right = node.input(0), node.input(1)
    return node.emit(op, [left, right], node.broadcast(shape_of(left), shape_of(right)))


@converts("Add", "Sum")
def convert_add(node: Node) -> SSAValue:
    """`top.Add` of all operands, or `top.AddConst` for one and a number."""
    count = len(node.proto.input)
    if count == 1:
        return node.input()
    side = _dynamic_side(node) if count == 2 else None
    if side is not None and node.constant(1 - side).size == 1:
        return _add_number(node, node.input(side), node.constant(1 - side))
    values = node.inputs
    return node.emit("top.Add", values, node.broadcast(*(shape_of(v) for v in values)))


def _add_number(node: Node, x: SSAValue, number: Array) -> SSAValue:
    x = _widened(node, x, number)
    return node.emit("top.AddConst", [x], shape_of(x), const_val=node.number(number))


@converts("Sub")
def convert_sub(node: Node) -> SSAValue:
    """`top.Sub`, or `top.SubConst` for a tensor and a number."""
    side = _dynamic_side(node)
    if side is None or node.constant(1 - side).size != 1:
        return _binary(node, "top.Sub")
    number = node.constant(1 - side)
    x = _widened(node, node.input(side), number)
    return node.emit("top.SubConst", [x], shape_of(x), const_val=node.number(number), is_reverse=side == 1)


@converts("Mul")
def convert_mul(node: Node) -> SSAValue:
    """`top.Mul`, or `top.MulConst` for a tensor and a number."""
    side = _dynamic_side(node)
    if side is None or node.constant(1 - side).size != 1:
        return _binary(node, "top.Mul")
    return _times_number(node, node.input(side), node.constant(1 - side))


def _times_number(node: Node, x: SSAValue, number: Array) -> SSAValue:
    x = _widened(node, x, number)
    return node.emit("top.MulConst", [x], shape_of(x), const_val=node.number(number))


@converts("Pow")
def convert_pow(node: Node) -> SSAValue:
    """The input for the exponent 1, products of it for 2 and 3; others are unsupported."""
    exponents = node.constant(1, "its exponent")
    if exponents.size != 1:
        node.unsupported(f"its exponent of shape {exponents.shape} is no single number")
    exponent = node.number(exponents)
    x = _widened(node, node.input(0), exponents)
    shape = shape_of(x)
    if exponent == 1:
        return x
    if exponent == 2:
        return node.emit("top.Mul", [x, x], shape)
    if exponent == 3:
        return node.emit("top.Mul", [node.emit("top.Mul", [x, x], shape, node.derived("square")), x], shape)
    node.unsupported(f"its exponent is {exponent:g}; only 1, 2 and 3 are supported")


@converts("Div")
def convert_div(node: Node) -> SSAValue:
    """The product with the reciprocal of a constant divisor."""
    divisor = node.constant(1, "its divisor")
    x = node.input(0)
    if not np.all(divisor):
        node.refuse("its divisor holds a zero")
    reciprocal = np.asarray(1 / divisor.astype(np.float64), np.float32)
    if divisor.size == 1:
        return _times_number(node, x, reciprocal)
    shape = node.broadcast(shape_of(x), divisor.shape)
    return node.emit("top.Mul", [x, node.weight(reciprocal, suffix="reciprocal")], shape)


@converts("Neg")
def convert_neg(node: Node) -> SSAValue:
    """`top.MulConst` by -1."""
    x = node.input()
    return node.emit("top.MulConst", [x], shape_of(x), const_val=-1.0)


@converts("Max", "Min")
def convert_max_min(node: Node) -> SSAValue:
    """`top.Clip` of one tensor by a number."""
    if len(node.proto.input) == 1:
        return node.input()
    side = _dynamic_side(node) if len(node.proto.input) == 2 else None
    if side is None or node.constant(1 - side).size != 1:
        node.unsupported("only a tensor and one number can be compared")
    number = node.constant(1 - side)
    x = _widened(node, node.input(side), number)
    bound = node.number(number)
    low, high = (bound, UNBOUNDED) if node.op_type == "Max" else (-UNBOUNDED, bound)
    return node.emit("top.Clip", [x], shape_of(x), min=low, max=high)


@converts("Cast")
def convert_cast(node: Node) -> SSAValue:
    """The input itself: floating-point types are all computed in float32."""
    if node.attribute("to") not in FLOATS:
        node.unsupported("it makes integers of computed values")
    return node.input()


@exports("top.Add")
def export_add(op: ExportedOperation) -> None:
    """Add, or Sum of more than two, each times its coefficient."""
    terms = op.operands
    if op["coeff"] is not None:
        factors = [op.constant(float(c)) for c in op["coeff"]]
        terms = [op.emit("Mul", pair, [op.inner("term")]) for pair in zip(terms, factors, strict=True)]
    op.emit("Add" if len(terms) == 2 else "Sum", terms)


@exports("top.Sub")
def export_sub(op: ExportedOperation) -> None:
    """Sub."""
    op.emit("Sub", op.operands[::-1] if op["is_reverse"] else op.operands)


@exports("top.Mul")
def export_mul(op: ExportedOperation) -> None:
    """Mul, one for each operand after the first."""
    first, *rest = op.operands
    for other in rest[:-1]:
        first = op.emit("Mul", [first, other], [op.inner("product")])
    op.emit("Mul", [first, rest[-1]])


@exports("top.AddConst", "top.MulConst", "top.SubConst")
def export_with_number(op: ExportedOperation) -> None:
    """Add, Mul or Sub with a number."""
    operands = [*op.operands, op.constant(float(op["const_val"]))]
    if op.op.name == "top.SubConst" and op["is_reverse"]:
        operands.reverse()
    op.emit(op.op.name.removeprefix("top.").removesuffix("Const"), operands)
