"""A Scale (a former BatchNorm, a constant factor, a constant added) behind Conv or MatMul goes into weight and bias."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.lowering.affine import Affine, read_affine
from tpu_deploy.lowering.rewriting import fresh_weight, has_relu, private_producer, rebuild, relu_of


def fold_scale_into_weights(network: Network) -> int:
    """The number of operations folded. A ReLU between, or another reader of the product, forbids it.

    Computed in float64, rounded to float32 once.
    """
    changed = 0
    for op in network.operations:
        found = read_affine(network, op)
        product = private_producer(found[0]) if found else None
        if found is None or product is None or product.name not in OUTPUT_AXES or has_relu(product):
            continue
        if found[1].along(_output_axis(product)) and network.weight(product.operands[1]) is not None:
            _fold(network, op, product, found[1])
            changed += 1
    return changed


OUTPUT_AXES = {"top.Conv": 1, "top.MatMul": -1}
"""The axis of the result that the output channels of the weight make."""


def _output_axis(product: Operation) -> int:
    return OUTPUT_AXES[product.name] % len(shape_of(product.results[0]))


def _fold(network: Network, op: Operation, product: Operation, affine: Affine) -> None:
    x, right, bias = product.operands
    weight = network.weight(right)
    assert weight is not None
    channels = shape_of(product.results[0])[_output_axis(product)]
    scale = np.broadcast_to(affine.scale, (channels,))
    columns = product.name == "top.MatMul" and not attributes_of(product)["right_transpose"]
    wide = scale if columns else scale.reshape(-1, *[1] * (weight.ndim - 1))
    old_bias = network.weight(bias)
    new_bias = affine.bias + (0 if old_bias is None else old_bias.reshape(-1) * scale)
    scaled = right if np.all(scale == 1) else fresh_weight(network, op, "weight", weight * wide)
    if np.any(new_bias):
        added = fresh_weight(network, op, "bias", np.broadcast_to(new_bias, (channels,)))
    else:
        added = network.absent(before=op)
    rebuild(network, op, product.name, [x, scaled, added], attributes_of(product) | relu_of(op))
