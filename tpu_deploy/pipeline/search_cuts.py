"""The best mixtures by what is foreseen of noise and cycles: each is a minimum cut of a graph.

For a price of noise in cycles, the mixture of least cycles + price * noise cuts a graph into what is float and what is
INT8: an arc from float to INT8 costs what it costs to have its two ends on either side, a cast for instance. Cut after
cut for rising prices gives the mixtures that are worth a look.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from tpu_deploy.pipeline.search_cost import FLOAT, INTEGER, SUMS, Busy, Costs
from tpu_deploy.pipeline.search_noise import OWN, RESULT, Noise, rounding
from tpu_deploy.pipeline.search_wiring import Mixture, Wiring

FloatArray = npt.NDArray[np.float64]

PRICES = np.geomspace(1e-4, 1e6, 32)
"""Prices of noise, in units of the network's cycles over its noise in INT8."""

BOUND_BY = (0.0, 0.5, 1.0)
"""How much of the waiting is for the DMA engine: cycles of the two engines do not add up, they overlap."""

BOUND_UNTIL = (0.125, 0.25, 0.5, 0.75)
"""Where, in networks whose beginning waits for loads and whose end for computing, the one becomes the other."""

CAPACITY = 1 << 30
"""The capacity of arcs that must not be cut; all others together have less."""


class Cuts:
    """Minimum cuts of one network."""

    def __init__(self, wiring: Wiring, noise: Noise, costs: Costs) -> None:
        self._wiring, self._noise, self._costs = wiring, noise, costs
        self._nodes: dict[tuple[str, str], int] = {("float", ""): 0, ("integer", ""): 1}
        self._arcs: list[tuple[int, int]] = []
        self._weights: list[tuple[float, float, float]] = []
        self._places: list[int] = []
        self._position = {name: index for index, name in enumerate(wiring.operations)}
        self._bound: list[tuple[int, int]] = []
        for name in wiring.operations:
            self._add_operation(name)
        for tensor in dict.fromkeys([*wiring.readers, *wiring.outputs]):
            self._add_tensor(tensor)
        self._ends = np.array([*self._arcs, *self._bound]).reshape(-1, 2)
        self._table = np.array(self._weights).reshape(-1, 3)
        self._at = np.array(self._places, np.int64)

    def mixtures(self) -> Iterator[Mixture]:
        """Mixtures for all prices and all guesses of what the network waits for; some come twice."""
        everything = self._wiring.completed(Mixture())
        noise = self._noise.total(self._wiring, everything)
        if not noise > 0:
            return
        unit = self._costs.cycles(everything) / noise
        for shares in self._waiting():
            for price in PRICES:
                yield self.best(price * unit, shares)

    def _waiting(self) -> Iterator[FloatArray]:
        count = len(self._wiring.operations)
        for share in BOUND_BY:
            yield np.full(count, share)
        for end in BOUND_UNTIL:
            yield (np.arange(count) < end * count).astype(np.float64)

    def best(self, price: float, waiting: FloatArray) -> Mixture:
        """The mixture of least cost at a price of noise; `waiting` (operations) is the share of waiting for the DMA."""
        share = waiting[self._at]
        costs = self._table[:, 0] * (1 - share) + self._table[:, 1] * share + price * self._table[:, 2]
        tail = np.where(costs >= 0, self._ends[: len(costs), 0], 0)
        head = np.where(costs >= 0, self._ends[: len(costs), 1], self._ends[: len(costs), 0])
        weights = np.abs(costs)
        scale = (CAPACITY / 2 - len(weights)) / max(float(weights.sum()), 1e-300)
        bound = self._ends[len(costs) :]
        ends = np.concatenate([np.stack([tail, head], 1), bound])
        capacity = np.concatenate([np.rint(weights * scale), np.full(len(bound), CAPACITY)]).astype(np.int32)
        return self._mixture(_float_side(ends, capacity, len(self._nodes)))

    def _mixture(self, side: npt.NDArray[np.bool_]) -> Mixture:
        chosen = self._wiring.computing
        floats = frozenset(name for name in chosen if side[self._nodes["computed", name]])
        sums = {name for name in self._wiring.products if side[self._nodes["made", name]]}
        return Mixture(floats, frozenset(sums - floats - self._wiring.only_float - self._wiring.only_sums))

    def _node(self, kind: str, name: str) -> int:
        return self._nodes.setdefault((kind, name), len(self._nodes))

    def _made(self, tensor: str) -> int:
        """The node that tells whether a tensor is made as a float."""
        maker = self._wiring.makers.get(tensor)
        if maker is None:
            return 0
        return self._node("made" if maker in self._wiring.products else "computed", maker)

    def _arc(self, tail: int, head: int, place: str, busy: Busy = Busy(0, 0), noise: float = 0.0) -> None:
        """What it costs to have `tail` float and `head` INT8; less than 0 only towards INT8 itself."""
        self._arcs.append((tail, head))
        self._weights.append((busy.tiu, busy.gdma, noise))
        self._places.append(self._position[place])

    def _add_operation(self, name: str) -> None:
        forms = {form: self._costs.computing(name, form) for form in (INTEGER, SUMS, FLOAT)}
        computed, noise = self._node("computed", name), self._noise.size((OWN, name))
        self._arc(0, computed, name, noise=noise)
        if name in self._wiring.products:
            made = self._node("made", name)
            self._bound.append((computed, made))
            self._arc(0, made, name, noise=self._noise.size((RESULT, name)))
            self._arc(made, 1, name, _difference(forms[SUMS], forms[INTEGER]))
            self._arc(computed, 1, name, _difference(forms[FLOAT], forms[SUMS]))
        else:
            self._arc(computed, 1, name, _difference(forms[FLOAT], forms[INTEGER]))
        if name in self._wiring.only_sums:
            self._bound.append((0, self._node("made", name)))
        if name in self._wiring.only_float:
            self._bound.append((0, computed))
        if name in self._wiring.only_int8:
            self._bound.append((computed, 1))

    def _add_tensor(self, tensor: str) -> None:
        made, readers = self._made(tensor), self._wiring.readers.get(tensor, ())
        computed = [self._node("computed", reader) for reader in readers]
        for node, reader in zip(computed, readers, strict=True):
            self._arc(made, node, reader, noise=self._noise.size(rounding(self._wiring, tensor, reader)))
        if not made:
            return
        rounded, widened = self._node("rounded", tensor), self._node("widened", tensor)
        place = readers[0] if readers else self._wiring.makers[tensor]
        self._arc(made, rounded, place, self._costs.quantizing(tensor))
        self._arc(widened, made, place, self._costs.dequantizing(tensor))
        for node in computed:
            self._bound += [(rounded, node), (node, widened)]
        if tensor in self._wiring.outputs:
            self._bound.append((0, widened))


def _difference(a: Busy, b: Busy) -> Busy:
    return Busy(a.tiu - b.tiu, a.gdma - b.gdma)


def _float_side(ends: npt.NDArray[np.int64], capacity: npt.NDArray[np.int32], nodes: int) -> npt.NDArray[np.bool_]:
    """Which nodes a minimum cut leaves with node 0, as few as it can; node 1 is on the other side."""
    graph = sparse.csr_array((capacity, (ends[:, 0], ends[:, 1])), shape=(nodes, nodes), dtype=np.int32)
    graph.sum_duplicates()
    flow = csgraph.maximum_flow(graph, 0, 1).flow
    rest = sparse.csr_array(graph - flow)
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    reached = csgraph.breadth_first_order(rest, 0, return_predecessors=False)
    side = np.zeros(nodes, np.bool_)
    side[reached] = True
    return side
