"""Remedies tried out: the network planned, lowered and run again with one thing changed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.emitters import EMITTERS
from tpu_deploy.codegen.storages import VIEWS
from tpu_deploy.codegen.timing import estimate
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.single_layers import SingleLayer, single_layers
from tpu_deploy.pipeline.verification import stored_feed
from tpu_deploy.quant import QuantizationPlan, Scheme
from tpu_deploy.reports.advice import Figures, Trial
from tpu_deploy.reports.similarity import Comparison
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.reference.registry import BUILDERS

if TYPE_CHECKING:
    from tpu_deploy.calibration import Feed
    from tpu_deploy.calibration.statistics import Statistics

Array = npt.NDArray[Any]

SAMPLES = 8
"""On how many batches a change is tried at most."""

ALONE = 2
"""On how many of them a single layer is compared."""

HALVED_FROM = 4
"""From so many batches on changes are chosen on one half of them, and what they bring is measured on the other."""

LEAST_GAIN_DB = 0.1
"""By how much the worst output must come nearer for a change to count as a help."""

HELD_BYTES = 1 << 28
"""Bytes of values that are held to begin a trial where it differs; larger networks run from the inputs on."""

ROUNDING_DB = 40.0
"""Outputs this near have nothing left to win."""


@dataclass(frozen=True)
class Subject:
    """What is to be improved: a canonical network as it was planned, and samples to try on.

    `scheme` and `table` are what the plan was made from, `cycles` what its bmodel takes.
    """

    top: Network
    table: CalibrationTable
    plan: QuantizationPlan
    scheme: Scheme
    statistics: Statistics | None
    chip: str
    quantized_io: bool
    feeds: Sequence[Feed]
    cycles: int


@dataclass(frozen=True)
class Change:
    """Something to try for the sake of `tensor`: another plan, and in words what is other about it."""

    kind: str
    tensor: str
    words: str
    plan: QuantizationPlan


@dataclass(frozen=True)
class _Run:
    """A lowered plan: the worst output's similarity on the samples to measure on, and on those to choose on, of these
    also its signal to noise by sample.
    """

    network: Network
    reference: Reference
    layers: Mapping[str, SingleLayer]
    output: Comparison
    choosing: Comparison
    by_sample: npt.NDArray[np.float64]


class Bench:
    """Where changes are tried, all on the same samples."""

    def __init__(self, subject: Subject, tensors: Sequence[str]) -> None:
        """`tensors` are those whose layers changes may be for."""
        self.subject = subject
        self._names = [name_of(value) for value in subject.top.values()]
        self._feeds = subject.feeds[:SAMPLES]
        numbers = range(len(self._feeds))
        self._is_halved = len(numbers) >= HALVED_FROM
        self._choosing = numbers[::2] if self._is_halved else numbers
        self._measuring = numbers[1::2] if self._is_halved else numbers
        network = lower_to_tpu(subject.top, subject.plan, subject.chip, subject.quantized_io)
        self.layers = single_layers(network, self._names)
        alone = {each.tensor for name in tensors for each in self.layers[name].operands} | set(tensors)
        outputs = [name_of(value) for value in subject.top.outputs]
        self._exact: list[dict[str, Array]] = []
        floats = FloatNetwork(subject.top)
        for number, feed in enumerate(self._feeds):
            values = floats.values(feed)
            wanted = [n for n in self._names if n in outputs or (number in self._measuring[:ALONE] and n in alone)]
            self._exact.append({name: values[name] for name in wanted})
        self._held: list[dict[str, Array]] = []
        runs = {name: self._run(network, name) for name in dict.fromkeys(outputs) if name in self.layers}
        self._output = min(runs, key=lambda name: runs[name].output.result().cosine)
        self._base = runs[self._output]
        self._held = self._held_values()
        self._alone: dict[str, Comparison] = {}

    @property
    def is_worth_it(self) -> bool:
        """Whether the worst output is finite and leaves something to win."""
        return self._base.output.result().sqnr_db < ROUNDING_DB

    def tried(self, change: Change) -> Trial | None:
        """What a change does; None where the plan cannot be executed on the chip."""
        subject = self.subject
        try:
            network = lower_to_tpu(subject.top, change.plan, subject.chip, subject.quantized_io)
        except BadInput:
            return None
        if not can_execute(network):
            return None
        if change.tensor not in self._alone:
            self._alone[change.tensor] = self._single(self._base, change.tensor)
        run = self._run(network, self._output)
        before = self._figures(self._alone[change.tensor], self._base, subject.cycles)
        after = self._figures(self._single(run, change.tensor), run, None)
        doubt = 1.0 if after.tensor_sqnr_db >= before.tensor_sqnr_db else 2.0
        helps = is_significant(self._base.by_sample, run.by_sample, doubt)
        chosen_on = len(self._choosing) if self._is_halved else 0
        gain = run.choosing.result().sqnr_db - self._base.choosing.result().sqnr_db
        trial = Trial(
            change.kind, change.tensor, change.words, before, after, len(self._measuring), chosen_on, gain, helps
        )
        return replace(trial, helps=helps and trial.gain_db > 0)

    def with_cycles(self, trial: Trial, plan: QuantizationPlan) -> Trial:
        """The trial of `plan` with the cycles of its bmodel, compiled for that."""
        subject = self.subject
        network = lower_to_tpu(subject.top, plan, subject.chip, subject.quantized_io)
        cycles = estimate(compile_network(network, subject.chip).bmodel).cycles
        return replace(trial, after=replace(trial.after, cycles=cycles))

    def _held_values(self) -> list[dict[str, Array]]:
        """All values of the network as it was planned, by sample; none where they would not fit in memory."""
        network = self._base.network
        size = sum(math.prod(shape_of(value)) * dtype_of(value).itemsize for value in network.values())
        if size * len(self._feeds) > HELD_BYTES:
            return []
        return [dict(self._base.reference.run_all(stored_feed(network, feed))) for feed in self._feeds]

    def _run(self, network: Network, output: str) -> _Run:
        reference = Reference(network)
        layers = single_layers(network, self._names)
        stored = layers[output].result
        shared = last_equal_values(self._base.network, network) if self._held else ()
        measured, choosing, by_sample = Comparison(), Comparison(), []
        for number, (feed, exact) in enumerate(zip(self._feeds, self._exact, strict=True)):
            known = {name: self._held[number][name] for name in shared}
            found = stored.load(reference.run(stored_feed(network, feed), [stored.name], known)[stored.name])
            if number in self._measuring:
                measured.add(exact[output], found)
            if number in self._choosing:
                choosing.add(exact[output], found)
                one = Comparison()
                one.add(exact[output], found)
                by_sample.append(one.result().sqnr_db)
        return _Run(network, reference, layers, measured, choosing, np.array(by_sample))

    def _single(self, run: _Run, tensor: str) -> Comparison:
        layer, comparison = run.layers[tensor], Comparison()
        for exact in (self._exact[number] for number in self._measuring[:ALONE]):
            overrides = {each.name: each.store(exact[each.tensor]) for each in layer.operands}
            stored = run.reference.run({}, [layer.result.name], overrides)[layer.result.name]
            comparison.add(exact[tensor], layer.result.load(stored))
        return comparison

    def _figures(self, alone: Comparison, run: _Run, cycles: int | None) -> Figures:
        tensor, output = alone.result(), run.output.result()
        return Figures(tensor.cosine, tensor.sqnr_db, output.cosine, output.sqnr_db, cycles)


def last_equal_values(first: Network, second: Network) -> list[str]:
    """Values that both networks compute alike from the inputs on, and that the second goes on from otherwise."""
    makers = {name_of(op): op for op in first.operations}
    alike = {name_of(value) for value in first.inputs} & {name_of(value) for value in second.inputs}
    read: dict[str, None] = {}
    for op in second.operations:
        name, other = name_of(op), makers.get(name_of(op))
        if other is not None and _are_alike(first, other, second, op, alike):
            alike.add(name)
        else:
            read |= {name_of(value): None for value in op.operands if second.weight(value) is None}
    return [name for name in read if name in alike]


def _are_alike(first: Network, one: Operation, second: Network, other: Operation, alike: Collection[str]) -> bool:
    """Whether two operations of two networks make the same of operands that are alike."""
    if (one.name, one.attributes, len(one.operands)) != (other.name, other.attributes, len(other.operands)):
        return False
    if [r.type for r in one.results] != [r.type for r in other.results]:
        return False
    for a, b in zip(one.operands, other.operands, strict=True):
        left, right = first.weight(a), second.weight(b)
        if left is None or right is None:
            if left is not right or name_of(a) != name_of(b) or name_of(a) not in alike:
                return False
        elif a.type != b.type or not np.array_equal(left, right):
            return False
    return True


def can_execute(network: Network) -> bool:
    """Whether every operation of a TPU network has a kernel and commands."""
    return all(op.name in BUILDERS and (op.name in EMITTERS or op.name in VIEWS) for op in network.operations)


def is_significant(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], doubt: float) -> bool:
    """Whether samples come nearer, in dB, by LEAST_GAIN_DB and by more than `doubt` standard errors of the mean.

    Any change draws the rounding of all later layers anew, so a single figure moves by chance.
    """
    gains = after - before
    if not gains.size or not np.isfinite(gains).all():
        return False
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() >= LEAST_GAIN_DB and gains.mean() > doubt * error)
