"""Which tensors can have factors of their channels, and which of them must have the same."""

from __future__ import annotations

from collections.abc import Callable, Collection

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, is_absent, name_of, shape_of
from tpu_deploy.quant.plan import INTEGER_PRODUCTS, QuantizationPlan
from tpu_deploy.quant.ties import Groups

PASSING = frozenset(f"top.{name}" for name in ("Add", "Sub", "MaxPool", "AvgPool", "Reshape", "Squeeze", "Unsqueeze"))
"""Operations whose results have the factors of all their operands."""


def operands_of(network: Network, op: Operation) -> list[SSAValue]:
    """The operands that are neither constant nor absent."""
    return [v for v in op.operands if network.weight(v) is None and not is_absent(v)]


def channel_axis(value: SSAValue) -> int | None:
    """The axis of a value's channels: the last where matrix products make or read it, else the second."""
    rank = len(shape_of(value))
    if rank < 2:
        return None
    makers = [value.owner] if isinstance(value.owner, Operation) else []
    near = {op.name for op in [*makers, *(use.operation for use in value.uses)]}
    return rank - 1 if "top.MatMul" in near else 1


def factor_groups(network: Network, plan: QuantizationPlan, is_table: Callable[[Operation], bool]) -> list[list[str]]:
    """Names of tensors that may have factors, those together that must have the same, in the order of the network.

    Products and tables (`is_table`) absorb factors on either side; PASSING operations hand them on, and so do products
    of a tensor with one that has none. Casts from and to floats take them in. Whatever any other operation touches has
    none, nor have inputs and outputs.
    """
    values = {name_of(v): v for v in network.values()}
    groups = Groups(values)
    fixed = {name_of(v) for v in [*network.inputs, *network.outputs]}
    fixed |= {name for name, value in values.items() if channel_axis(value) is None}
    for op in network.operations:
        read = operands_of(network, op)
        names = [name_of(v) for v in [*read, *op.results]]
        if plan.operations[name_of(op)] != "INT8":
            continue
        if (op.name in INTEGER_PRODUCTS and len(read) == 1) or is_table(op):
            wanted = {n: len(shape_of(values[n])) - 1 if op.name == "top.MatMul" else 1 for n in names}
            fixed.update(n for n in names if channel_axis(values[n]) != wanted[n])
        elif op.name == "top.Mul":
            gates = _gates(op, read)
            handing = [v for v in read if name_of(v) not in gates]
            axes = {channel_axis(v) for v in [*handing, *op.results]}
            is_free = handing and len(axes) == 1 and (axes == {1} or len(read) > 1)
            fixed.update(gates if is_free else names)
            _tie(groups, handing, op)
        elif op.name in PASSING and _keeps_channels(op, read):
            _tie(groups, read, op)
        else:
            fixed.update(names)
    free = [n for n in values if plan.tensors[n].is_quantized]
    sets: dict[str, list[str]] = {}
    for name in free:
        sets.setdefault(groups.find(name), []).append(name)
    bound = {groups.find(name) for name in fixed} | {groups.find(n) for n in values if not plan.tensors[n].is_quantized}
    return [members for root, members in sets.items() if root not in bound]


def around_convolutions(network: Network, group: Collection[str]) -> bool:
    """Whether a convolution makes or reads any tensor of a group: cross-layer equalization where one does, else
    what SmoothQuant calls migration.
    """
    touched = [op for op in network.operations if op.name in ("top.Conv", "top.Scale")]
    return any(name_of(v) in group for op in touched for v in [*operands_of(network, op), *op.results])


def _tie(groups: Groups, read: list[SSAValue], op: Operation) -> None:
    for value in read:
        groups.join(name_of(value), name_of(op))


def _gates(op: Operation, read: list[SSAValue]) -> set[str]:
    """Factors of a product that are not the one tensor of the result's shape, which hands its channels' factors on.

    A tensor times itself is one: it would hand on their squares.
    """
    whole = next((k for k, v in enumerate(read) if shape_of(v) == shape_of(op.results[0])), None)
    return {name_of(v) for k, v in enumerate(read) if k != whole}


def _keeps_channels(op: Operation, read: list[SSAValue]) -> bool:
    values = [*read, *op.results]
    axes = {channel_axis(v) for v in values}
    if len(axes) > 1 or None in axes:
        return False
    upto = (axes.pop() or 0) + 1
    return len({shape_of(v)[:upto] for v in values}) == 1
