"""Matrix products with constant right sides: integers per output column, or in floating point."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.lowering.rewriting import relu_of
from tpu_deploy.quant.plan import FLOATS


def has_computed_right(network: Network, op: Operation) -> bool:
    """its right operand or bias is computed; only constant ones are supported"""
    return any(network.weight(v) is None and not is_absent(v) for v in op.operands[1:])


def has_several_matrices(network: Network, op: Operation) -> bool:
    """its right operand is a stack of several matrices"""
    return any(n != 1 for n in shape_of(op.operands[1])[:-2])


def has_unusual_layout(network: Network, op: Operation) -> bool:
    """its operands or result are transposed in a way that is not supported"""
    attributes = attributes_of(op)
    return any(attributes[name] for name in ("left_transpose", "right_transpose", "output_transpose", "hdim_is_batch"))


def has_row_bias(network: Network, op: Operation) -> bool:
    """its bias differs between rows"""
    bias = op.operands[2]
    return not is_absent(bias) and any(n != 1 for n in shape_of(bias)[:-1])


REFUSALS = (has_computed_right, has_several_matrices, has_unusual_layout, has_row_bias)


def _matrices(builder: Builder, op: Operation) -> tuple[Array, Array | None]:
    """The right side (K, N), and the bias (N) if there is one."""
    right, bias = builder.constant(op.operands[1]), builder.constant(op.operands[2])
    assert right is not None
    matrix: Array = right.reshape(right.shape[-2:]) if right.ndim > 1 else right.reshape(-1, 1)
    return matrix, None if bias is None else np.broadcast_to(bias.reshape(-1), (matrix.shape[1],))


@lowers("MatMul", refuse=REFUSALS)
def matrix_product(builder: Builder, op: Operation) -> None:
    """A `tpu.MatMul` of (..., K) with (K, N) whose saturation is the ReLU, or a `tpu.DequantizedMatMul`."""
    matrix, bias = _matrices(builder, op)
    integers = builder.integers(op, matrix, bias, 1, builder.quantization(op.operands[0]))
    operands = [builder.operand(op), *builder.weights(op, "right", integers)]
    shape = (*shape_of(op.operands[0])[:-1], matrix.shape[1])
    if builder.is_made_float(op):
        builder.produce(op, "tpu.DequantizedMatMul", operands, relu_of(op), shape=shape)
    else:
        builder.produce(op, "tpu.MatMul", operands, shape=shape)


@lowers("MatMul", *FLOATS, refuse=REFUSALS)
def float_matrix_product(builder: Builder, op: Operation) -> None:
    """A `tpu.FloatMatMul` of (..., K) with (K, N)."""
    matrix, bias = _matrices(builder, op)
    offsets = np.zeros(matrix.shape[1], np.float32) if bias is None else bias.astype(np.float32)
    operands = [builder.float_weight(op, "right", matrix), builder.weight(op, "bias", offsets)]
    shape = (*shape_of(op.operands[0])[:-1], matrix.shape[1])
    builder.produce(op, "tpu.FloatMatMul", [builder.operand(op), *operands], relu_of(op), shape=shape)
