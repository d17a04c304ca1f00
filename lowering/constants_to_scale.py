"""BatchNorm, and arithmetic with constants that vary along the channels at most, become Scale, MulConst or AddConst."""

from __future__ import annotations

from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.affine import read_affine, write_affine

PLAIN = frozenset({"top.Scale", "top.MulConst", "top.AddConst"})


def constants_to_scale(network: Network) -> int:
    """The number of operations rewritten. Constants along other axes stay; their subtraction becomes an Add."""
    changed = 0
    for op in network.operations:
        found = None if op.name in PLAIN else read_affine(network, op)
        if found is None:
            continue
        x, affine = found
        is_plain = op.name in ("top.Add", "top.Mul") and affine.axis not in (None, 1)
        if not is_plain and write_affine(network, op, x, affine) is not None:
            changed += 1
    return changed
