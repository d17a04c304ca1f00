"""Where a plan may give the channels of a tensor factors of their own."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, is_absent, name_of, shape_of
from tpu_deploy.lowering.activation import is_unary
from tpu_deploy.quant.plan import INTEGER_PRODUCTS, QuantizationPlan, TensorQuantization

PASSING = frozenset(f"top.{name}" for name in ("Add", "Sub", "MaxPool", "AvgPool", "Reshape", "Squeeze", "Unsqueeze"))
"""Operations whose results have the factors of all their operands."""


def check_factors(network: Network, plan: QuantizationPlan) -> None:
    """Raises BadInput naming the first tensor whose factors an operation can neither absorb nor pass on.

    Products absorb those of what they read into their weights, and those of what they make into their multipliers;
    tables hold a row for each channel, and casts from and to floats scale each channel by itself. Other INT8 operations
    leave them as they are, so their results have those of their operands.
    """
    if not any(t.factors for t in plan.tensors.values()):
        return
    for value in [*network.inputs, *network.outputs]:
        if plan.tensors[name_of(value)].factors:
            raise BadInput(f"quantization plan: {name_of(value)}: an input or output has no factors of its channels")
    for op in network.operations:
        for value in [*_read(network, op), *op.results]:
            if plan.tensors[name_of(value)].factors and not _carries(network, plan, op, value):
                raise BadInput(
                    f"quantization plan: {name_of(value)}: its factors suit not {name_of(op)} "
                    f"({op.name.removeprefix('top.')}), which is its maker or reader"
                )


def _read(network: Network, op: Operation) -> list[SSAValue]:
    return [v for v in op.operands if network.weight(v) is None and not is_absent(v)]


def _carries(network: Network, plan: QuantizationPlan, op: Operation, value: SSAValue) -> bool:
    kind, shape, result = plan.tensors[name_of(value)], shape_of(value), op.results[0]
    if shape[kind.axis : kind.axis + 1] != (len(kind.factors),):
        return False
    if plan.operations[name_of(op)] != "INT8" or (value is result and plan.made_in(name_of(op)) != "INT8"):
        return True
    if op.name == "top.MatMul":
        return kind.axis == len(shape) - 1
    if op.name in INTEGER_PRODUCTS or is_unary(network, op):
        return kind.axis == 1
    if op.name == "top.Mul":
        scaled = [v for v in _read(network, op) if plan.tensors[name_of(v)].factors]
        if kind.axis != 1 and len(_read(network, op)) == 1:
            return False
        return len(scaled) == 1 and shape_of(scaled[0]) == shape_of(result) and _same(plan, [*scaled, result], kind)
    upto = kind.axis + 1
    return (
        op.name in PASSING
        and _same(plan, [*_read(network, op), result], kind)
        and all(shape_of(v)[:upto] == shape[:upto] for v in [*_read(network, op), result])
    )


def _same(plan: QuantizationPlan, values: list[SSAValue], kind: TensorQuantization) -> bool:
    types = [plan.tensors[name_of(v)] for v in values]
    return all((t.factors, t.axis) == (kind.factors, kind.axis) for t in types)
