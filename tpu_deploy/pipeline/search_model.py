"""What is foreseen of any mixture, and which is the cheapest within a limit of noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tpu_deploy.pipeline.search_cost import Costs, Timed
from tpu_deploy.pipeline.search_cuts import Cuts
from tpu_deploy.pipeline.search_noise import Noise
from tpu_deploy.pipeline.search_wiring import Mixture, Wiring


@dataclass(frozen=True)
class Foreseen:
    """What is expected of a mixture; `noise` is the error energy of the outputs over their own."""

    mixture: Mixture
    cycles: float
    noise: float


@dataclass(frozen=True)
class Model:
    """Noise and cycles of every mixture of a network."""

    wiring: Wiring
    noise: Noise
    costs: Costs

    def foreseen(self, mixture: Mixture) -> Foreseen:
        """What to expect of a mixture."""
        completed = self.wiring.completed(mixture)
        return Foreseen(mixture, self.costs.cycles(completed), self.noise.total(self.wiring, completed))

    def similarity(self, mixture: Mixture) -> float:
        """The cosine to expect of the worst output and batch, if its error is at right angles to it."""
        rows = self.noise.rows(self.wiring, self.wiring.completed(mixture))
        return 1 / math.sqrt(1 + float(rows.max(initial=0.0)))

    @cached_property
    def pool(self) -> tuple[Foreseen, ...]:
        """The mixtures that no other is expected to beat in both cycles and noise, the cheapest first."""
        ends = [Mixture(), self.wiring.all_float]
        cuts = Cuts(self.wiring, self.noise, self.costs).mixtures()
        found = [self.foreseen(each) for each in dict.fromkeys([*ends, *cuts])]
        found.sort(key=lambda each: (each.cycles, each.noise, each.mixture.key))
        best: list[Foreseen] = []
        for each in found:
            if not best or each.noise < best[-1].noise:
                best.append(each)
        return tuple(best)

    def cheapest(self, limit: float) -> Foreseen:
        """The mixture of fewest expected cycles among those of at most `limit` noise; that of least noise if there are
        none.
        """
        within = [each for each in self.pool if each.noise <= limit]
        return self._thinned(within[0], limit) if within else self.pool[-1]

    def _thinned(self, start: Foreseen, limit: float) -> Foreseen:
        """`start` with what saves cycles taken back to INT8, most first, while the noise stays within the limit."""
        best = start
        while True:
            tried = [self.foreseen(each) for each in reversions(self.wiring, best.mixture)]
            saving = [each for each in tried if each.noise <= limit and each.cycles < best.cycles]
            if not saving:
                return best
            best = min(saving, key=lambda each: (each.cycles, each.noise, each.mixture.key))

    def learned(self, mixture: Mixture, seen: Timed) -> Model:
        """The model corrected by a compiled mixture."""
        return Model(self.wiring, self.noise, self.costs.learned(self.wiring.completed(mixture), seen))


def reversions(wiring: Wiring, mixture: Mixture) -> Iterator[Mixture]:
    """The mixture with one thing back in INT8: a float operation, a float result, or a run of float operations."""
    seen = set()
    for name in wiring.computing:
        if name in mixture.floats:
            run = _run(wiring, mixture, name)
            for taken in dict.fromkeys((frozenset({name}), run)):
                if taken not in seen:
                    seen.add(taken)
                    yield _with_read_sums(wiring, Mixture(mixture.floats - taken, mixture.results - taken))
        if name in mixture.results:
            yield Mixture(mixture.floats, mixture.results - {name})


def _with_read_sums(wiring: Wiring, mixture: Mixture) -> Mixture:
    """The mixture without those float sums that nothing reads as floats any more."""
    floats = wiring.completed(mixture).floats
    outputs = set(wiring.outputs)

    def is_read(name: str) -> bool:
        made = wiring.makes[name]
        return any(t in outputs or not floats.isdisjoint(wiring.readers.get(t, ())) for t in made)

    return Mixture(mixture.floats, frozenset(name for name in mixture.results if is_read(name)))


def _run(wiring: Wiring, mixture: Mixture, start: str) -> frozenset[str]:
    """The float operations, and the products with float sums, that hang together with one of them."""
    inside, front = {start}, [start]
    while front:
        for name in wiring.neighbours(front.pop()):
            if name in mixture.floats | mixture.results and name not in inside:
                inside.add(name)
                front.append(name)
    return frozenset(inside)
