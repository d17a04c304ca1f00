"""What each INT8 operation and each 8-bit tensor adds to the error of the outputs, by one pass over some samples.

An error is put into the float network where it arises, and the network run on from there. Errors of different places
are as good as independent, so the error of any mixture is the sum of those its places make: nothing is run for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.lowering.builder import uniform
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.float_layers import FloatLayers
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.search_wiring import Mixture, Wiring
from tpu_deploy.pipeline.single_layers import single_layers
from tpu_deploy.quant.plan import QuantizationPlan
from tpu_deploy.runtime.reference import Reference

if TYPE_CHECKING:
    from tpu_deploy.calibration import Feed

Array = npt.NDArray[Any]
Energies = npt.NDArray[np.float64]

BUDGET = 8_000_000_000
"""Elements that all runs may compute together: fewer samples are taken of large networks."""

SAMPLES = 8
LEAST_SAMPLES = 2

OWN, RESULT, READ = "own", "result", "read"

Place = tuple[str, ...]
"""Where an error arises: (OWN, operation), (RESULT, tensor) or (READ, tensor, operation)."""


@dataclass(frozen=True)
class Noise:
    """Error energies of the outputs over the outputs' own, (places, batches, outputs), by where an error arises.

    OWN: in the arithmetic of an INT8 operation, rounding of a product's sums excepted; RESULT: by rounding a tensor to
    8 bits for all who read it; READ: for one reader alone, of tensors that have several. The higher the `power`, the
    more do batches and outputs count that have more noise than others: 1 for all alike.
    """

    places: tuple[Place, ...]
    energies: Energies
    power: float = 1.0

    @cached_property
    def _index(self) -> dict[Place, int]:
        return {place: index for index, place in enumerate(self.places)}

    @cached_property
    def _weighted(self) -> dict[Place, float]:
        found = self.energies.sum(axis=0) ** (self.power - 1)
        weights = found / (found.mean() or 1.0)
        return {p: float((each * weights).mean()) for p, each in zip(self.places, self.energies, strict=True)}

    def size(self, place: Place) -> float:
        """The noise of a place as one number, batches and outputs weighed by their noise in INT8; 0 of no place."""
        return self._weighted.get(place, 0.0)

    def total(self, wiring: Wiring, mixture: Mixture) -> float:
        """The noise of a completed mixture as one number."""
        mean = float(np.mean(self.rows(wiring, mixture) ** self.power))
        return math.pow(mean, 1 / self.power)

    def rows(self, wiring: Wiring, mixture: Mixture) -> Energies:
        """The noise of a completed mixture, (batches, outputs)."""
        found = [self._index[place] for place in noisy_places(wiring, mixture) if place in self._index]
        rows: Energies = self.energies[found].sum(axis=0)
        return rows


def rounding(wiring: Wiring, tensor: str, reader: str) -> Place:
    """The place where one reader rounds a float tensor to 8 bits."""
    return (READ, tensor, reader) if wiring.uses(tensor) > 1 else (RESULT, tensor)


def noisy_places(wiring: Wiring, mixture: Mixture) -> Iterator[Place]:
    """Where errors arise in a completed mixture."""
    for name in wiring.operations:
        if name not in mixture.floats:
            yield OWN, name
            if name in wiring.products and name not in mixture.results:
                yield RESULT, name
    for tensor, readers in wiring.readers.items():
        if wiring.is_made_float(tensor, mixture):
            integer = [reader for reader in readers if reader not in mixture.floats]
            if len(integer) == wiring.uses(tensor):
                yield RESULT, tensor
            else:
                yield from (rounding(wiring, tensor, reader) for reader in integer)


class Probe:
    """Measures the noise of each place, one batch at a time; several threads may ask at once."""

    def __init__(self, top: Network, wiring: Wiring, plan: QuantizationPlan, sums: QuantizationPlan, chip: str) -> None:
        """`plan` is all INT8; `sums` as well, but its products keep their sums as floats."""
        self._wiring = wiring
        lowered = lower_to_tpu(top, sums, chip)
        names = [name_of(value) for value in top.values()]
        self._reference = Reference(lowered, threads=1)
        self._layers = single_layers(lowered, names)
        self._floats = FloatLayers(top, threads=1)
        self._network = FloatNetwork(top, threads=1)
        self._names = names
        self._types = {name: uniform(each) for name, each in plan.tensors.items() if each.is_quantized}
        moving = {name for each in wiring.moving for name in each.inside}
        integer = [name for name in wiring.operations if plan.operations[name] == "INT8" and name not in moving]
        self._computing = [name for name in integer if name in self._layers]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """All places, in order; an operation that is lowered as a part of its reader makes its errors there."""
        found: list[Place] = [(OWN, name) for name in self._computing]
        for tensor in self._types:
            if self._wiring.uses(tensor):
                found.append((RESULT, tensor))
                if self._wiring.uses(tensor) > 1:
                    found += [(READ, tensor, reader) for reader in self._wiring.readers.get(tensor, ())]
        return tuple(found)

    def batches(self, available: int) -> int:
        """How many batches the budget allows."""
        behind, later = {}, 0
        for name in reversed(self._names):
            behind[name] = later
            later += int(np.prod(self._wiring.shapes[name], dtype=np.int64))
        visits = sum(behind[place[-1]] for place in self.places)
        return min(available, SAMPLES, max(LEAST_SAMPLES, BUDGET // max(visits, 1)))

    def measured(self, feed: Feed) -> tuple[list[list[float]], dict[str, float]]:
        """The noise of each place in each output, in the order of `places`; and each tensor's largest magnitude."""
        values = self._network.values(feed)
        exact = {name: values[name] for name in self._names}
        peaks = {name: float(np.abs(array).max()) for name, array in exact.items()}
        return [self._outputs(self._error(place, exact), exact) for place in self.places], peaks

    def _error(self, place: Place, exact: Mapping[str, Array]) -> dict[str, Array]:
        """The tensor that an error arises in, with the error."""
        kind, name = place[:2]
        if kind == OWN:
            return {name: exact[name] + self._own(name, exact)}
        rounded = self._rounded(name, exact[name])
        if kind == RESULT:
            return {name: rounded}
        operands = {each: exact[each] for each in self._wiring.reads[place[2]]} | {name: rounded}
        return {made: self._floats.run(made, operands) for made in self._wiring.makes[place[2]]}

    def _rounded(self, tensor: str, array: Array) -> Array:
        kind = self._types[tensor]
        return kind.dequantize(kind.quantize(array))

    def _own(self, name: str, exact: Mapping[str, Array]) -> Array:
        """What the INT8 operation makes of float operands rounded to its types, beyond the float operation on these."""
        layer = self._layers[name]
        stored = {each.name: each.store(exact[each.tensor]) for each in layer.operands}
        result = self._reference.run({}, [layer.result.name], stored)[layer.result.name]
        read = {t: each.load(each.store(exact[t])) for t, each in layer.read.items()}
        found: Array = layer.result.load(result) - self._floats.run(name, read)
        return found

    def _outputs(self, changed: dict[str, Array], exact: Mapping[str, Array]) -> list[float]:
        """What the outputs' energies change by, over their own, when the float network runs on from `changed`."""
        done = set(changed)
        changed = {name: array for name, array in changed.items() if not np.array_equal(array, exact[name])}
        for operation in self._wiring.operations:
            reads = self._wiring.reads[operation]
            if any(tensor in changed for tensor in reads):
                operands = {tensor: changed.get(tensor, exact[tensor]) for tensor in reads}
                for made in self._wiring.makes[operation]:
                    if made not in done:
                        changed[made] = self._floats.run(made, operands)
        return [_energy_ratio(changed.get(name), exact[name]) for name in self._wiring.outputs]


def _energy_ratio(actual: Array | None, exact: Array) -> float:
    if actual is None:
        return 0.0
    signal = float(np.square(exact.astype(np.float64)).sum()) or 1.0
    return float(np.square(actual.astype(np.float64) - exact).sum()) / signal
