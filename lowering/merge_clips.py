"""Chains of Clip and Relu become one operation, a Relu where the interval begins at 0."""

from __future__ import annotations

from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.clamp import read_clamp
from tpu_deploy.lowering.rewriting import private_producer, rebuild


def merge_clips(network: Network) -> int:
    """The number of operations merged or respelled. Another reader of the value between forbids a merge."""
    changed = 0
    for op in network.operations:
        interval = read_clamp(op)
        if interval is None:
            continue
        x = op.operands[0]
        before = private_producer(x)
        first = read_clamp(before) if before is not None else None
        if before is not None and first is not None:
            interval, x = interval.after(first), before.operands[0]
        name, attributes = interval.operation()
        if first is not None or name != op.name:
            rebuild(network, op, name, [x], attributes)
            changed += 1
    return changed
