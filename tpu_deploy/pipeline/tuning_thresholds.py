"""Thresholds by what they cost the results: each tensor rounded alone, the float network run on from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.pipeline.float_model import session_of
from tpu_deploy.pipeline.tuning_onward import Onward
from tpu_deploy.quant.equalization import FreeTypes
from tpu_deploy.quant.plan import QuantizationPlan, TensorQuantization
from tpu_deploy.quant.ranges import TensorRange
from tpu_deploy.quant.type_choice import NOTHING, Extremes, between, bounds
from tpu_deploy.quant.value_samples import ValueSamples

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]

SHARES = (1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of what was seen of a tensor that are tried as its ends, the widest first."""

HOPELESS = 2.0
"""No narrower range is tried behind one that costs so many times the best."""

COVERED = 0.9
"""Tensors are looked at, those that cost most first, until so much of all that rounding costs is covered."""

ELEMENTS = 16_000_000_000
"""Elements that all runs may compute together: networks of many, and large, tensors are run on fewer samples."""

FEWEST, MOST = 8, 64
"""Samples (feeds) it is done on, where there are so many."""

SEED = 17

FITTING, JUDGING = slice(0, None, 2), slice(1, None, 2)
"""The feeds that types are chosen on, and those that say whether they are better."""


def fit_thresholds(
    network: Network,
    plan: QuantizationPlan,
    table: Mapping[str, TensorRange],
    samples: Mapping[str, ValueSamples],
    feeds: Sequence[Feed],
    results: Sequence[str],
    zero_points: bool,
) -> QuantizationPlan:
    """The plan with the ranges of its tensors fitted, so that `results` (names of values) are nearest on `feeds`.

    Tensors that share a type keep sharing it, factors of channels stay as they are. Ends are tried at shares of what
    `samples` hold; where `zero_points` are allowed both ends move alone. What one half of the feeds chooses must
    be better on the other half as well.
    """
    free = FreeTypes(network, plan, table, samples)
    sets = [tied for tied in free.ties.sets().values() if all(map(free.is_free, tied))]
    bench = _Bench(network, _spread(feeds, _feeds_within_budget(network, len(sets))), results)
    costs = [_Course(bench, free, tied, FITTING).cost(plan.tensors[tied[0]]) for tied in sets]
    total = np.maximum(np.sum(costs, axis=0) if costs else np.zeros(len(results)), NOTHING)
    shares = [float(np.mean(cost / total)) for cost in costs]
    chosen, covered = dict(plan.tensors), 0.0
    for index in sorted(range(len(sets)), key=lambda k: (-shares[k], k)):
        if covered > COVERED * sum(shares):
            break
        covered += shares[index]
        tied = sets[index]
        old, fitting = chosen[tied[0]], _Course(bench, free, tied, FITTING)
        grid = _Grid.of(old, free.extremes(tied), zero_points and free.may_have_zero_point(tied))
        best = _cheapest(old, shares[index], grid, partial(_share, fitting, total))
        judging = partial(_share, _Course(bench, free, tied, JUDGING), total)
        if best != old and judging(best) < judging(old):
            chosen |= dict.fromkeys(tied, best)
    return free.aligned(chosen)


def _share(course: _Course, total: Float64Array, kind: TensorQuantization) -> float:
    """What a type costs all results, as shares of what rounding all tensors costs them."""
    return float(np.mean(course.cost(kind) / total))


def _cheapest(
    old: TensorQuantization, price: float, grid: _Grid, price_of: Callable[[TensorQuantization], float]
) -> TensorQuantization:
    """The cheapest of the old type, whose price is known, and those of the grid."""
    best, least = old, price
    for ends in grid.sides:
        for kind in ends(best):
            found = price_of(kind)
            if found < least:
                best, least = kind, found
            if found > HOPELESS * least:
                break
    return best


@dataclass(frozen=True)
class _Grid:
    """The types that may be tried for a tensor of this `kind`, whose values lie between `low` and `high`."""

    kind: TensorQuantization
    low: float
    high: float
    two_ended: bool

    @classmethod
    def of(cls, kind: TensorQuantization, extremes: Sequence[Extremes], zero_points: bool) -> _Grid:
        """The grid over what was seen, in units of the widest channel."""
        low, high = bounds(extremes, np.array(kind.factors or (1.0,)))
        return cls(kind, low, high, zero_points and kind.dtype == "int8")

    @property
    def sides(self) -> list[Callable[[TensorQuantization], Iterator[TensorQuantization]]]:
        """What may be moved, one after the other: types with one end moved, given the best so far."""
        return [self._upper, self._lower] if self.two_ended else [self._symmetric]

    def _symmetric(self, _: TensorQuantization) -> Iterator[TensorQuantization]:
        top = 255 if self.kind.dtype == "uint8" else 127
        for share in SHARES:
            yield replace(self.kind, scale=max(share * max(-self.low, self.high), NOTHING) / top, zero_point=0)

    def _upper(self, best: TensorQuantization) -> Iterator[TensorQuantization]:
        return (between(self.kind, best.low, share * self.high) for share in SHARES)

    def _lower(self, best: TensorQuantization) -> Iterator[TensorQuantization]:
        return (between(self.kind, share * self.low, best.high) for share in SHARES)


class _Bench:
    """The float network on some feeds, and the energy of its results there."""

    def __init__(self, network: Network, feeds: Sequence[Feed], results: Sequence[str]) -> None:
        self.feeds, self.results = feeds, list(results)
        self.ranks = {name_of(v): len(shape_of(v)) for v in network.values()}
        inputs = {name_of(v) for v in network.inputs}
        self.model = export_onnx(network, [name for name in self.ranks if name not in inputs])
        self._session = session_of(self.model)
        self.energy = np.zeros(len(results))
        for feed in feeds:
            values = self.values(feed, results)
            self.energy += [np.sum(np.square(values[name], dtype=np.float64)) for name in results]

    def values(self, feed: Feed, names: Sequence[str]) -> dict[str, Array]:
        """Exact values by name."""
        computed = [name for name in names if name not in feed]
        found = dict(zip(computed, self._session.run(computed, dict(feed)), strict=True)) if computed else {}
        return found | {name: feed[name] for name in names if name in feed}


class _Course:
    """From the tensors of one type on: what storing them costs each result, over some feeds."""

    def __init__(self, bench: _Bench, free: FreeTypes, tensors: Sequence[str], part: slice) -> None:
        """`part` of the bench's feeds is used."""
        self._bench = bench
        ranks = {name: bench.ranks[name] for name in tensors}
        self._onward = Onward(bench.model, ranks, bench.results, free.exact_readers(tensors))
        wanted = dict.fromkeys([*self._onward.reads, *self._onward.reached])
        self._exact = [bench.values(feed, list(wanted)) for feed in bench.feeds[part]]
        self._channels = free.channels(tensors[0]) if free.is_sum(tensors[0]) else 0

    def cost(self, kind: TensorQuantization) -> Float64Array:
        """The energy of each result's error over that of the result on all feeds.

        The grid of a sum is shifted by chance: where constant values lie between its points is not for us to choose.
        """
        generator = np.random.default_rng(SEED)
        found = dict.fromkeys(self._bench.results, 0.0)
        for exact in self._exact:
            count = self._channels if kind.factors else min(self._channels, 1)
            phases = generator.uniform(-0.5, 0.5, count).astype(np.float32) if count else None
            for name, result in zip(self._onward.reached, self._onward.results(exact, kind, phases), strict=True):
                found[name] += float(np.sum(np.square(result.astype(np.float64) - exact[name])))
        return np.array(list(found.values())) / np.maximum(self._bench.energy, NOTHING)


def _spread(feeds: Sequence[Feed], most: int) -> list[Feed]:
    count = min(len(feeds), most)
    return [feeds[k * len(feeds) // count] for k in range(count)]


def _feeds_within_budget(network: Network, sets: int) -> int:
    """How many feeds the budget allows: half of the network, on an average, is run for each type of each set."""
    elements = sum(math.prod(shape_of(v)) for v in network.values())
    return min(MOST, max(FEWEST, 2 * ELEMENTS // max(1, elements * sets * len(SHARES))))
