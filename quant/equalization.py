"""Types fitted to samples: factors of channels with the least noise where they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.quant.add_scales import align_add_scales
from tpu_deploy.quant.factor_groups import channel_axis, operands_of
from tpu_deploy.quant.float_parts import SUMS
from tpu_deploy.quant.plan import INTEGER_PRODUCTS, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.ranges import TensorRange, padding_value, value_range
from tpu_deploy.quant.scheme import read_with_zeros_between
from tpu_deploy.quant.ties import Groups, keeps_type
from tpu_deploy.quant.type_choice import NOTHING, Extremes, Member, Reader, chosen_types
from tpu_deploy.quant.value_samples import ChannelDistributions, ValueSamples

Float64Array = npt.NDArray[np.float64]

LINEAR = INTEGER_PRODUCTS | SUMS


def equalized(
    network: Network,
    plan: QuantizationPlan,
    table: Mapping[str, TensorRange],
    samples: Mapping[str, ValueSamples],
    groups: Sequence[Sequence[str]],
    zero_points: bool,
) -> QuantizationPlan:
    """The plan with factors of channels for the tensors of each of `groups` (`factor_groups`), which have the same.

    Factors and types are chosen on one half of the `samples` and judged on the other. Outputs and what is joined with
    constants keep their types. `zero_points` says whether tensors may have them.
    """
    free = FreeTypes(network, plan, table, samples)
    types = dict(plan.tensors)
    for group in groups:
        if all(map(free.is_free, group)):
            types |= free.with_factors(group, zero_points)
    return free.aligned(types)


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


class FreeTypes:
    """A planned network with its samples: which types may be changed, and what there is to know of each tensor.

    `ties` are the tensors that share a type because of what moves them.
    """

    def __init__(
        self,
        network: Network,
        plan: QuantizationPlan,
        table: Mapping[str, TensorRange],
        samples: Mapping[str, ValueSamples],
    ) -> None:
        self._network, self._plan, self._table, self._samples = network, plan, table, samples
        self.ties = _planned_ties(network, plan)
        self._values = {name_of(v): v for v in network.values()}
        self._fixed = {name_of(v) for v in network.outputs}
        self._without_zero_point = read_with_zeros_between(network)
        for op in network.operations:
            self._fixed |= self._fixed_by(op)

    def _fixed_by(self, op: Operation) -> set[str]:
        """Tensors whose types an operation does not let go."""
        read = operands_of(self._network, op)
        if self._plan.operations[name_of(op)] != "INT8":
            return set()
        has_constants = op.name == "top.Concat" and len(read) < len(op.operands)
        if has_constants or padding_value(op) not in (None, 0.0):
            return {name_of(v) for v in [*read, *op.results]}
        return set()

    def is_free(self, name: str) -> bool:
        """Whether the type of a tensor may be changed."""
        return name not in self._fixed and name in self._samples and self._plan.tensors[name].is_quantized

    def exact_readers(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Float operations that read any of these tensors as the float it is made: result to names of operands."""
        found: dict[str, list[str]] = {}
        for value in (self._values[name] for name in names):
            maker = value.owner
            if not isinstance(maker, Operation) or self._makes_integers(maker):
                continue
            for op in (use.operation for use in value.uses if use.operation.results):
                if self._plan.operations.get(name_of(op), "INT8") != "INT8":
                    found[name_of(op)] = [name_of(v) for v in operands_of(self._network, op)]
        return found

    def _makes_integers(self, op: Operation) -> bool:
        return op.name == "top.Input" or self._plan.made_in(name_of(op)) == "INT8"

    def is_sum(self, name: str) -> bool:
        """Whether a tensor is made by a product or a sum without an activation: no value is more likely than others."""
        owner = self._values[name].owner
        return isinstance(owner, Operation) and owner.name in LINEAR and not attributes_of(owner).get("do_relu")

    def channels(self, name: str) -> int:
        """Channels of a tensor; one where it has none."""
        return int(self._samples[name].drawn.shape[1])

    def may_have_zero_point(self, names: Iterable[str]) -> bool:
        """Whether none of these tensors has zeros put between its elements, which are stored as 0."""
        return self._without_zero_point.isdisjoint(names)

    def extremes(self, names: Iterable[str]) -> list[Extremes]:
        """Of these tensors, over all samples, within what the table says of them."""
        return [Extremes.of(self._within_table(name)) for name in names]

    def with_factors(self, group: Sequence[str], zero_points: bool) -> dict[str, TensorQuantization]:
        """The best types of tensors that have the same factors; those that are tied have the same type."""
        tied = _typed_together(self.ties, group)
        parts = [[self._member(name) for name in names] for names in tied]
        axis = channel_axis(self._values[group[0]]) or 1
        kinds = chosen_types(parts, axis, zero_points and self.may_have_zero_point(group))
        return {name: kind for names, kind in zip(tied, kinds, strict=True) for name in names}

    def aligned(self, types: Mapping[str, TensorQuantization]) -> QuantizationPlan:
        """The plan with these types, scales around additions moved where that is more exact."""
        ties, plan = self.ties, self._plan
        moved = align_add_scales(self._network, plan.operations, ties, {root: types[root] for root in ties.sets()})
        return replace(plan, tensors={name: moved[ties.find(name)] for name in plan.tensors})

    def _within_table(self, name: str) -> ValueSamples:
        entry = value_range(self._values[name], self._table.get(name))
        return self._samples[name].clipped(min(entry.low, 0.0), max(entry.high, 0.0))

    def _member(self, name: str) -> Member:
        value, samples = self._values[name], self._within_table(name)
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
