"""Operations that change nothing disappear."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.lowering.clamp import read_clamp
from tpu_deploy.lowering.rewriting import has_relu, replace


def remove_no_ops(network: Network) -> int:
    """The number of operations removed. Where one made an output, the output is the value it read."""
    changed = 0
    for op in network.operations:
        rule = RULES.get(op.name)
        if rule is not None and not has_relu(op) and rule(op):
            replace(network, op, op.operands[0])
            changed += 1
    return changed


def _keeps_shape(op: Operation) -> bool:
    return shape_of(op.operands[0]) == shape_of(op.results[0])


def _slices_all(op: Operation) -> bool:
    return _keeps_shape(op) and all(s > 0 for s in attributes_of(op)["steps"])


def _keeps_order(op: Operation) -> bool:
    order = attributes_of(op)["order"]
    return bool(order == sorted(order))


def _clips_nothing(op: Operation) -> bool:
    interval = read_clamp(op)
    return interval is not None and interval.is_everything


RULES: dict[str, Callable[[Operation], bool]] = {
    "top.Reshape": _keeps_shape,
    "top.Pad": _keeps_shape,
    "top.Slice": _slices_all,
    "top.Permute": _keeps_order,
    "top.Clip": _clips_nothing,
    "top.Concat": lambda op: len(op.operands) == 1,
    "top.Split": lambda op: len(op.results) == 1,
    "top.MulConst": lambda op: bool(attributes_of(op)["const_val"] == 1),
    "top.AddConst": lambda op: bool(attributes_of(op)["const_val"] == 0),
}
"""When an operation changes nothing."""
