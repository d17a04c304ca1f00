"""A network lowered and executed operation by operation over all samples, with a say in the weights of products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.ir.network import STRUCTURAL, Network, dtype_of, is_absent, name_of, shape_of
from tpu_deploy.lowering.builder import FINE, Builder
from tpu_deploy.lowering.registry import RULES
from tpu_deploy.pipeline.tuning_rows import group_count, has_rows
from tpu_deploy.quant.factors import effective_weights
from tpu_deploy.quant.fitting import Product
from tpu_deploy.quant.plan import ChosenWeights, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.weights import IntegerProduct
from tpu_deploy.runtime.reference.interpreter import kernel_of
from tpu_deploy.runtime.reference.registry import Site
from tpu_deploy.runtime.reference.workers import Workers, available_threads

Array = npt.NDArray[Any]

Choice = Callable[[Operation, Product, Sequence[Array]], ChosenWeights | None]
"""Weights for a product whose operand holds these stored integers, one array a feed; None leaves them to the plan."""


class Execution(Builder):
    """A lowering whose every operation runs on all feeds before the next is lowered; values are dropped when nothing
    reads them any more.

    `plan` is the given plan with the weights chosen so far.
    """

    def __init__(
        self, source: Network, plan: QuantizationPlan, chip: str, feeds: Sequence[Feed], choose: Choice
    ) -> None:
        self._weights = dict(plan.weights)
        super().__init__(source, replace(plan, weights=self._weights), chip)
        self._choose = choose
        self._workers = Workers(available_threads())
        self._values: dict[str, list[Array]] = {name_of(v): [feed[name_of(v)] for feed in feeds] for v in source.inputs}
        self._executed: Operation | None = None
        self._feeds = len(feeds)
        self._last_reader = _last_readers(source)
        self._taken_in: dict[str, list[str]] = {}

    def run(self) -> QuantizationPlan:
        """The plan with all weights chosen."""
        for index, op in enumerate(self.source.operations):
            before = self.target.block.last_op
            RULES[op.name, self.precision(op)].lower(self, op)
            if self.target.block.last_op is before:
                self._prolong(op)
            self._execute()
            self._drop(index)
        return self.plan

    def integers(
        self, op: Operation, weights: Array, bias: Array | None, channel_axis: int, x: TensorQuantization
    ) -> IntegerProduct:
        """As `Builder.integers`, with the weights that the choice makes for what the operand holds."""
        if not has_rows(self.source, op):
            return super().integers(op, weights, bias, channel_axis, x)
        stored = self.quantized(op.operands[0])
        self._execute()
        y = FINE if self.is_made_float(op) else self.direct(op)
        groups = group_count(op)
        real = effective_weights(weights, bias, channel_axis, x, y)
        product = Product.of(*real, channel_axis, groups, x, y)
        chosen = self._choose(op, product, self._values[name_of(stored)])
        if chosen is not None:
            self._weights[name_of(op)] = chosen
        return super().integers(op, weights, bias, channel_axis, x)

    def _execute(self) -> None:
        """Runs what has been lowered since the last call."""
        op = self.target.block.first_op if self._executed is None else self._executed.next_op
        while op is not None:
            if op.name not in STRUCTURAL:
                kernel = kernel_of(Site(op, self.target, self._workers))
                constants = [self.target.weight(v) for v in op.operands]
                read = [self._values[name_of(v)] for v, c in zip(op.operands, constants, strict=True) if c is None]
                # One array for all feeds, made first: results between the kernel's temporaries would pin their memory.
                result = op.results[0]
                results = np.empty((self._feeds, *shape_of(result)), dtype_of(result))
                for feed in range(self._feeds):
                    arrays = iter(values[feed] for values in read)
                    results[feed] = kernel([next(arrays) if c is None else c for c in constants])
                self._values[name_of(op)] = list(results)
            self._executed, op = op, op.next_op

    def _prolong(self, op: Operation) -> None:
        """What an operation reads that its reader takes in lives as long as its result, through others taken in too."""
        later, waiting = self._last_reader[name_of(op)], [name_of(op)]
        self._taken_in[name_of(op)] = _read(self.source, op)
        while waiting:
            for name in self._taken_in[waiting.pop()]:
                self._last_reader[name] = max(self._last_reader[name], later)
                if name in self._taken_in:
                    waiting.append(name)

    def _drop(self, index: int) -> None:
        alive = {name_of(form) for name, last in self._last_reader.items() if last > index for form in self.forms(name)}
        for name in [name for name in self._values if name not in alive]:
            del self._values[name]


def _read(network: Network, op: Operation) -> list[str]:
    """The names of the values that `op` reads."""
    return [name_of(v) for v in op.operands if not is_absent(v) and network.weight(v) is None]


def _last_readers(network: Network) -> dict[str, int]:
    """The index of the last operation that reads each value; -1 where none does."""
    found = {name_of(v): -1 for v in network.values()}
    for index, op in enumerate(network.operations):
        found |= dict.fromkeys(_read(network, op), index)
    return found


def frontier_bytes(network: Network, plan: QuantizationPlan) -> int:
    """The most bytes that the values of one batch take at any time of an execution."""
    last = _last_readers(network)
    sizes = {
        name_of(v): math.prod(shape_of(v)) * plan.tensors[name_of(v)].numpy_dtype.itemsize for v in network.values()
    }
    held = sum(sizes[name_of(v)] for v in network.inputs)
    most = held
    for index, op in enumerate(network.operations):
        held += sum(sizes[name_of(v)] for v in op.results)
        most = max(most, held)
        held -= sum(sizes[name] for name in {*_read(network, op), *map(name_of, op.results)} if last[name] <= index)
    return most
