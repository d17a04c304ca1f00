"""Matrix products with constant right sides, per output column."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.registry import lowers


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


@lowers("MatMul", refuse=(has_computed_right, has_several_matrices, has_unusual_layout, has_row_bias))
def matrix_product(builder: Builder, op: Operation) -> None:
    """A `tpu.MatMul` of (..., K) with (K, N) whose saturation is the ReLU."""
    right = builder.constant(op.operands[1])
    assert right is not None
    matrix: Array = right.reshape(right.shape[-2:]) if right.ndim > 1 else right.reshape(-1, 1)
    columns = int(matrix.shape[1])
    bias = builder.constant(op.operands[2])
    offsets = None if bias is None else np.broadcast_to(bias.reshape(-1), (columns,))
    integers = builder.integers(op, matrix, offsets, 1, builder.quantization(op.operands[0]))
    operands = [builder.operand(op), *builder.weights(op, "right", integers)]
    rows = shape_of(op.operands[0])[:-1]
    builder.produce(op, "tpu.MatMul", operands, shape=(*rows, columns))
