"""Types fitted to samples: thresholds, zero points and factors of channels with the least noise where they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.quant.add_scales import align_add_scales
from tpu_deploy.quant.factor_groups import channel_axis, factor_groups, operands_of
from tpu_deploy.quant.plan import QuantizationPlan, TensorQuantization
from tpu_deploy.quant.ranges import TensorRange, padding_value, value_range
from tpu_deploy.quant.ties import Groups, keeps_type
from tpu_deploy.quant.type_choice import NOTHING, Extremes, Fit, Member, Reader, chosen_types
from tpu_deploy.quant.value_samples import ChannelDistributions, ValueSamples

Float64Array = npt.NDArray[np.float64]


def fitted_types(
    network: Network,
    plan: QuantizationPlan,
    table: Mapping[str, TensorRange],
    samples: Mapping[str, ValueSamples],
    is_table: Callable[[Operation], bool],
    fit: Fit,
) -> QuantizationPlan:
    """The plan with the types of tensors fitted to `samples`: chosen on one half of them, judged on the other.

    The noise of a tensor counts at what its readers make of it. Outputs, what float operations read, and what is joined
    with constants keep their types. `is_table` tells operations that become tables, which absorb factors.
    """
    subject = _Subject(network, plan, table, samples)
    ties = _planned_ties(network, plan)
    types, settled = dict(plan.tensors), set()
    for group in factor_groups(network, plan, is_table) if fit.factors else []:
        if all(map(subject.is_free, group)):
            types |= subject.fitted(_typed_together(ties, group), fit, True)
            settled |= set(group)
    for tied in ties.sets().values():
        if settled.isdisjoint(tied) and all(map(subject.is_free, tied)):
            types |= subject.fitted([tied], fit, False)
    moved = align_add_scales(network, plan.operations, ties, {root: types[root] for root in ties.sets()})
    return replace(plan, tensors={name: moved[ties.find(name)] for name in plan.tensors})


def _planned_ties(network: Network, plan: QuantizationPlan) -> Groups:
    """The tensors that share a type because of what moves them, as the plan has it."""
    groups = Groups(plan.tensors)
    for op in network.operations:
        if plan.operations[name_of(op)] != "INT8":
            continue
        moved = operands_of(network, op) if op.name == "top.Concat" else op.operands[:1] if keeps_type(op) else []
        for value in moved:
            for result in op.results:
                if plan.tensors[name_of(value)] == plan.tensors[name_of(result)]:
                    groups.join(name_of(value), name_of(result))
    return groups


def _typed_together(ties: Groups, names: Sequence[str]) -> list[list[str]]:
    sets: dict[str, list[str]] = {}
    for name in names:
        sets.setdefault(ties.find(name), []).append(name)
    return list(sets.values())


class _Subject:
    """A planned network with its samples: which types are free, and what the choice wants to know of each tensor."""

    def __init__(
        self,
        network: Network,
        plan: QuantizationPlan,
        table: Mapping[str, TensorRange],
        samples: Mapping[str, ValueSamples],
    ) -> None:
        self._network, self._plan, self._table, self._samples = network, plan, table, samples
        self._values = {name_of(v): v for v in network.values()}
        self._fixed = {name_of(v) for v in network.outputs}
        for op in network.operations:
            self._fixed |= self._fixed_by(op)

    def _fixed_by(self, op: Operation) -> set[str]:
        """Tensors whose types an operation does not let go."""
        read = operands_of(self._network, op)
        if self._plan.operations[name_of(op)] != "INT8":
            return {name_of(v) for v in read if not self._is_made_float(v)}
        has_constants = op.name == "top.Concat" and len(read) < len(op.operands)
        puts_zeros_between = op.name == "top.Conv" and any(attributes_of(op)["inserts"])
        if has_constants or puts_zeros_between or padding_value(op) not in (None, 0.0):
            return {name_of(v) for v in [*read, *op.results]}
        return set()

    def _is_made_float(self, value: SSAValue) -> bool:
        owner = value.owner
        is_computed = isinstance(owner, Operation) and owner.name != "top.Input"
        return is_computed and self._plan.made_in(name_of(value.owner)) != "INT8"  # type: ignore[arg-type]

    def is_free(self, name: str) -> bool:
        """Whether the type of a tensor may be changed."""
        return name not in self._fixed and name in self._samples and self._plan.tensors[name].is_quantized

    def fitted(self, tied: Sequence[Sequence[str]], fit: Fit, with_factors: bool) -> dict[str, TensorQuantization]:
        """The best types of tensors that have the same factors; those of one inner sequence have the same type."""
        parts = [[self._member(name) for name in names] for names in tied]
        axis = channel_axis(self._values[tied[0][0]]) or 1
        kinds = chosen_types(parts, axis, fit, with_factors)
        return {name: kind for names, kind in zip(tied, kinds, strict=True) for name in names}

    def _member(self, name: str) -> Member:
        value = self._values[name]
        entry = value_range(value, self._table.get(name))
        samples = self._samples[name].clipped(min(entry.low, 0.0), max(entry.high, 0.0))
        half = len(samples.drawn) // 2
        first, second = (samples.part(slice(half)), samples.part(slice(half, None))) if half else (samples, samples)
        readers = tuple(self._reader(use.operation, second) for use in value.uses)
        kind, ends = self._plan.tensors[name], (Extremes.of(first), Extremes.of(samples))
        return Member(kind, *ends, ChannelDistributions.of(second), readers)

    def _reader(self, op: Operation, samples: ValueSamples) -> Reader:
        channels = samples.drawn.shape[1]
        axis = {"top.Conv": 1, "top.MatMul": len(shape_of(op.operands[0])) - 1}.get(op.name, -1)
        weights = self._weights_of(op) if axis == channel_axis(op.operands[0]) else None
        made = self._samples.get(name_of(op)) if weights is not None else None
        if weights is None or made is None:
            return Reader(np.full(channels, 1 / max(float(samples.power.sum()), NOTHING)))
        power = max(float(made.power.sum()), NOTHING)
        squares, inputs = np.square(weights).sum(2), weights.shape[1]
        if inputs < channels:
            gains = squares.reshape(channels // inputs, -1, inputs).sum(1).reshape(-1)
            return Reader(gains / power)
        return Reader(squares.sum(0) / power, np.abs(weights) / math.sqrt(power), samples.variance)

    def _weights_of(self, op: Operation) -> Float64Array | None:
        """Weights (outputs, inputs / groups, taps); None where they are computed."""
        array = self._network.weight(op.operands[1])
        if array is None:
            return None
        wide = array.astype(np.float64)
        if op.name == "top.MatMul":
            return wide.reshape(wide.shape[-2:]).T[:, :, None] if wide.ndim > 1 else wide.reshape(1, -1, 1)
        return wide.reshape(*wide.shape[:2], -1)
