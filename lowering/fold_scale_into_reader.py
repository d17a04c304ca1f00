"""A constant factor in front of Conv or MatMul goes into the weight, and what is added too where no padding sees it."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.affine import Affine, read_affine
from tpu_deploy.lowering.rewriting import fresh_weight, has_relu, private_producer, rebuild

INPUT_AXES = {"top.Conv": 1, "top.MatMul": -1}
"""The axis of the operand that the input channels of the weight match."""


def fold_scale_into_reader(network: Network) -> int:
    """The number of operations folded. An operation with a ReLU or with another reader stays."""
    changed = 0
    for op in network.operations:
        weight = network.weight(op.operands[1]) if op.name in INPUT_AXES else None
        before = private_producer(op.operands[0]) if weight is not None else None
        found = read_affine(network, before) if before is not None and not has_relu(before) else None
        if weight is None or found is None or not _fits(op, found[1]):
            continue
        _fold(network, op, weight, *found)
        changed += 1
    return changed


def _fits(op: Operation, affine: Affine) -> bool:
    padded = op.name == "top.Conv" and any((*attributes_of(op)["pads"], *attributes_of(op)["inserts"]))
    plain = op.name == "top.Conv" or not attributes_of(op)["right_transpose"]
    return (
        plain
        and affine.along(INPUT_AXES[op.name] % len(shape_of(op.operands[0])))
        and not (padded and np.any(affine.bias))
    )


def _fold(network: Network, op: Operation, weight: Array, x: SSAValue, affine: Affine) -> None:
    channels = shape_of(x)[INPUT_AXES[op.name]]
    scale, offset = (np.broadcast_to(v, (channels,)) for v in (affine.scale, affine.bias))
    exact = weight.astype(np.float64)
    if op.name == "top.Conv":
        group = attributes_of(op)["group"]
        rows = np.arange(len(weight)) // (len(weight) // group)
        scaled = exact * scale.reshape(group, -1)[rows][:, :, None, None]
        added = np.einsum("oihw,oi->o", exact, offset.reshape(group, -1)[rows])
    else:
        scaled, added = exact * scale[:, None], offset @ exact
    old_bias = network.weight(op.operands[2])
    operands = [x, fresh_weight(network, op, "weight", scaled), op.operands[2]]
    if np.any(added):
        operands[2] = fresh_weight(network, op, "bias", added + (0 if old_bias is None else old_bias))
    rebuild(network, op, op.name, operands, attributes_of(op))
