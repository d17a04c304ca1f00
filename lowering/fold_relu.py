"""A Relu becomes part of the operation before it (`do_relu`, `relu_limit`)."""

from __future__ import annotations

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.clamp import read_clamp, read_relu
from tpu_deploy.lowering.rewriting import private_producer, rebuild

CARRIERS = frozenset(
    {
        "top.Conv",
        "top.MatMul",
        "top.Scale",
        "top.Add",
        "top.Sub",
        "top.Mul",
        "top.AddConst",
        "top.SubConst",
        "top.MulConst",
    }
)
"""Operations whose last step saturates anyway, so that a ReLU costs nothing."""


def fold_relu(network: Network) -> int:
    """The number of operations folded; never across a value that the network returns or that is read elsewhere too."""
    changed = 0
    for op in network.operations:
        interval = read_clamp(op)
        before = private_producer(op.operands[0]) if interval is not None and interval.is_relu else None
        if interval is None or before is None or before.name not in CARRIERS:
            continue
        first = read_relu(before)
        whole = interval.after(first) if first is not None else interval
        attributes = attributes_of(before) | {"do_relu": True, "relu_limit": whole.relu_limit}
        rebuild(network, op, before.name, list(before.operands), attributes)
        changed += 1
    return changed
