"""The precision each operation gets: INT8, or F32 where INT8 does not suit."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.quant.ties import MOVEMENTS

FOLLOWERS = MOVEMENTS - {"top.Pad"}
"""Movements that work in any precision."""

FLOAT_ONLY = frozenset({"top.Softmax"})
"""Operations kept in float32: normalized exponentials need more than 256 levels."""


def precisions_of(network: Network) -> dict[str, str]:
    """Precision by operation name.

    Movements follow their neighbours: those that no INT8 operation touches, even through other movements, are F32.
    """
    found = {
        name_of(op): "F32" if op.name in FLOAT_ONLY else "INT8" for op in network.operations if op.name not in FOLLOWERS
    }
    for cluster in _clusters_of_movements(network):
        touched = {name_of(n) for op in cluster for n in _neighbours(network, op) if n.name not in FOLLOWERS}
        precision = "INT8" if any(found[n] == "INT8" for n in touched) else "F32"
        found |= {name_of(op): precision for op in cluster}
    return {name_of(op): found[name_of(op)] for op in network.operations}


def _neighbours(network: Network, op: Operation) -> list[Operation]:
    """The operations that make an operand of `op` or read any value `op` reads or makes."""
    values: list[SSAValue] = [*op.results, *(v for v in op.operands if network.weight(v) is None)]
    readers = [use.operation for v in values for use in v.uses if use.operation.name != "func.return"]
    makers = [v.owner for v in op.operands if isinstance(v.owner, Operation)]
    structural = ("top.Input", "top.Weight", "top.None")
    return [n for n in [*makers, *readers] if n.name not in structural and n is not op]


def _clusters_of_movements(network: Network) -> list[list[Operation]]:
    waiting = {name_of(op): op for op in network.operations if op.name in FOLLOWERS}
    clusters = []
    while waiting:
        _, first = waiting.popitem()
        cluster, front = [first], [first]
        while front:
            for neighbour in _neighbours(network, front.pop()):
                if waiting.pop(name_of(neighbour), None) is not None:
                    cluster.append(neighbour)
                    front.append(neighbour)
        clusters.append(cluster)
    return clusters
