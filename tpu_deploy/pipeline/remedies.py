"""What could help a bad layer, tried in the order of promise; only what was tried is proposed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.calibration.thresholds import METHODS, Threshold, thresholds
from tpu_deploy.ir.network import name_of
from tpu_deploy.lowering.registry import RULES
from tpu_deploy.pipeline.options import SILENT, Progress
from tpu_deploy.pipeline.plans import AUTO, plan_of
from tpu_deploy.pipeline.single_layers import SingleLayer
from tpu_deploy.pipeline.trials import Bench, Change, Subject
from tpu_deploy.quant import QuantizationPlan, Scheme
from tpu_deploy.quant.plan import FLOATS, INTEGER_PRODUCTS
from tpu_deploy.quant.weights import WEIGHT_METHODS
from tpu_deploy.reports.advice import Trial
from tpu_deploy.reports.causes import own_parts
from tpu_deploy.reports.layers import Layer

Value = TypeVar("Value")

WORTH_DB = {"result": 0.2, "precision": 0.5}
"""By how much more a change must help that costs cycles: a float result, a float operation."""

TRIALS = 16
"""How many changes are tried at most."""

TRIALS_A_LAYER = 4
"""How many for the sake of one layer."""

DISTINCT = 0.02
"""Steps nearer to each other than this, relatively, are not told apart."""

LARGE_PART = 0.2
"""A part of a layer's own error below this is not worth a remedy of its own."""

SKEWED = 0.9
"""An asymmetric type is tried where its step is less than this part of the symmetric one."""


def tried_remedies(subject: Subject, layers: Sequence[Layer], progress: Progress = SILENT) -> list[Trial]:
    """Trials for the sake of `layers`, worst first: TRIALS at most, then one of the best of each layer together.

    The one of each layer that is to be proposed has cycles.
    """
    if not layers or not subject.feeds:
        return []
    bench = Bench(subject, [layer.name for layer in layers])
    if not bench.is_worth_it:
        return []
    candidates = Candidates(bench)
    done: list[Trial] = []
    best: list[tuple[Trial, Change]] = []
    for layer in layers:
        found = []
        for change in islice(candidates.changes(layer), min(TRIALS_A_LAYER, TRIALS - len(done))):
            progress.stage(f"Try remedies: {change.words}")
            trial = bench.tried(change)
            if trial is not None:
                found.append((trial, change))
        helpful = [pair for pair in found if pair[0].helps]
        if helpful:
            trial, change = max(helpful, key=lambda pair: pair[0].chosen_gain_db - WORTH_DB.get(pair[0].kind, 0.0))
            compiled = bench.with_cycles(trial, change.plan)
            best.append((compiled, change))
            found = [(compiled if each is trial else each, change) for each, change in found]
        done += [trial for trial, _ in found]
    if len(best) > 1:
        done += _together(bench, sorted(best, key=lambda pair: pair[0].chosen_gain_db))
    return done


def _together(bench: Bench, best: Sequence[tuple[Trial, Change]]) -> list[Trial]:
    """The trial of several changes at once, the most helpful last: where two exclude each other, it counts.

    None where they cannot be combined.
    """
    base = plan = bench.subject.plan
    for _, change in best:
        plan = overlaid(plan, base, change.plan)
    words = "; ".join(change.words for _, change in reversed(best))
    trial = bench.tried(Change("together", best[-1][1].tensor, words, plan))
    if trial is None:
        return []
    return [bench.with_cycles(trial, plan) if trial.helps else trial]


def overlaid(plan: QuantizationPlan, before: QuantizationPlan, after: QuantizationPlan) -> QuantizationPlan:
    """`plan` with what `after` has other than `before`."""
    return replace(
        plan,
        tensors=_laid_over(plan.tensors, before.tensors, after.tensors),
        operations=_laid_over(plan.operations, before.operations, after.operations),
        weights=_laid_over(plan.weights, before.weights, after.weights),
        results=_laid_over(plan.results, before.results, after.results),
        weight_method=plan.weight_method if before.weight_method == after.weight_method else after.weight_method,
    )


def _laid_over(base: Mapping[str, Value], old: Mapping[str, Value], new: Mapping[str, Value]) -> dict[str, Value]:
    kept = {name: each for name, each in base.items() if name in new or name not in old}
    return kept | {name: each for name, each in new.items() if name not in old or old[name] != each}


class Candidates:
    """Changes worth trying for a layer, most promising first.

    Of a plan that was tuned only precisions are changed: its types and weights were tried on more than is at hand here.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench, self._subject = bench, bench.subject
        self._usual = plan_of(self._subject.top, self._subject.table, self._subject.scheme)
        self._makers = {name_of(result): op for op in self._subject.top.operations for result in op.results}
        self._rows: dict[str, Mapping[str, Threshold]] = {}
        self._seen: list[QuantizationPlan] = [self._subject.plan]

    def changes(self, layer: Layer) -> Iterator[Change]:
        """By the parts of the layer's own error, and last the layer in float; none twice, none without effect."""
        for change in self._all(layer):
            if change.plan not in self._seen:
                self._seen.append(change.plan)
                yield change

    def _all(self, layer: Layer) -> Iterator[Change]:
        assert layer.explanation is not None
        single = self._bench.layers[layer.name]
        if self._subject.table.method == AUTO:
            yield from self._float_result(single)
        else:
            for part, share in own_parts(layer.explanation).items():
                if share >= LARGE_PART:
                    yield from _REMEDIES[part](self, single)
        yield from self._in_float(single)

    def wider(self, layer: SingleLayer) -> Iterator[Change]:
        """Larger thresholds of the result, the smallest first."""
        yield from self._thresholds(layer, layer.result.tensor, wider=True)

    def finer(self, layer: SingleLayer) -> Iterator[Change]:
        """Smaller steps of the result: by a zero point, by another method, or none at all."""
        yield from self._asymmetric(layer, layer.result.tensor)
        yield from self._thresholds(layer, layer.result.tensor, wider=False)
        yield from self._float_result(layer)

    def wider_operands(self, layer: SingleLayer) -> Iterator[Change]:
        """Larger thresholds of what the layer quantizes."""
        for tensor in _quantized_here(layer):
            yield from self._thresholds(layer, tensor, wider=True)

    def finer_operands(self, layer: SingleLayer) -> Iterator[Change]:
        """Smaller steps of what the layer quantizes."""
        for tensor in _quantized_here(layer):
            yield from self._asymmetric(layer, tensor)
            yield from self._thresholds(layer, tensor, wider=False)

    def other_weights(self, layer: SingleLayer) -> Iterator[Change]:
        """The other methods of rounding weights, of all layers."""
        current = self._subject.plan.weight_method
        for method in WEIGHT_METHODS:
            if method != current:
                scheme = replace(self._subject.scheme, weight_method=method)
                yield self._change("weights", layer, f"weights of all layers by {method}", scheme)

    def _thresholds(self, layer: SingleLayer, tensor: str, wider: bool) -> Iterator[Change]:
        statistics, subject = self._subject.statistics, self._subject
        if statistics is None or tensor not in subject.table:
            return
        own = subject.plan.tensors[tensor]
        group = [name for name, each in subject.plan.tensors.items() if each == own and name in subject.table]
        found = []
        for method in METHODS:
            rows = self._by(method)
            entries = {**subject.table.entries, **{name: rows[name] for name in group if name in rows}}
            table = replace(subject.table, entries=entries)
            change = self._change("threshold", layer, f"{self._method} → {method} on `{tensor}`", subject.scheme, table)
            ratio = change.plan.tensors[tensor].scale / own.scale
            if change.plan.tensors[tensor].dtype == own.dtype and (
                ratio > 1 + DISTINCT if wider else ratio < 1 - DISTINCT
            ):
                found.append((abs(ratio - 1), change))
        yield from _distinct(found)

    @property
    def _method(self) -> str:
        return self._subject.table.method or "its threshold"

    def _by(self, method: str) -> Mapping[str, Threshold]:
        if method not in self._rows:
            assert self._subject.statistics is not None
            self._rows[method] = thresholds(self._subject.statistics, method)
        return self._rows[method]

    def _asymmetric(self, layer: SingleLayer, tensor: str) -> Iterator[Change]:
        own = self._subject.plan.tensors[tensor]
        if own.dtype != "int8" or own.zero_point:
            return
        scheme = self._subject.scheme
        already = [] if isinstance(scheme.asymmetric, bool) else scheme.asymmetric
        change = self._change(
            "asymmetric", layer, f"a zero point for `{tensor}`", replace(scheme, asymmetric=[*already, tensor])
        )
        if change.plan.tensors[tensor].scale < SKEWED * own.scale:
            yield change

    def _float_result(self, layer: SingleLayer) -> Iterator[Change]:
        """The sums of a product as floats instead of 8 bits, for what reads them in float."""
        op = self._makers[layer.result.tensor]
        precision = self._float_precision(op.name)
        is_integer = self._subject.plan.made_in(name_of(op)) == "INT8"
        if is_integer and op.name in INTEGER_PRODUCTS and precision is not None:
            scheme = self._subject.scheme
            results = {**scheme.results, name_of(op): precision}
            words = f"{precision} result of `{layer.result.tensor}`"
            yield self._change("result", layer, words, replace(scheme, results=results))

    def _in_float(self, layer: SingleLayer) -> Iterator[Change]:
        op, scheme = self._makers[layer.result.tensor], self._subject.scheme
        precision = self._float_precision(op.name)
        if self._subject.plan.operations[name_of(op)] == "INT8" and precision is not None:
            operations = {**scheme.operations, name_of(op): precision}
            results = {name: given for name, given in scheme.results.items() if name != name_of(op)}
            words = f"INT8 → {precision} for `{layer.result.tensor}`"
            yield self._change("precision", layer, words, replace(scheme, operations=operations, results=results))

    def _float_precision(self, operation: str) -> str | None:
        """The float precision of fewest bits in which an operation can be lowered."""
        return next((precision for precision in FLOATS if (operation, precision) in RULES), None)

    def _change(
        self, kind: str, layer: SingleLayer, words: str, scheme: Scheme, table: CalibrationTable | None = None
    ) -> Change:
        subject = self._subject
        changed = plan_of(subject.top, subject.table if table is None else table, scheme)
        return Change(kind, layer.result.tensor, words, overlaid(subject.plan, self._usual, changed))


def _quantized_here(layer: SingleLayer) -> list[str]:
    return [each.tensor for each in layer.operands if layer.read[each.tensor].value is not each.value]


def _distinct(found: list[tuple[float, Change]]) -> Iterator[Change]:
    """The changes by distance, without those that are as far as the one before."""
    last = 0.0
    for distance, change in sorted(found, key=lambda each: each[0]):
        if distance > last * (1 + DISTINCT) + DISTINCT / 2:
            last = distance
            yield change


_REMEDIES: Mapping[str, Callable[[Candidates, SingleLayer], Iterator[Change]]] = {
    "weight_rounding": Candidates.other_weights,
    "clipping": Candidates.wider,
    "rounding": Candidates.finer,
    "table": Candidates.finer,
    "operand_clipping": Candidates.wider_operands,
    "operand_rounding": Candidates.finer_operands,
}
"""What to try against each part of an error."""
