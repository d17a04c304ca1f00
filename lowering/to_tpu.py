"""TOP to TPU: the integer arithmetic of a planned network."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.lowering import activation, conv, elementwise, matmul, norm, pool, shape, softmax
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.channel_factors import check_factors
from tpu_deploy.lowering.registry import RULES, reason
from tpu_deploy.quant.plan import PRECISIONS, QuantizationPlan

FAMILIES = (activation, conv, elementwise, matmul, norm, pool, shape, softmax)
"""The files whose import fills the table of rules."""


@dataclass(frozen=True)
class Refused:
    """An operation that cannot be lowered: its name, its TOP operation, and why."""

    name: str
    operation: str
    reason: str


def supported_operations() -> dict[str, tuple[str, ...]]:
    """TOP operations that can be lowered, with the precisions each is available in, sorted."""
    found: dict[str, tuple[str, ...]] = {}
    for name, precision in sorted(RULES, key=lambda key: (key[0], PRECISIONS.index(key[1]))):
        found[name] = (*found.get(name, ()), precision)
    return found


def refusals(network: Network, plan: QuantizationPlan | None = None) -> list[Refused]:
    """All operations of a canonical TOP network that `lower_to_tpu` would refuse; without a plan, in any precision."""
    found = []
    for op in network.operations:
        name = name_of(op)
        planned = PRECISIONS if plan is None else (plan.operations[name],)
        rules = [RULES[op.name, p] for p in planned if (op.name, p) in RULES]
        if not rules:
            found.append(Refused(name, op.name, f"there is no {' or '.join(planned)} form of it"))
        for rule in rules[:1]:
            found += [Refused(name, op.name, reason(r)) for r in rule.refusals if r(network, op)][:1]
    return found


def lower_to_tpu(
    network: Network, plan: QuantizationPlan, chip: str = "bm1684x", quantized_io: bool = False
) -> Network:
    """The TPU network that computes `network` (canonical TOP, left as it is) with the types and precisions of `plan`.

    Values keep their TOP names; casts and other helpers get derived ones. Inputs and outputs are float32, or with
    `quantized_io` have the planned types. Raises BadInput naming every operation that has no lowering.
    """
    refused = refusals(network, plan)
    if refused:
        listed = "; ".join(f"{r.name} ({r.operation.removeprefix('top.')}): {r.reason}" for r in refused)
        raise BadInput(f"{network.name}: cannot be lowered to {chip}: {listed}")
    check_factors(network, plan)
    builder = Builder(network, plan, chip, quantized_io)
    for op in network.operations:
        RULES[op.name, plan.operations[name_of(op)]].lower(builder, op)
    return builder.finish()
