"""The precision each operation gets: the one asked for, or F32 where INT8 does not suit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

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
    for cluster in movements(network, found):
        found |= dict.fromkeys(cluster.inside, cluster.precision(found, made))
    return {name_of(op): found[name_of(op)] for op in network.operations}


@dataclass(frozen=True)
class Movements:
    """Movements that touch each other, and so have one precision: the names of the operations `inside`.

    `makers` compute what they read, `readers` read what they make, `siblings` read what they read.
    """

    inside: frozenset[str]
    makers: frozenset[str]
    readers: frozenset[str]
    siblings: frozenset[str]

    def precision(self, computed: Mapping[str, str], made: Mapping[str, str]) -> str:
        """The precision that follows from those which the others compute in, and make their results in."""
        makers = {made[name] for name in self.makers}
        readers = {computed[name] for name in self.readers}
        touching = makers | readers | {computed[name] for name in self.siblings}
        passes_floats = makers & FLOATS.keys() and readers & FLOATS.keys()
        if "INT8" in touching and not passes_floats:
            return "INT8"
        return next((precision for precision in FLOATS if precision in touching), "F32")


def movements(network: Network, settled: Collection[str] = ()) -> list[Movements]:
    """The movements of a network whose precision is not `settled`, those together that touch each other."""
    waiting = {name_of(op): op for op in network.operations if op.name in MOVEMENTS and name_of(op) not in settled}
    found = []
    while waiting:
        _, first = waiting.popitem()
        cluster, front = [first], [first]
        while front:
            op = front.pop()
            for neighbour in [*_makers(op), *_readers(op), *_siblings(network, op)]:
                if waiting.pop(name_of(neighbour), None) is not None:
                    cluster.append(neighbour)
                    front.append(neighbour)
        inside = _names(cluster)
        makers = {name for op in cluster for name in _names(_makers(op)) - inside}
        readers = {name for op in cluster for name in _names(_readers(op)) - inside}
        siblings = {name for op in cluster for name in _names(_siblings(network, op)) - inside}
        found.append(Movements(frozenset(inside), frozenset(makers), frozenset(readers), frozenset(siblings)))
    return found


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
