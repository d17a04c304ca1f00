"""The search itself: one pass ranks what makes noise, measured candidates close in on the target, then save cycles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.options import Progress
from tpu_deploy.pipeline.search_cost import Busy, CastRates, Costs, Timed, timed
from tpu_deploy.pipeline.search_model import Foreseen, Model, reversions
from tpu_deploy.pipeline.search_noise import Noise, Probe
from tpu_deploy.pipeline.search_record import SearchRecord
from tpu_deploy.pipeline.search_target import METRIC, SIMILARITY, SQNR, Target
from tpu_deploy.pipeline.search_wiring import Mixture, Wiring
from tpu_deploy.quant import QuantizationPlan, Scheme
from tpu_deploy.runtime.reference.workers import available_threads

STEPS = 7
"""Candidates at most that close in on the target."""

NEAR = 1.08
"""Limits of noise nearer than this are not told apart."""

CORRECTIONS = 4
"""How often the cheapest mixture may turn out to cost more than was foreseen before the best of those is taken."""

FORESEEN = 1.02
"""How much more a compiled candidate may cost than was foreseen."""

RETURNS = 6
"""Candidates at most with something taken back to INT8 that seemed to be needed."""

DOUBT = 1.25
"""How many times the noise of the best mixture may be foreseen of another that is tried in its place."""

SPREAD = (0.25, 0.5, 0.75)
"""Where between INT8 and float, in dB of noise, further points of the front are measured."""

WORST = 3.0
"""The power of noise where the worst sample is what counts: the mean of cubes is near their maximum."""

F16_LIMIT = 65504 / 2
"""Operations on larger values than this are computed in BF16 where F16 was asked for: half of what F16 holds."""

Figures = Callable[[Network], Mapping[str, float]]


@dataclass(frozen=True)
class Measured:
    """A mixture in a float `precision`, the estimated cycles of its bmodel and its figures on the held-out samples."""

    mixture: Mixture
    precision: str
    cycles: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """The cheapest mixture that reaches the target, else the best of all; and everything measured on the way."""

    chosen: Measured
    is_reached: bool
    measured: tuple[Measured, ...]

    @property
    def integer(self) -> Measured:
        """The network as it was planned, with no operation in float for the sake of the target: measured first."""
        return self.measured[0]


@dataclass(frozen=True)
class Task:
    """What a search works on: a canonical network, how plans are made for it, and what judges them.

    `judges` measure figures of TPU networks, by the kind of fact under which the record keeps them. `peaks` are the
    largest magnitudes known of tensors. `precisions` are float precisions, tried in this order.
    """

    top: Network
    planned: Callable[[Scheme], QuantizationPlan]
    chip: str
    ranking: Sequence[Feed]
    judges: Mapping[str, Figures]
    target: Target
    peaks: Mapping[str, float]
    precisions: Sequence[str]


class Engine:
    """One search. Whatever takes time is kept in the record, so that an interrupted search goes on where it was."""

    def __init__(self, task: Task, record: SearchRecord, progress: Progress) -> None:
        self._task, self._record, self._progress = task, record, progress
        self._precision = task.precisions[0]
        self._base = task.planned(Scheme())
        self._wiring = Wiring.of(task.top, self._precision, self._base)
        self._peaks = dict(task.peaks)
        self._done: dict[str, Measured] = {}

    def outcome(self) -> Outcome:
        """The search, from the ranking to the choice."""
        noise = self._noise()
        integer = self._measured(Mixture())
        floating = self._measured(self._wiring.all_float)
        for precision in self._task.precisions[1:]:
            if self._reached(floating) or self._reached(integer):
                break
            self._precision, self._wiring = precision, Wiring.of(self._task.top, precision, self._base)
            floating = self._measured(self._wiring.all_float)
        if self._wiring.computing:
            model = Model(self._wiring, noise, self._costs())
            if self._reached(integer) or self._reached(floating):
                model = self._close_in(model, integer)
                self._take_back(model)
            self._fill(model)
        return self._outcome()

    # ---- facts

    def _noise(self) -> Noise:
        """The noise of each place, ranked on some batches; peaks become known by the way."""
        task = self._task
        sums = Scheme(results=dict.fromkeys(self._integer_products(), "F32"))
        probe = Probe(task.top, self._wiring, self._base, task.planned(sums), task.chip)
        feeds = task.ranking[: probe.batches(len(task.ranking))]

        def measured(number: int) -> Any:
            if self._record.has("noise", str(number)):
                return self._record.fact("noise", str(number), list)
            return list(probe.measured(feeds[number]))

        found = []
        with ThreadPoolExecutor(available_threads(), "search") as executor:
            for number, fact in enumerate(executor.map(measured, range(len(feeds)))):
                self._progress.stage(f"Rank operations by noise: sample {number + 1} of {len(feeds)}")
                found.append(self._record.kept("noise", str(number), fact))
        for _, peaks in found:
            self._peaks = {name: max(peak, self._peaks.get(name, 0.0)) for name, peak in peaks.items()}
        shape = len(found), len(probe.places), len(self._wiring.outputs)
        energies = np.array([rows for rows, _ in found], np.float64).reshape(shape).transpose(1, 0, 2)
        return Noise(probe.places, energies, WORST if task.target.figure == SIMILARITY else 1.0)

    def _integer_products(self) -> list[str]:
        """The products whose sums can become floats, and are not yet."""
        wiring = self._wiring
        return [n for n in wiring.operations if n in wiring.products - wiring.only_float - wiring.only_sums]

    def scheme(self, mixture: Mixture, precision: str) -> Scheme:
        """What the plan of a mixture is made from."""
        floats = {n: self._float_of(n, precision) for n in self._wiring.operations if n in mixture.floats}
        results = {n: self._float_of(n, precision) for n in self._wiring.operations if n in mixture.results}
        return Scheme(operations=floats, results=results)

    def _float_of(self, operation: str, precision: str) -> str:
        touched = (*self._wiring.reads[operation], *self._wiring.makes[operation])
        peak = max((self._peaks.get(tensor, 0.0) for tensor in touched), default=0.0)
        return "BF16" if precision == "F16" and peak > F16_LIMIT else precision

    def _key(self, mixture: Mixture) -> str:
        return f"{self._precision} {mixture.key}"

    def _lowered(self, mixture: Mixture) -> Network:
        plan = self._task.planned(self.scheme(mixture, self._precision))
        return lower_to_tpu(self._task.top, plan, self._task.chip)

    def _timed(self, mixture: Mixture) -> Timed:
        """The compiled mixture; what cannot be compiled, as INT8 can, takes forever."""
        fact = self._record.fact("cycles", self._key(mixture), partial(self._compiled, mixture))
        return Timed(fact["cycles"], {name: Busy(*each) for name, each in fact["busy"].items()})

    def _compiled(self, mixture: Mixture) -> dict[str, Any]:
        try:
            found = timed(self._lowered(mixture), self._wiring, self._task.chip)
        except BadInput:
            if mixture == Mixture():
                raise
            return {"cycles": math.inf, "busy": {}}
        return {"cycles": found.cycles, "busy": found.busy}

    def _measured(self, mixture: Mixture) -> Measured:
        """The mixture measured by all judges."""
        key = self._key(mixture)
        if key not in self._done:
            count = len(mixture.floats)
            self._progress.stage(f"Verify candidate {len(self._done) + 1}: {count} operations in {self._precision}")
            cycles = self._timed(mixture).cycles
            figures: dict[str, float] = {}
            for kind, judge in self._task.judges.items():
                figures |= self._record.fact(kind, key, partial(self._judged, judge, mixture))
            self._done[key] = Measured(mixture, self._precision, cycles, figures)
        return self._done[key]

    def _judged(self, judge: Figures, mixture: Mixture) -> dict[str, float]:
        return dict(judge(self._lowered(mixture)))

    def _costs(self) -> Costs:
        sums = Mixture(results=frozenset(self._integer_products()))
        rates = self._record.fact(
            "rates", self._precision, lambda: vars(CastRates.of(self._precision, self._task.chip))
        )
        integer, summed, floating = (self._timed(each) for each in (Mixture(), sums, self._wiring.all_float))
        return Costs.of(self._wiring, integer, summed, floating, CastRates(**rates))

    # ---- the search

    def _reached(self, found: Measured) -> bool:
        return math.isfinite(found.cycles) and self._task.target.is_reached(found.figures)

    def _close_in(self, model: Model, integer: Measured) -> Model:
        """Measures candidates ever nearer to the most noise that the target bears; the model learns of them."""
        failing, passing = model.foreseen(Mixture()).noise, 0.0
        if self._reached(integer):
            candidate, model = self._settled(model, math.inf)
            self._measured(candidate.mixture)
            return model
        level = self._first_level(model)
        for _ in range(STEPS):
            candidate, model = self._settled(model, level)
            found = self._measured(candidate.mixture)
            if self._reached(found):
                passing = level
            else:
                failing = min(candidate.noise, level)
            if failing <= passing * NEAR or not failing > 0:
                break
            level = self._next_level(level, found.figures, failing, passing)
        return model

    def _settled(self, model: Model, limit: float) -> tuple[Foreseen, Model]:
        """The cheapest mixture within a limit of noise, compiled, and the model that learned from it."""
        tried: list[Foreseen] = []
        for _ in range(CORRECTIONS):
            best = model.cheapest(limit)
            if any(each.mixture == best.mixture for each in tried):
                break
            self._progress.stage(f"Compile a candidate: {len(best.mixture.floats)} operations in {self._precision}")
            seen = self._timed(best.mixture)
            tried.append(replace(best, cycles=seen.cycles))
            if seen.cycles <= FORESEEN * best.cycles:
                break
            model = model.learned(best.mixture, seen)
        return min(tried, key=lambda each: (each.cycles, each.noise, each.mixture.key)), model

    def _first_level(self, model: Model) -> float:
        """The noise at which the target should be reached, by what is foreseen."""
        target = self._task.target
        if target.figure == SIMILARITY:
            enough = [each.noise for each in model.pool if model.similarity(each.mixture) >= target.least]
            return max(enough, default=model.pool[-1].noise)
        if target.figure == SQNR:
            return 10 ** (-target.least / 10)
        return model.foreseen(Mixture()).noise / 4

    def _next_level(self, level: float, figures: Mapping[str, float], failing: float, passing: float) -> float:
        """By how much noise was seen at this one, where that can be told; else halfway between the bounds."""
        wanted = level * _allowed_over_seen(self._task.target, figures)
        if passing * NEAR < wanted < failing / NEAR:
            return wanted
        return math.sqrt(failing * passing) if passing > 0 else failing / 4

    def _take_back(self, model: Model) -> None:
        """Takes back to INT8, one by one, what the target can do without after all."""
        for _ in range(RETURNS):
            candidate = self._next_return(model, self._outcome())
            if candidate is None:
                return
            self._measured(candidate)

    def _next_return(self, model: Model, best: Outcome) -> Mixture | None:
        """What to try next in place of the best mixture so far: least noise for the cycles it saves, once compiled."""
        if not best.is_reached or best.chosen.precision != self._precision:
            return None
        start = model.foreseen(best.chosen.mixture)
        found = [model.foreseen(each) for each in reversions(self._wiring, best.chosen.mixture)]
        saving = [e for e in found if e.cycles < start.cycles and e.noise <= DOUBT * start.noise]
        saving.sort(key=lambda each: ((each.noise - start.noise) / (start.cycles - each.cycles), each.mixture.key))
        for each in saving:
            is_new = self._key(each.mixture) not in self._done
            if is_new and self._timed(each.mixture).cycles < best.chosen.cycles:
                return each.mixture
        return None

    def _fill(self, model: Model) -> None:
        """Measures some points of the front that are far from the target."""
        most = model.foreseen(Mixture()).noise
        least = min((each.noise for each in model.pool if each.noise > 0), default=0.0)
        if not 0 < least < most:
            return
        for share in SPREAD:
            candidate, model = self._settled(model, most * (least / most) ** share)
            self._measured(candidate.mixture)

    def _outcome(self) -> Outcome:
        """The choice among all that was measured so far."""
        target, found = self._task.target, tuple(self._done.values())

        def order(each: Measured) -> tuple[float, float, str]:
            return each.cycles, -target.worth(each.figures), each.mixture.key

        enough = [each for each in found if self._reached(each)]
        if enough:
            return Outcome(min(enough, key=order), True, found)
        compiled = [each for each in found if math.isfinite(each.cycles)]
        best = max(target.worth(each.figures) for each in compiled)
        return Outcome(min((e for e in compiled if target.worth(e.figures) == best), key=order), False, found)


def _allowed_over_seen(target: Target, figures: Mapping[str, float]) -> float:
    """How many times the measured noise the target bears; infinite where a figure does not tell of noise."""
    if target.figure == METRIC:
        return math.inf
    value = figures[target.figure]
    if target.figure == SQNR:
        return 10 ** ((value - target.least) / 10) if math.isfinite(value) else math.inf
    if not (0 < value < 1 and target.least > 0):
        return math.inf
    return (1 / target.least**2 - 1) / (1 / value**2 - 1)
