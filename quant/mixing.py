"""Mixtures of a plan: what it has in INT8 computed in float instead, wherever a scheme says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.quant.plan import ChosenWeights, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.precision import FLOAT_ONLY, precisions_of
from tpu_deploy.quant.scheme import Scheme, check_precisions, float_type, quantized_values
from tpu_deploy.quant.ties import MOVEMENTS


def mixed_plan(network: Network, plan: QuantizationPlan, scheme: Scheme) -> QuantizationPlan:
    """`plan` with what `scheme` names in its precisions, and everything else as it was planned.

    The scheme's own precision is that of all operations it does not name, INT8 meaning the plan's. What stays in 8 bits
    keeps its type, factors of channels and zero point included: a cast takes them in where a float operation makes or
    reads it. Operations that stay INT8 keep their weights, those that become floats drop them; sums that become floats
    lose the factors of the result, and nothing else. Raises BadInput for a name or a precision that is not there, and
    for INT8 where the plan, having no types for it, computes in float.
    """
    check_precisions(network, scheme)
    precisions = _precisions(network, plan, scheme)
    results = {n: p for n, p in {**plan.results, **scheme.results}.items() if precisions[n] == "INT8"}
    for name in scheme.results:
        if name not in results:
            raise BadInput(f"float result of {name}: is computed in {precisions[name]} anyway; leave it out")
    made = precisions | results
    quantized = quantized_values(network, precisions, made)
    tensors = {
        name_of(v): plan.tensors[name_of(v)] if name_of(v) in quantized else float_type(v, made)
        for v in network.values()
    }
    weights = {name: each for name, each in plan.weights.items() if precisions[name] == "INT8"}
    for name in weights.keys() & results.keys() - plan.results.keys():
        weights[name] = without_factors(weights[name], plan.tensors[name])
    return replace(plan, tensors=tensors, operations=precisions, weights=weights, results=results)


def _precisions(network: Network, plan: QuantizationPlan, scheme: Scheme) -> dict[str, str]:
    """The precision of each operation. Movements follow anew what they touch, but none that was float becomes INT8."""
    settled = {}
    for op in network.operations:
        if op.name not in MOVEMENTS:
            keeps = scheme.precision == "INT8" or op.name in FLOAT_ONLY
            settled[name_of(op)] = plan.operations[name_of(op)] if keeps else scheme.precision
    for name, precision in scheme.operations.items():
        if precision == "INT8" != plan.operations[name]:
            raise BadInput(
                f"precision of {name}: was tuned to be {plan.operations[name]}, there are no types for it in INT8; "
                "leave it out"
            )
    chosen = settled | dict(scheme.operations)
    results = {n: p for n, p in {**plan.results, **scheme.results}.items() if chosen[n] == "INT8"}
    while True:
        precisions = precisions_of(network, "INT8", chosen, results)
        lost = {n: plan.operations[n] for n, p in precisions.items() if p == "INT8" != plan.operations[n]}
        if not lost:
            return precisions
        chosen |= lost


def without_factors(chosen: ChosenWeights, result: TensorQuantization) -> ChosenWeights:
    """Weights of a product whose sums become floats, where they were chosen for a `result` with factors."""
    if not result.factors:
        return chosen
    factors = np.array(result.factors)
    return replace(chosen, scales=chosen.scales * factors, bias=chosen.bias * factors)
