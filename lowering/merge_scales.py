"""Chains of Scale, MulConst, AddConst and their relatives become one operation."""

from __future__ import annotations

from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.affine import read_affine, write_affine
from tpu_deploy.lowering.rewriting import has_relu, private_producer


def merge_scales(network: Network) -> int:
    """The number of pairs merged. A ReLU between the two, or another reader of the value between, forbids it."""
    changed = 0
    for op in network.operations:
        second = read_affine(network, op)
        before = private_producer(second[0]) if second else None
        first = read_affine(network, before) if before is not None and not has_relu(before) else None
        if second is None or first is None:
            continue
        both = second[1].after(first[1])
        if both is not None and write_affine(network, op, first[0], both) is not None:
            changed += 1
    return changed
