"""Every tensor explained over the verification samples: how near, what its layer adds, and what that comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.ir.network import Network, name_of, shape_of, uniform_of
from tpu_deploy.pipeline.float_layers import FloatLayers
from tpu_deploy.pipeline.float_model import FloatNetwork, FloatValues
from tpu_deploy.pipeline.options import SILENT, Progress
from tpu_deploy.pipeline.single_layers import SingleLayer, Stored, single_layers
from tpu_deploy.pipeline.stored_weights import StoredWeights
from tpu_deploy.pipeline.verification import stored_feed
from tpu_deploy.quant.ranges import noticed_ranges
from tpu_deploy.reports.attribution import Attribution, Executions, OriginSums
from tpu_deploy.reports.channels import ChannelExtremes
from tpu_deploy.reports.layers import Explanation, Layer, LayerComparison
from tpu_deploy.reports.similarity import Comparison

if TYPE_CHECKING:
    from tpu_deploy.calibration import Feed
    from tpu_deploy.runtime.reference import Reference

Array = npt.NDArray[Any]


def explain(
    top: Network,
    reference: Reference,
    precisions: Mapping[str, str],
    feeds: Sequence[Feed],
    progress: Progress = SILENT,
) -> list[Layer]:
    """The tensors that the canonical network `top` and the reference's network share, explained over all `feeds`.

    `precisions` are those of the operations of `top`. One feed at a time is in memory, and of it the values still to be
    read.
    """
    measuring = _Measuring(top, reference)
    floats = FloatNetwork(top)
    for number, feed in enumerate(feeds, 1):
        progress.stage(f"Explain: sample {number} of {len(feeds)}")
        measuring.add(floats.values(feed), feed)
    return measuring.layers(precisions)


class _Tensor:
    """A tensor of one sample that layers are still to read: in float, and as the quantized network has it."""

    def __init__(self, exact: Array) -> None:
        self.exact = exact
        self._forms: dict[str, Array] = {}
        self._rounded: dict[str, Array] = {}
        self._clipped: dict[str, Array | None] = {}

    def stored(self, form: Stored) -> Array:
        """The float tensor as a value of the quantized network holds it."""
        if form.name not in self._forms:
            self._forms[form.name] = form.store(self.exact)
        return self._forms[form.name]

    def rounded(self, form: Stored) -> Array:
        """The real numbers that this stands for."""
        if form.name not in self._rounded:
            self._rounded[form.name] = form.load(self.stored(form))
        return self._rounded[form.name]

    def clipped(self, form: Stored) -> Array | None:
        """The float tensor cut to what the value can hold; None where that cuts nothing."""
        if form.name not in self._clipped:
            self._clipped[form.name] = form.cut(self.exact)
        return self._clipped[form.name]


class _Sums:
    """What is gathered of one tensor."""

    def __init__(self, stored: Stored) -> None:
        kind, shape = uniform_of(stored.value), shape_of(stored.value)
        self.isolated = Comparison()
        self.attribution = Attribution()
        self.origin = OriginSums(shape)
        self.extremes = ChannelExtremes(shape, 0.0 if kind is None else kind.scale)


class _Measuring:
    """The state of one explanation."""

    def __init__(self, top: Network, reference: Reference) -> None:
        network = reference.network
        self._reference, self._top = reference, top
        self._layers = single_layers(network, [name_of(value) for value in top.values()])
        self._inputs = {name_of(value): Stored(name_of(value), value) for value in network.inputs}
        self._stored = self._inputs | {name: layer.result for name, layer in self._layers.items()}
        self._noticed = noticed_ranges(top)
        self._comparison = LayerComparison(network, self._stored, self._noticed)
        self._sums = {name: _Sums(each) for name, each in self._stored.items()}
        self._floats, self._weights = FloatLayers(top), StoredWeights(network, top)
        self._held = {each.name for layer in self._layers.values() for each in layer.operands}
        executed = [name_of(result) for op in reference.network.operations for result in op.results]
        layers = [self._layers[name] for name in executed if name in self._layers]
        self._last_reader = {o.tensor: layer.result.tensor for layer in layers for o in layer.operands}

    def add(self, floats: FloatValues, feed: Feed) -> None:
        """Takes in one feed, whose float values are `floats`."""
        actual: dict[str, Array] = {}
        tensors: dict[str, _Tensor] = {}
        for name, array in self._reference.run_all(stored_feed(self._reference.network, feed)):
            if name in self._held:
                actual[name] = array
            if name not in self._sums:
                continue
            tensors[name] = _Tensor(floats[name])
            self._comparison.add(name, tensors[name].exact, array)
            self._sums[name].extremes.add(tensors[name].exact, array)
            if name in self._inputs:
                self._add_input(self._inputs[name], tensors[name], array)
            else:
                for operand in self._layers[name].operands:  # one that is returned too may be dequantized only later
                    tensors.setdefault(operand.tensor, _Tensor(floats[operand.tensor]))
                self._add_layer(self._layers[name], tensors, actual, array)
                self._drop_read(self._layers[name], tensors, actual)

    def _drop_read(self, layer: SingleLayer, tensors: dict[str, _Tensor], actual: dict[str, Array]) -> None:
        """Forgets the operands that no later layer reads."""
        for operand in layer.operands:
            if self._last_reader[operand.tensor] == layer.result.tensor:
                del tensors[operand.tensor], actual[operand.name]

    def _add_input(self, stored: Stored, tensor: _Tensor, array: Array) -> None:
        """An input of the network: its only error is how it is stored."""
        sums, seen = self._sums[stored.tensor], partial(self._seen, stored.tensor)
        exact, found = seen(tensor.exact), seen(stored.load(array))
        clipped = tensor.clipped(stored)
        sums.isolated.add(exact, found)
        sums.origin.add(exact, exact, found)
        cut = None if clipped is None else seen(clipped)
        sums.attribution.add(Executions(exact, cut, found, None, None, found, False))

    def _add_layer(
        self, layer: SingleLayer, tensors: Mapping[str, _Tensor], actual: Mapping[str, Array], array: Array
    ) -> None:
        sums, name = self._sums[layer.result.tensor], layer.result.tensor
        seen = partial(self._seen, name)
        exact = seen(tensors[name].exact)
        given = self._floats.run(name, {each.tensor: each.load(actual[each.name]) for each in layer.operands})
        sums.origin.add(exact, seen(given), seen(layer.result.load(array)))
        isolated = seen(self._alone(layer, tensors))
        sums.isolated.add(exact, isolated)
        read = {each.tensor: tensors[each.tensor] for each in layer.operands}
        forms = layer.read
        clipped = {n: t.clipped(forms[n]) for n, t in read.items()}
        rounded = {n: t.rounded(forms[n]) for n, t in read.items()}
        is_cut = any(each is not None for each in clipped.values())
        cut = {n: read[n].exact if each is None else each for n, each in clipped.items()}
        from_rounded = self._floats.run(name, rounded)
        weighted = self._weights.run(layer, rounded) if self._weights.has(layer) else None
        held = layer.result.cut(from_rounded if weighted is None else weighted)
        sums.attribution.add(
            Executions(
                exact=exact,
                clipped=seen(self._floats.run(name, cut)) if is_cut else None,
                rounded=seen(from_rounded),
                weighted=None if weighted is None else seen(weighted),
                cut=None if held is None else seen(held),
                actual=isolated,
                by_table=layer.has("tpu.Lut"),
            )
        )

    def _seen(self, tensor: str, array: Array) -> Array:
        """A tensor's values as far as its readers tell them apart."""
        limits = self._noticed.get(tensor)
        return array if limits is None else np.clip(array, *limits)

    def _alone(self, layer: SingleLayer, tensors: Mapping[str, _Tensor]) -> Array:
        """The layer's result from float operands as they are stored; NaN where one of them is not finite."""
        overrides = {each.name: tensors[each.tensor].stored(each) for each in layer.operands}
        if not all(np.isfinite(each).all() for each in overrides.values() if each.dtype.kind not in "iu"):
            return np.full(shape_of(layer.result.value), np.nan, np.float32)
        found = self._reference.run({}, [layer.result.name], overrides)[layer.result.name]
        return layer.result.load(found)

    def layers(self, precisions: Mapping[str, str]) -> list[Layer]:
        """What was found, in the order of the network."""
        return [self._explained(layer, precisions) for layer in self._comparison.layers()]

    def _explained(self, layer: Layer, precisions: Mapping[str, str]) -> Layer:
        sums, single = self._sums[layer.name], self._layers.get(layer.name)
        op = next((op for op in self._top.operations if layer.name in map(name_of, op.results)), None)
        explanation = Explanation(
            precision="" if op is None else precisions[name_of(op)],
            isolated=sums.isolated.result(),
            shares=sums.attribution.shares(),
            origin=sums.origin.origin(),
            dead_channels=tuple(sums.extremes.dead()),
            quantizes=single is not None and single.quantizes,
        )
        operation = layer.operation if op is None else op.name.partition(".")[2]
        return replace(layer, operation=operation, explanation=explanation)
