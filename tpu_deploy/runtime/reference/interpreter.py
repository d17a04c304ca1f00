"""Runs a TPU network on arrays, bit for bit as the chip does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.runtime.reference import activation, cast, conv, elementwise, matmul, pool, shape, softmax
from tpu_deploy.runtime.reference.feeds import checked, unknown
from tpu_deploy.runtime.reference.registry import BUILDERS, Array, Kernel, Site
from tpu_deploy.runtime.reference.workers import Workers, available_threads

FAMILIES = (activation, cast, conv, elementwise, matmul, pool, shape, softmax)
"""The files whose kernels an interpreter knows."""


@dataclass(frozen=True)
class Step:
    """An operation: the name of its result and its operands, weights as arrays and all else by name."""

    op: Operation
    result: str
    operands: tuple[str | Array, ...]

    @property
    def reads(self) -> list[str]:
        """Names of the values it reads."""
        return [operand for operand in self.operands if isinstance(operand, str)]


class Reference:
    """The meaning of a TPU network: executes it with the integer arithmetic that `ir.tpu` states.

    Kernels are prepared when first needed; `load` prepares all of them. `threads` is by default every processor the
    process may run on. The network must not be changed afterwards.
    """

    def __init__(self, network: Network, threads: int | None = None) -> None:
        self.network = network
        self._workers = Workers(available_threads() if threads is None else threads)
        self._values = {name_of(value): value for value in network.values()}
        self._steps = [self._step(op) for op in network.operations]
        self._kernels: dict[str, Kernel] = {}

    def _step(self, op: Operation) -> Step:
        if op.name not in BUILDERS:
            raise ValueError(f"{name_of(op)}: {op.name} has no reference kernel; lower the network to the TPU dialect")
        return Step(op, name_of(op), tuple(self._source(operand) for operand in op.operands))

    def _source(self, value: SSAValue) -> str | Array:
        weight = self.network.weight(value)
        return name_of(value) if weight is None else np.ascontiguousarray(weight)

    def load(self) -> None:
        """Prepares every kernel now, several at a time."""

        def prepare(step: Step) -> None:
            self._kernel(step)

        self._workers.run([partial(prepare, step) for step in self._steps])

    def run(
        self,
        feeds: Mapping[str, Array],
        values: Iterable[str] | None = None,
        overrides: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """The outputs by ONNX output name, or the named `values`; a quantized value as its stored integers.

        `feeds` maps each input to an array of its type (float32, or the stored integers of a quantized input) and
        shape. `overrides` puts arrays in place of computed values: what only they depended on is neither computed nor
        needs to be fed. Raises BadInput for an unknown, missing, wrong or not finite array and for an unknown value.
        """
        sources = self._sources(values)
        given = self._given(feeds, overrides or {})
        wanted = {source for source in sources.values() if isinstance(source, str)}
        steps = self._needed(wanted, given)
        held = dict(given)
        for _ in self._execute(steps, held, wanted):
            pass
        found = {name: held[source] if isinstance(source, str) else source for name, source in sources.items()}
        foreign = [*given.values(), *(source for source in sources.values() if not isinstance(source, str))]
        return {name: _owned(array, foreign) for name, array in found.items()}

    def run_all(
        self, feeds: Mapping[str, Array], overrides: Mapping[str, Array] | None = None
    ) -> Iterator[tuple[str, Array]]:
        """Name and array of every value in order, each computed when it is asked for; the arrays are to be read only.

        Checks its arguments at once, as `run` does.
        """
        given = self._given(feeds, overrides or {})
        self._needed(self._values.keys(), given)
        steps = [step for step in self._steps if step.result not in given]

        def values() -> Iterator[tuple[str, Array]]:
            inputs = [name_of(value) for value in self.network.inputs]
            yield from ((name, given[name]) for name in inputs)
            computed = self._execute(steps, dict(given), ())
            for step in self._steps:
                yield step.result, given[step.result] if step.result in given else next(computed)

        return values()

    def _sources(self, values: Iterable[str] | None) -> dict[str, str | Array]:
        sources = [self._source(value) for value in self.network.outputs]
        outputs = dict(zip(self.network.output_names, sources, strict=True))
        if values is None:
            return outputs
        known: dict[str, str | Array] = {**outputs, **{name: name for name in self._values}}
        chosen = list(values)
        for name in chosen:
            if name not in known:
                raise unknown(name, known, "value")
        return {name: known[name] for name in chosen}

    def _given(self, feeds: Mapping[str, Array], overrides: Mapping[str, Array]) -> dict[str, Array]:
        inputs = [name_of(value) for value in self.network.inputs]
        given = {}
        for what, arrays, known in (("input", feeds, inputs), ("value", overrides, self._values)):
            for name, array in arrays.items():
                if name not in known:
                    raise unknown(name, known, what)
                given[name] = checked(name, array, self._values[name], what)
        return given

    def _needed(self, wanted: Collection[str], given: Collection[str]) -> list[Step]:
        """The steps that lead from the given values to the wanted ones; BadInput when an input is missing."""
        needed = set(wanted)
        steps = []
        for step in reversed(self._steps):
            if step.result in needed and step.result not in given:
                steps.append(step)
                needed.update(step.reads)
        for value in self.network.inputs:
            name = name_of(value)
            if name in needed and name not in given:
                raise BadInput(f"input {name}: is missing; feed {', '.join(map(name_of, self.network.inputs))}")
        return steps[::-1]

    def _execute(self, steps: Sequence[Step], held: dict[str, Array], wanted: Collection[str]) -> Iterator[Array]:
        """The result of each step, put into `held` too, from which values are dropped when nothing reads them again."""
        for step, dead in zip(steps, _deaths(steps, wanted), strict=True):
            operands = [held[each] if isinstance(each, str) else each for each in step.operands]
            result = held[step.result] = self._kernel(step)(operands)
            del operands
            for name in dead:
                del held[name]
            yield result
            del result

    def _kernel(self, step: Step) -> Kernel:
        kernel = self._kernels.get(step.result)
        if kernel is None:
            site = Site(step.op, self.network, self._workers)
            kernel = self._kernels[step.result] = kernel_of(site)
        return kernel


def kernel_of(site: Site) -> Kernel:
    """What executes the operation at `site`, prepared."""
    return BUILDERS[site.op.name](site)


def _deaths(steps: Sequence[Step], wanted: Collection[str]) -> list[list[str]]:
    """For each step the values that nothing reads after it."""
    seen = set(wanted)
    deaths = []
    for step in reversed(steps):
        last = [name for name in dict.fromkeys([*step.reads, step.result]) if name not in seen]
        seen.update(last)
        deaths.append(last)
    return deaths[::-1]


def _owned(array: Array, foreign: Iterable[Array]) -> Array:
    """`array`, copied when it lies in memory of the caller or of a weight."""
    return array.copy() if any(np.may_share_memory(array, other) for other in foreign) else array
