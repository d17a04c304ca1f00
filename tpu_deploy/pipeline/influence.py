"""How much of the outputs' error each layer is to blame for: the float network run with one layer's error at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.pipeline.float_layers import FloatLayers
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.single_layers import single_layers
from tpu_deploy.pipeline.verification import stored_feed

if TYPE_CHECKING:
    from tpu_deploy.calibration import Feed
    from tpu_deploy.runtime.reference import Reference

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]

HELD_ELEMENTS = 1 << 26
"""Networks with more elements in all their tensors are not examined: they would not fit in memory."""

BUDGET = 400_000_000
"""Elements that all runs may compute together: some seconds."""


def output_shares(
    top: Network, reference: Reference, feed: Feed, tensors: Sequence[str], budget: int = BUDGET
) -> dict[str, float]:
    """The share of the outputs' error that is born in the layers of `tensors`, on one feed.

    What the quantized layer adds to the float layer on the same operands is added to the float network's tensor, and
    the float network run on from there. With e the error of all outputs, each over its norm, and d what that run
    changes of them, the share is <d, e> / <e, e>: while errors are small, the shares of all layers sum to 1. (To repair
    a layer of the quantized network instead says nothing: it draws the rounding of all later layers anew.) Layers are
    taken in the order of `tensors` while `budget` lasts; empty where the outputs have no error or are not finite.
    """
    if sum(math.prod(shape_of(value)) for value in top.values()) > HELD_ELEMENTS:
        return {}
    return _Injections(top, reference, feed).shares(_affordable(top, tensors, budget))


def _affordable(network: Network, tensors: Sequence[str], budget: int) -> list[str]:
    """The first of `tensors` from which all runs together keep within the budget."""
    after, total = {}, 0
    for value in reversed(list(network.values())):
        after[name_of(value)] = total
        total += math.prod(shape_of(value))
    chosen = []
    for name in tensors:
        budget -= after.get(name, 0)
        if budget < 0:
            break
        chosen.append(name)
    return chosen


class _Injections:
    """Runs of one feed, each with the error of one layer."""

    def __init__(self, top: Network, reference: Reference, feed: Feed) -> None:
        names = [name_of(value) for value in top.values()]
        layers = single_layers(reference.network, names)
        # In the order of the float network: what is returned is dequantized last of all, its readers come before.
        self._layers = {name: layers[name] for name in names if name in layers}
        self._floats = FloatLayers(top)
        values = FloatNetwork(top).values(feed)
        inputs = [name_of(value) for value in top.inputs]
        self._exact = {name: values[name] for name in [*inputs, *self._layers]}
        outputs = dict.fromkeys(name_of(value) for value in top.outputs)
        self._outputs = [name for name in outputs if name in self._layers]  # an input that is returned has no error
        self._norms = {name: float(np.linalg.norm(self._exact[name])) or 1.0 for name in self._outputs}
        self._born = self._all_born(reference, feed)

    def _all_born(self, reference: Reference, feed: Feed) -> dict[str, Array]:
        """What each quantized layer adds, and in place of that for the outputs' sake, their whole error."""
        held = {each.name for layer in self._layers.values() for each in layer.operands}
        actual: dict[str, Array] = {}
        born: dict[str, Array] = {}
        error: dict[str, Array] = {}
        for name, array in reference.run_all(stored_feed(reference.network, feed)):
            if name in held:
                actual[name] = array
            if name in self._layers:
                layer = self._layers[name]
                given = self._floats.run(name, {each.tensor: each.load(actual[each.name]) for each in layer.operands})
                result = layer.result.load(array)
                born[name] = result - given
                if name in self._norms:
                    error[name] = result - self._exact[name]
        self._error = self._vector(error)
        return born

    def _vector(self, changes: Mapping[str, Array]) -> Float64Array:
        """Changes of the outputs, each over the norm of the float output, as one vector."""
        parts = [changes[n].astype(np.float64).reshape(-1) / self._norms[n] for n in self._outputs if n in changes]
        return np.concatenate(parts) if parts else np.zeros(0)

    def shares(self, chosen: Sequence[str]) -> dict[str, float]:
        """The share of each chosen layer."""
        energy = float(self._error @ self._error)
        if not (energy > 0 and math.isfinite(energy)):
            return {}
        return {name: self._share(name, energy) for name in chosen if name in self._born}

    def _share(self, tensor: str, energy: float) -> float:
        if not self._born[tensor].any():
            return 0.0
        changed = {tensor: self._exact[tensor] + self._born[tensor]}
        for name, layer in self._layers.items():
            operands = [each.tensor for each in layer.operands]
            if name != tensor and any(operand in changed for operand in operands):
                changed[name] = self._floats.run(name, {n: changed.get(n, self._exact[n]) for n in operands})
        exact = self._exact
        changes = {n: changed[n] - exact[n] if n in changed else np.zeros_like(exact[n]) for n in self._outputs}
        return float(self._vector(changes) @ self._error) / energy
