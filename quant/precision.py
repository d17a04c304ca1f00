"""The precision each operation gets: the one asked for, or F32 where INT8 does not suit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xdsl.ir import Operation

from tpu_deploy.ir.network import STRUCTURAL, Network, is_absent, name_of
from tpu_deploy.quant.plan import FLOATS
from tpu_deploy.quant.ties import MOVEMENTS

FLOAT_ONLY = frozenset({"top.Softmax"})
"""Operations kept in float32: normalized exponentials need more than 256 levels, and are computed in float32 anyway."""


def precisions_of(
    network: Network,
    default: str = "INT8",
    chosen: Mapping[str, str] | None = None,
    results: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Precision by operation name: the `chosen` one, else `default`; F32 for FLOAT_ONLY.

    `results` names INT8 operations whose results are floats. Movements that are not chosen follow their neighbours,
    through other movements too: INT8 where there is an INT8 operation among them, unless the data also go from float to
    float, which would lose them bits; then, and where no neighbour is INT8, the float precision of fewest bits among
    them. Movements that no operation touches are F32.
    """
    wanted = chosen or {}
    found = {
        name_of(op): wanted.get(name_of(op), "F32" if op.name in FLOAT_ONLY else default)
        for op in network.operations
        if op.name not in MOVEMENTS or name_of(op) in wanted
    }
    made = found | dict(results or {})
    for cluster in _clusters_of_movements(network, found):
        inside = {name_of(op) for op in cluster}
        makers = {made[n] for op in cluster for n in _names(_makers(op)) - inside}
        readers = {found[n] for op in cluster for n in _names(_readers(op)) - inside}
        siblings = {found[n] for op in cluster for n in _names(_siblings(network, op)) - inside}
        precision = _following(makers, readers, siblings)
        found |= dict.fromkeys(inside, precision)
        made |= dict.fromkeys(inside, precision)
    return {name_of(op): found[name_of(op)] for op in network.operations}


def _following(makers: set[str], readers: set[str], siblings: set[str]) -> str:
    """The precision of movements from `makers` to `readers` that share what they read with `siblings`."""
    touching = makers | readers | siblings
    passes_floats = makers & FLOATS.keys() and readers & FLOATS.keys()
    if "INT8" in touching and not passes_floats:
        return "INT8"
    return next((precision for precision in FLOATS if precision in touching), "F32")


def _names(operations: Iterable[Operation]) -> set[str]:
    return {name_of(op) for op in operations}


def _makers(op: Operation) -> list[Operation]:
    owners = [v.owner for v in op.operands]
    return [o for o in owners if isinstance(o, Operation) and o.name not in STRUCTURAL]


def _readers(op: Operation) -> list[Operation]:
    return [use.operation for v in op.results for use in v.uses if use.operation.name not in STRUCTURAL]


def _siblings(network: Network, op: Operation) -> list[Operation]:
    """The other readers of what `op` reads."""
    shared = [v for v in op.operands if network.weight(v) is None and not is_absent(v)]
    return [use.operation for v in shared for use in v.uses if use.operation.name not in STRUCTURAL]


def _clusters_of_movements(network: Network, settled: Mapping[str, str]) -> list[list[Operation]]:
    """Movements whose precision is not settled, those together that touch each other."""
    waiting = {name_of(op): op for op in network.operations if name_of(op) not in settled}
    clusters = []
    while waiting:
        _, first = waiting.popitem()
        cluster, front = [first], [first]
        while front:
            op = front.pop()
            for neighbour in [*_makers(op), *_readers(op), *_siblings(network, op)]:
                if waiting.pop(name_of(neighbour), None) is not None:
                    cluster.append(neighbour)
                    front.append(neighbour)
        clusters.append(cluster)
    return clusters
