"""Chains of Reshape, Squeeze and Unsqueeze become one Reshape, chains of Permute one Permute."""

from __future__ import annotations

from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.lowering.rewriting import producer, rebuild

RESHAPES = frozenset({"top.Reshape", "top.Squeeze", "top.Unsqueeze"})


def merge_reshapes(network: Network) -> int:
    """The number of operations merged or respelled. A value between that others read stays for them."""
    changed = 0
    for op in network.operations:
        if op.name == "top.Permute" and _moves_only_ones(op):
            rebuild(network, op, "top.Reshape", op.operands, {"shape": shape_of(op.results[0])})
        elif op.name == "top.Permute" and (before := producer(op.operands[0])) and before.name == "top.Permute":
            first = attributes_of(before)["order"]
            order = [first[a] for a in attributes_of(op)["order"]]
            rebuild(network, op, "top.Permute", before.operands, {"order": order})
        elif op.name in RESHAPES and (before := producer(op.operands[0])) and before.name in RESHAPES:
            rebuild(network, op, "top.Reshape", before.operands, {"shape": shape_of(op.results[0])})
        elif op.name in ("top.Squeeze", "top.Unsqueeze"):
            rebuild(network, op, "top.Reshape", op.operands, {"shape": shape_of(op.results[0])})
        else:
            continue
        changed += 1
    return changed


def _moves_only_ones(op: Operation) -> bool:
    """Whether the axes of more than one element keep their order."""
    shape = shape_of(op.operands[0])
    kept = [a for a in attributes_of(op)["order"] if shape[a] != 1]
    return kept == sorted(kept)
