"""Cycles of any mixture, casts included, from a few compiled networks; what is chosen is compiled itself afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.timing import estimate
from tpu_deploy.ir.network import Network, element_type, name_of, tensor_type
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.pipeline.search_wiring import Mixture, Wiring
from tpu_deploy.quant.plan import FLOAT_TYPES
from tpu_deploy.reports.timing import by_tensor

INTEGER, SUMS, FLOAT = "integer", "sums", "float"
"""Forms of an operation: INT8, INT8 with sums that become floats, float."""

CAST = "cast"

SURPRISE = 0.01
"""Share of all cycles by which an operation must move more than was foreseen to be remembered."""


class Busy(NamedTuple):
    """Cycles that the two engines work for an operation."""

    tiu: float
    gdma: float


@dataclass(frozen=True)
class Timed:
    """The estimated cycles of a compiled network, and how long each operation keeps the engines busy."""

    cycles: int
    busy: Mapping[str, Busy]


def timed(lowered: Network, wiring: Wiring, chip: str) -> Timed:
    """The cycles of a TPU network; casts count for the first operation that reads them.

    Raises BadInput when the network cannot be compiled.
    """
    compiled = compile_network(lowered, chip)
    found = estimate(compiled.bmodel)
    rows = {row["name"]: (row["tiu_cycles"], row["gdma_cycles"]) for row in by_tensor(found, compiled.commands)}
    busy: dict[str, Busy] = {}
    waiting, owner = Busy(0, 0), None
    for op in lowered.operations:
        tiu, gdma = rows.get(name_of(op), (0, 0))
        waiting = Busy(waiting.tiu + tiu, waiting.gdma + gdma)
        if name_of(op) in wiring.makers:
            owner = wiring.makers[name_of(op)]
            before = busy.get(owner, Busy(0, 0))
            busy[owner] = Busy(before.tiu + waiting.tiu, before.gdma + waiting.gdma)
            waiting = Busy(0, 0)
    if owner is not None:
        busy[owner] = Busy(busy[owner].tiu + waiting.tiu, busy[owner].gdma + waiting.gdma)
    return Timed(found.cycles, busy)


@dataclass(frozen=True)
class CastRates:
    """Cycles of a cast for each element that a lane holds: from a float to 8 bits, and back."""

    quantize: float
    dequantize: float
    lanes: int

    @classmethod
    def of(cls, precision: str, chip: str) -> CastRates:
        """The rates of casts from and to `precision`, from a compiled network of nothing but casts."""
        lanes, rows = chip_named(chip).lanes, 64
        shape = (1, lanes, rows, rows)
        network = Network.create("casts", [("x", shape)], "TPU_LOWERED")
        value = network.inputs[0]
        element = element_type(FLOAT_TYPES[precision].numpy_dtype)
        quantized = UniformType.of(np.int8, 1.0)
        for name, kind in (("tpu.Quantize", quantized), ("tpu.Dequantize", element), ("tpu.Quantize", quantized)):
            place = f"cast{len(list(network.operations))}"
            value = network.append(name, [value], [tensor_type(shape, kind)], [place]).results[0]
        network.finish([value], ["y"])
        compiled = compile_network(network, chip)
        cycles = {row["name"]: row["tiu_cycles"] for row in by_tensor(estimate(compiled.bmodel), compiled.commands)}
        return cls(cycles["cast2"] / rows**2, cycles["cast1"] / rows**2, lanes)

    def held(self, shape: tuple[int, ...]) -> int:
        """How many elements of a tensor the fullest lane holds."""
        if len(shape) < 2:
            return math.ceil(math.prod(shape) / self.lanes)
        return shape[0] * math.ceil(shape[1] / self.lanes) * math.prod(shape[2:])


@dataclass(frozen=True)
class Costs:
    """What each operation costs in each form, and casts between them.

    `extra` is what compiled networks were seen to move beyond that: by (form, operation), or by (CAST, tensor).
    """

    wiring: Wiring
    forms: Mapping[str, Mapping[str, Busy]]
    rates: CastRates
    extra: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def of(cls, wiring: Wiring, integer: Timed, sums: Timed, floating: Timed, rates: CastRates) -> Costs:
        """The costs from three networks: as planned, the same with products whose sums become floats, and float.

        The second holds so many casts that it moves more than any good mixture: only its computing counts.
        """
        none, bare = Busy(0, 0), cls(wiring, {}, rates)
        products = frozenset(wiring.products - wiring.only_float)

        def computed(found: Timed, mixture: Mixture) -> dict[str, float]:
            """Cycles of the TIU by operation, without its casts."""
            cycles = {name: found.busy.get(name, none).tiu for name in wiring.operations}
            for _, reader, cast in bare.casts(wiring.completed(mixture)):
                cycles[reader] = max(cycles[reader] - cast.tiu, 0.0)
            return cycles

        def form(cycles: Mapping[str, float], found: Timed) -> dict[str, Busy]:
            return {name: Busy(cycles[name], found.busy.get(name, none).gdma) for name in wiring.operations}

        return cls(
            wiring,
            {
                INTEGER: form(computed(integer, Mixture()), integer),
                SUMS: form(computed(sums, Mixture(results=products)), integer),
                FLOAT: form(computed(floating, wiring.all_float), floating),
            },
            rates,
        )

    def form(self, operation: str, mixture: Mixture) -> str:
        """The form of an operation in a completed mixture."""
        if operation in mixture.floats:
            return FLOAT
        return SUMS if operation in mixture.results else INTEGER

    def computing(self, operation: str, form: str) -> Busy:
        """What an operation costs in a form, without casts."""
        tiu, gdma = self.forms[form][operation]
        return Busy(tiu, gdma + self.extra.get((form, operation), 0.0))

    def quantizing(self, tensor: str) -> Busy:
        """What it costs to round a float tensor to 8 bits."""
        return self._cast(tensor, self.rates.quantize)

    def dequantizing(self, tensor: str) -> Busy:
        """What it costs to make floats of an 8-bit tensor."""
        return self._cast(tensor, self.rates.dequantize)

    def _cast(self, tensor: str, rate: float) -> Busy:
        held = self.rates.held(self.wiring.shapes[tensor])
        return Busy(rate * held, self.extra.get((CAST, tensor), 0.0))

    def casts(self, mixture: Mixture) -> Iterator[tuple[str, str, Busy]]:
        """The casts inside a completed mixture: the tensor, the first operation to read it so, and the cost."""
        for tensor, readers in self.wiring.readers.items():
            if tensor not in self.wiring.makers:
                continue
            made_float = self.wiring.is_made_float(tensor, mixture)
            other = [reader for reader in readers if (reader in mixture.floats) != made_float]
            if other:
                yield tensor, other[0], self.quantizing(tensor) if made_float else self.dequantizing(tensor)

    def steps(self, mixture: Mixture) -> npt.NDArray[np.float64]:
        """Cycles of TIU and GDMA (operations, 2) for each operation of a completed mixture, with its casts."""
        found = {name: self.computing(name, self.form(name, mixture)) for name in self.wiring.operations}
        for _, reader, cast in self.casts(mixture):
            found[reader] = Busy(found[reader].tiu + cast.tiu, found[reader].gdma + cast.gdma)
        return np.array([found[name] for name in self.wiring.operations], np.float64).reshape(-1, 2)

    def cycles(self, mixture: Mixture) -> float:
        """Cycles of a completed mixture: loads run ahead of computing, which waits for nothing else."""
        steps = self.steps(mixture)
        loaded = np.cumsum(steps[:, 1])
        computed = np.cumsum(steps[::-1, 0])[::-1]
        return float(max((loaded + computed).max(initial=0.0), steps[:, 1].sum()))

    def learned(self, mixture: Mixture, seen: Timed) -> Costs:
        """The costs corrected by a compiled mixture, where operations moved much more than was foreseen.

        Most often a tensor was in the way in two forms at once: casts beside the operation are held to account.
        """
        extra = dict(self.extra)
        casts = {tensor for tensor, _, _ in self.casts(mixture)}
        for name, foreseen in zip(self.wiring.operations, self.steps(mixture), strict=True):
            more = seen.busy.get(name, Busy(0, 0)).gdma - float(foreseen[1])
            if more > SURPRISE * seen.cycles:
                beside = [t for t in (*self.wiring.reads[name], *self.wiring.makes[name]) if t in casts]
                blamed = [(CAST, tensor) for tensor in beside] or [(self.form(name, mixture), name)]
                for key in blamed:
                    extra[key] = extra.get(key, 0.0) + more / len(blamed)
        return replace(self, extra=extra)
