"""`auto`: a plan made better pass by pass, each kept only where samples it has not seen come out nearer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.activation import is_unary
from tpu_deploy.pipeline.options import METHOD, SILENT, Progress
from tpu_deploy.pipeline.tuning_judging import Judge, judged
from tpu_deploy.pipeline.tuning_recipe import PASSES, Pass, Recipe
from tpu_deploy.pipeline.tuning_sampling import value_samples
from tpu_deploy.pipeline.tuning_thresholds import fit_thresholds
from tpu_deploy.pipeline.tuning_weights import fit_weights
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.equalization import equalized
from tpu_deploy.quant.factor_groups import around_convolutions, factor_groups
from tpu_deploy.quant.float_parts import float_outputs, float_sums
from tpu_deploy.quant.plan import Trial
from tpu_deploy.quant.value_samples import ValueSamples

SEED = 11

HELD_OUT = 0.25
"""The share of the samples that judges."""

DB_PER_PERCENT = 0.2
"""What a pass must bring for every percent of cycles that it costs."""


def split(count: int) -> tuple[list[int], list[int]]:
    """Numbers of the samples that plans are made from, and of those that judge them: always the same of `count`.

    With fewer than four samples all do both.
    """
    if count < 4:
        return list(range(count)), list(range(count))
    order = np.random.default_rng(SEED).permutation(count).tolist()
    apart = max(1, round(HELD_OUT * count))
    return sorted(order[apart:]), sorted(order[:apart])


@dataclass
class Workshop:
    """Makes plans of one canonical network by recipes: all that they are made from, held once.

    `feeds` are whole batches, without those that judge; `statistics` are of all samples.
    """

    network: Network
    statistics: Statistics
    feeds: Sequence[Feed]
    chip: str
    _types: dict[frozenset[str], QuantizationPlan] = field(default_factory=dict)

    @cached_property
    def samples(self) -> dict[str, ValueSamples]:
        """Values drawn from the feeds."""
        return value_samples(self.network, self.feeds)

    def types(self, recipe: Recipe) -> QuantizationPlan:
        """The plan of a recipe before any pass over weights."""
        passes = recipe.passes - set(recipe.weights)
        if passes not in self._types:
            self._types[passes] = self._typed(passes)
        return self._types[passes]

    def plan(self, recipe: Recipe) -> QuantizationPlan:
        """The plan of a recipe."""
        types = self.types(recipe)
        return fit_weights(self.network, types, self.feeds, recipe.weights, self.chip) if recipe.weights else types

    def _typed(self, passes: frozenset[str]) -> QuantizationPlan:
        operations, results = float_sums(self.network) if "float_sums" in passes else ({}, {})
        if "float_outputs" in passes:
            results |= {n: p for n, p in float_outputs(self.network).items() if n not in operations}
        scheme = Scheme(asymmetric="zero_points" in passes, operations=operations, results=results)
        table = CalibrationTable.of(self.statistics, METHOD)
        plan = make_plan(self.network, table, scheme)
        chosen = [group for group in self._factor_groups(plan) if self._equalizer(group) in passes]
        if chosen:
            plan = equalized(self.network, plan, table, self.samples, chosen, "zero_points" in passes)
        if "thresholds" in passes:
            names, zero_points = judged(self.network), "zero_points" in passes
            plan = fit_thresholds(self.network, plan, table, self.samples, self.feeds, names, zero_points)
        return plan

    def _factor_groups(self, plan: QuantizationPlan) -> list[list[str]]:
        return factor_groups(self.network, plan, lambda op: is_unary(self.network, op))

    def _equalizer(self, group: Sequence[str]) -> str:
        """The pass that gives channels of a group of tensors their scales."""
        return "equalization" if around_convolutions(self.network, group) else "migration"


@dataclass(frozen=True)
class _State:
    """Where the search stands; `cycles` are None until somebody asks."""

    recipe: Recipe
    plan: QuantizationPlan
    noise: float
    cycles: int | None = None


def tune(
    network: Network,
    statistics: Statistics,
    feeds: Sequence[Feed],
    held_out: Sequence[Feed],
    chip: str,
    passes: Sequence[Pass] = PASSES,
    progress: Progress = SILENT,
    timed: Network | None = None,
) -> QuantizationPlan:
    """The best plan that the passes lead to, one after another; its `trials` tell what each of them brought.

    Plans are made from `statistics`, ranges of all samples, and from `feeds`, and judged on `held_out`, all whole
    batches; cycles are those of `timed`, the network with another batch. The first plan is plain: symmetric, all in
    INT8, weights rounded to nearest; none that is further from the float network is returned. A network that computes
    nothing has no other.
    """
    allowed = {each.name for each in passes}
    workshop, judge = Workshop(network, statistics, feeds, chip), Judge(network, held_out, chip, timed)
    plan = workshop.plan(Recipe())
    state, trials = _State(Recipe(), plan, judge.noise(plan)), []
    for each in passes if network.operations else ():
        progress.stage(f"Tune: {each.does}")
        recipes = [recipe for recipe in dict.fromkeys(each.recipes(state.recipe)) if recipe.passes <= allowed]
        tried = [_tried(workshop, judge, recipe, state) for recipe in recipes]
        best = min(tried, key=lambda other: other.noise)
        gain = _decibels(state.noise) - _decibels(best.noise)
        kept = gain > 0
        if kept:
            state, best = _timed(judge, state), _timed(judge, best)
            kept = gain > DB_PER_PERCENT * _more_cycles(state, best)
        trials.append(_trial(each, state, best, kept))
        state = best if kept else state
    return replace(state.plan, trials=tuple(trials))


def _tried(workshop: Workshop, judge: Judge, recipe: Recipe, state: _State) -> _State:
    """The state of another recipe: the same again where that changes nothing."""
    if recipe.weights == state.recipe.weights and workshop.types(recipe) == workshop.types(state.recipe):
        return state
    plan = workshop.plan(recipe)
    return _State(recipe, plan, judge.noise(plan))


def _timed(judge: Judge, state: _State) -> _State:
    return state if state.cycles is not None else replace(state, cycles=judge.cycles(state.plan))


def _more_cycles(state: _State, other: _State) -> float:
    """In percent."""
    assert state.cycles is not None and other.cycles is not None
    return max(0.0, 100 * (other.cycles / state.cycles - 1))


def _trial(each: Pass, state: _State, best: _State, kept: bool) -> Trial:
    before, after = (-_decibels(noise) for noise in (state.noise, best.noise))
    return Trial(each.name, each.does, before, after, state.cycles, best.cycles, kept)


def _decibels(noise: float) -> float:
    return 10 * math.log10(max(noise, 1e-30))
