"""The judge of plans: how far a quantized network's results are from the float network's on samples kept apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.timing import estimate
from tpu_deploy.ir.network import STRUCTURAL, Network, is_absent, name_of, uniform_of
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.numbers import widened
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.quant import QuantizationPlan
from tpu_deploy.quant.plan import INTEGER_PRODUCTS
from tpu_deploy.quant.ties import MOVEMENTS
from tpu_deploy.runtime.reference import Reference

Array = npt.NDArray[Any]

SQUASHING = frozenset({"top.Softmax", "top.Sigmoid", "top.HardSigmoid", "top.Tanh"})
"""Functions whose results hide errors wherever they are near their bounds: what goes into them is judged."""


class Judge:
    """Compares plans of one canonical network on the same samples."""

    def __init__(self, network: Network, feeds: Sequence[Feed], chip: str, timed: Network | None = None) -> None:
        """`timed` is the network whose cycles count, where that has another batch."""
        self._network, self._feeds, self._chip, self._timed = network, feeds, chip, timed or network
        self._names = judged(network)
        floats = FloatNetwork(network)
        self._wanted: list[dict[str, Array]] = []
        for feed in feeds:
            values = floats.values(feed)
            self._wanted.append({name: values[name] for name in self._names})

    def noise(self, plan: QuantizationPlan) -> float:
        """The power of the error over that of the float results, all samples together.

        The geometric mean over the outputs and over what the last products read: a classifier's few scores alone
        would leave much to chance.
        """
        network = lower_to_tpu(self._network, plan, self._chip)
        reference, values = Reference(network), {name_of(v): v for v in network.values()}
        kinds = {name: uniform_of(values[name]) for name in self._names}
        sums = {name: np.zeros(2) for name in self._names}
        for feed, wanted in zip(self._feeds, self._wanted, strict=True):
            for name, stored in reference.run(feed, self._names).items():
                kind = kinds[name]
                found = widened(stored) if kind is None else kind.dequantize(stored)
                exact = wanted[name].astype(np.float64)
                sums[name] += np.sum((found - exact) ** 2), np.sum(exact**2)
        shares = [max(error, 1e-30) / max(signal, 1e-30) for error, signal in sums.values()]
        return math.exp(sum(map(math.log, shares)) / len(shares))

    def cycles(self, plan: QuantizationPlan) -> int:
        """What the chip is estimated to need for a batch, by the first schedule that is found."""
        network = lower_to_tpu(self._timed, plan, self._chip)
        return estimate(compile_network(network, self._chip, optimize=0).bmodel).cycles


def judged(network: Network) -> list[str]:
    """The names of the values that are compared: outputs before squashing, and what the last products read."""
    results = [_before_squashing(value) for value in network.outputs]
    features = [found for value in results if (found := _features(network, value)) is not None]
    return list(dict.fromkeys(name_of(value) for value in [*results, *features]))


def _before_squashing(value: SSAValue) -> SSAValue:
    """What a value is a squashed or moved form of; the value itself where it is none."""
    found = value
    while isinstance(found.owner, Operation) and found.owner.name in SQUASHING | MOVEMENTS - {"top.Concat", "top.Pad"}:
        found = found.owner.operands[0]
    is_computed = isinstance(found.owner, Operation) and found.owner.name != "top.Input"
    return found if is_computed else value


def _features(network: Network, value: SSAValue) -> SSAValue | None:
    """What the last product before a value reads; None where that is an input, or there is none."""
    while isinstance(value.owner, Operation) and value.owner.name not in STRUCTURAL:
        tensors = [v for v in value.owner.operands if network.weight(v) is None and not is_absent(v)]
        if not tensors:
            return None
        is_product, value = value.owner.name in INTEGER_PRODUCTS, tensors[0]
        if is_product:
            return value if isinstance(value.owner, Operation) and value.owner.name not in STRUCTURAL else None
    return None
