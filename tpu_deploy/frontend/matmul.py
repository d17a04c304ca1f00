"""MatMul and Gemm with a constant factor."""

from __future__ import annotations

import math

import numpy as np
from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.frontend.tensors import Array
from tpu_deploy.ir.network import shape_of

TWO_ACTIVATIONS = "both factors are computed by the network, one must be constant"


@converts("MatMul")
def convert_matmul(node: Node) -> SSAValue:
    """`top.MatMul` with a weight (K, N) on the right; a constant on the left goes there, all transposed."""
    if node.is_constant(1):
        right, x = node.constant(1), node.input(0)
    elif node.is_constant(0):
        return _constant_on_the_left(node)
    else:
        node.unsupported(TWO_ACTIVATIONS)
    if math.prod(right.shape[:-2]) != 1:
        node.unsupported(f"its constant of shape {right.shape} holds several matrices, one can be compiled")
    matrix = right.reshape(*right.shape[-2:]) if right.ndim > 1 else right.reshape(-1, 1)
    shape = shape_of(x)
    wide = shape if len(shape) > 1 else (1, *shape)
    _check_inner(node, wide[-1], matrix)
    result = np.matmul(np.broadcast_to(np.float32(0), shape), np.broadcast_to(np.float32(0), right.shape)).shape
    product = (*wide[:-1], matrix.shape[1])
    exact = product == result
    y = node.emit(
        "top.MatMul",
        [node.reshaped(x, wide), node.weight(matrix, 1), node.absent()],
        product,
        None if exact else node.derived("product"),
    )
    return y if exact else node.reshaped(y, result, node.tensor)


def _constant_on_the_left(node: Node) -> SSAValue:
    """A @ x is transpose(transpose(x) @ transpose(A))."""
    left, x = node.constant(0), node.input(1)
    shape = shape_of(x)
    if left.ndim != 2 or len(shape) < 2:
        node.unsupported(f"a constant of shape {left.shape} times a tensor of shape {shape} cannot be compiled")
    _check_inner(node, shape[-2], left.T)
    turned = (*shape[:-2], shape[-1], shape[-2])
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    x = node.emit("top.Permute", [x], turned, node.derived("transposed"), order=order)
    product = (*shape[:-2], shape[-1], left.shape[0])
    y = node.emit("top.MatMul", [x, node.weight(left.T, 0), node.absent()], product, node.derived("product_transposed"))
    return node.emit("top.Permute", [y], (*shape[:-2], left.shape[0], shape[-1]), order=order)


def _check_inner(node: Node, inner: int, matrix: Array) -> None:
    if matrix.shape[0] != inner:
        node.refuse(f"its constant has {matrix.shape[0]} rows where the other factor has {inner} columns")


@converts("Gemm")
def convert_gemm(node: Node) -> SSAValue:
    """`top.MatMul` with alpha and beta in weight and bias; a C that is no row vector is added afterwards."""
    x = node.input(0)
    if len(shape_of(x)) != 2:
        node.refuse(f"its input has shape {shape_of(x)}, a matrix is needed")
    if not node.is_constant(1):
        node.unsupported(TWO_ACTIVATIONS)
    right = node.constant(1)
    matrix = _scaled(right.T if node.attribute("transB", 0) else right, float(node.attribute("alpha", 1.0)))
    rows, inner = shape_of(x)
    if node.attribute("transA", 0):
        rows, inner = inner, rows
        x = node.emit("top.Permute", [x], (rows, inner), node.derived("transposed"), order=[1, 0])
    _check_inner(node, inner, matrix)
    product = (rows, matrix.shape[1])
    operands = [x, node.weight(matrix, 1)]
    if not node.has(2) or node.attribute("beta", 1.0) == 0:
        return node.emit("top.MatMul", [*operands, node.absent()], product)
    return _with_addend(node, operands, product)


def _with_addend(node: Node, operands: list[SSAValue], product: tuple[int, int]) -> SSAValue:
    beta = float(node.attribute("beta", 1.0))
    if node.broadcast(node.shape(2), product) != product:
        node.refuse(f"C of shape {node.shape(2)} does not broadcast to {product}")
    if node.is_constant(2):
        addend = _scaled(node.constant(2), beta)
        if addend.size == 1 or addend.shape[-1] == addend.size == product[1]:
            bias = np.broadcast_to(addend.reshape(-1), product[1:])
            return node.emit("top.MatMul", [*operands, node.weight(bias, 2)], product)
        other = node.weight(addend, 2)
    else:
        other = node.input(2)
        if beta != 1:
            other = node.emit("top.MulConst", [other], shape_of(other), node.derived("addend"), const_val=beta)
    y = node.emit("top.MatMul", [*operands, node.absent()], product, node.derived("product"))
    return node.emit("top.Add", [y, other], product)


def _scaled(array: Array, factor: float) -> Array:
    with np.errstate(over="ignore"):  # the weight it becomes is checked
        return array if factor == 1 else np.asarray(array * np.float32(factor))


@exports("top.MatMul")
def export_matmul(op: ExportedOperation) -> None:
    """Gemm for matrices, MatMul and Add for tensors of more dimensions."""
    x, right, bias = op.operands
    if len(op.shape()) == 2:
        op.emit("Gemm", [x, right, bias] if bias else [x, right])
    elif bias:
        op.emit("Add", [op.emit("MatMul", [x, right], [op.inner("product")]), bias])
    else:
        op.emit("MatMul", [x, right])
