"""Mixtures of precisions, and what of a network matters for choosing one: who makes and who reads each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tpu_deploy.ir.network import Network, is_absent, name_of, shape_of
from tpu_deploy.lowering.to_tpu import refusals
from tpu_deploy.quant.plan import INTEGER_PRODUCTS, QuantizationPlan
from tpu_deploy.quant.precision import FLOAT_ONLY, Movements, movements

ANY_FLOAT = "F32"
"""Stands for whichever float precision an operation gets, where only INT8 and float are told apart."""


@dataclass(frozen=True)
class Mixture:
    """The operations computed in float, and the INT8 products whose sums become floats; all others are as planned."""

    floats: frozenset[str] = frozenset()
    results: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """What tells it from other mixtures, the same in every run."""
        text = "\n".join([*sorted(self.floats), "", *sorted(self.results)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Wiring:
    """A canonical TOP network as names: operations in order, and the tensors they read and make.

    `outputs` are the tensors that are returned. `products` can give their sums as floats, `only_sums` do so in any
    mixture. `only_float` and `only_int8` are what has but one form, `moving` operations compute nothing and follow
    their neighbours.
    """

    operations: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]]
    makers: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    products: frozenset[str]
    only_sums: frozenset[str]
    only_float: frozenset[str]
    only_int8: frozenset[str]
    moving: tuple[Movements, ...]

    @classmethod
    def of(cls, network: Network, precision: str, base: QuantizationPlan) -> Wiring:
        """The wiring of a network whose operations may be as in the plan `base`, or in `precision`.

        What is float in `base` stays so in every mixture.
        """
        names = [name_of(op) for op in network.operations]
        reads = {
            name_of(op): tuple(
                dict.fromkeys(name_of(v) for v in op.operands if network.weight(v) is None and not is_absent(v))
            )
            for op in network.operations
        }
        readers: dict[str, tuple[str, ...]] = {}
        for name, tensors in reads.items():
            for tensor in tensors:
                readers[tensor] = (*readers.get(tensor, ()), name)
        planned = {p: QuantizationPlan({}, dict.fromkeys(names, p)) for p in ("INT8", precision)}
        refused = {p: {each.name for each in refusals(network, plan)} for p, plan in planned.items()}
        kinds = {name_of(op): op.name for op in network.operations}
        moving = tuple(movements(network))
        follow = {name for each in moving for name in each.inside}
        planned_float = {n for n in names if base.operations[n] != "INT8"} - follow
        only_float = {n for n in names if kinds[n] in FLOAT_ONLY or n in refused["INT8"]} | planned_float
        return cls(
            operations=tuple(names),
            reads=reads,
            makers={name_of(result): name_of(op) for op in network.operations for result in op.results},
            readers=readers,
            shapes={name_of(value): shape_of(value) for value in network.values()},
            outputs=tuple(dict.fromkeys(name_of(value) for value in network.outputs)),
            products=frozenset(n for n in names if kinds[n] in INTEGER_PRODUCTS),
            only_sums=frozenset(base.results) - only_float,
            only_float=frozenset(only_float),
            only_int8=frozenset(n for n in names if n in refused[precision] and n not in only_float),
            moving=moving,
        )

    @cached_property
    def computing(self) -> tuple[str, ...]:
        """The operations whose precision is a matter of choice: those that compute and have both forms, in order."""
        fixed = self.only_float | self.only_int8 | {name for each in self.moving for name in each.inside}
        return tuple(name for name in self.operations if name not in fixed)

    @property
    def all_float(self) -> Mixture:
        """The mixture of no INT8 operation but those that have no other form."""
        return Mixture(frozenset(self.computing))

    def uses(self, tensor: str) -> int:
        """How many operations read a tensor, being returned counted as one."""
        return len(self.readers.get(tensor, ())) + (tensor in self.outputs)

    @cached_property
    def makes(self) -> Mapping[str, tuple[str, ...]]:
        """The tensors that each operation makes."""
        found: dict[str, tuple[str, ...]] = dict.fromkeys(self.operations, ())
        for tensor, maker in self.makers.items():
            found[maker] = (*found[maker], tensor)
        return found

    def neighbours(self, operation: str) -> set[str]:
        """The operations that make what an operation reads, or read what it makes."""
        before = {self.makers[tensor] for tensor in self.reads[operation] if tensor in self.makers}
        return before | {reader for tensor in self.makes[operation] for reader in self.readers.get(tensor, ())}

    def completed(self, mixture: Mixture) -> Mixture:
        """The mixture with everything that follows from it: what has only a float form, and movements."""
        floats = mixture.floats | self.only_float
        results = (mixture.results | self.only_sums) - floats
        if not self.moving:
            return Mixture(floats, results)
        computed = {name: ANY_FLOAT if name in floats else "INT8" for name in self.operations}
        made = computed | dict.fromkeys(results, ANY_FLOAT)
        follow = {name for each in self.moving if each.precision(computed, made) != "INT8" for name in each.inside}
        return Mixture(floats | follow, results)

    def is_made_float(self, tensor: str, completed: Mixture) -> bool:
        """Whether a tensor is a float before any cast: inputs are."""
        maker = self.makers.get(tensor)
        return maker is None or maker in completed.floats or maker in completed.results
