"""Layer by layer, errors added up: how near the quantized network's tensors are to the float network's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of, uniform_of
from tpu_deploy.numbers import dequantize
from tpu_deploy.reports.similarity import Comparison, Similarity

if TYPE_CHECKING:
    import pandas

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """One tensor that float and quantized network share: what makes it, how it is stored, how near it is."""

    index: int
    name: str
    operation: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    similarity: Similarity

    @property
    def is_below_resolution(self) -> bool:
        """Whether all of the float tensor rounds to zero in its quantized type."""
        largest = max(abs(self.similarity.expected_min), abs(self.similarity.expected_max))
        return self.scale is not None and 0 < largest < self.scale / 2


class LayerComparison:
    """The similarity of all shared tensors, gathered over samples in the order of the quantized network."""

    def __init__(self, network: Network, shared: Iterable[str]) -> None:
        """`network` is the quantized one; `shared` are the names of the float network's tensors."""
        names = set(shared)
        self._values = {name_of(v): v for v in network.values() if name_of(v) in names}
        self._kinds = {name: uniform_of(value) for name, value in self._values.items()}
        self._comparisons = {name: Comparison(*_limits(value)) for name, value in self._values.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def add(self, name: str, expected: Array, actual: Array) -> float:
        """Takes in a tensor of one sample, `actual` as it is stored; returns its cosine."""
        kind = self._kinds[name]
        found = actual if kind is None else dequantize(actual, kind.scale, kind.zero_point)
        return self._comparisons[name].add(expected, found)

    def layers(self) -> list[Layer]:
        """What was found, in order."""
        return [self._layer(index, name) for index, name in enumerate(self._values)]

    def _layer(self, index: int, name: str) -> Layer:
        value, kind = self._values[name], self._kinds[name]
        owner = value.owner
        operation = owner.name.partition(".")[2] if isinstance(owner, Operation) else "Input"
        return Layer(
            index=index,
            name=name,
            operation=operation,
            shape=shape_of(value),
            dtype=dtype_of(value).name,
            scale=None if kind is None else kind.scale,
            zero_point=None if kind is None else kind.zero_point,
            similarity=self._comparisons[name].result(),
        )


def _limits(value: SSAValue) -> tuple[float, float]:
    """The smallest and largest real value that rounds to a stored one; infinite for float tensors."""
    kind = uniform_of(value)
    if kind is None:
        return -math.inf, math.inf
    ends = np.iinfo(kind.dtype)
    low, high = (kind.scale * (end - kind.zero_point) for end in (int(ends.min), int(ends.max)))
    return low - kind.scale / 2, high + kind.scale / 2


def rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """A flat dictionary for each layer: what tables, CSV and JSON show."""
    return [
        {
            "index": layer.index,
            "name": layer.name,
            "operation": layer.operation,
            "shape": "x".join(map(str, layer.shape)),
            "dtype": layer.dtype,
            "scale": layer.scale,
            "zero_point": layer.zero_point,
            **asdict(layer.similarity),
        }
        for layer in layers
    ]


def table(layers: Sequence[Layer]) -> pandas.DataFrame:
    """The layers as a pandas DataFrame, a row for each, columns as in `rows`."""
    import pandas

    return pandas.DataFrame(rows(layers))


def first_below(layers: Sequence[Layer], gate: float) -> Layer | None:
    """The first layer whose worst cosine is not at least `gate`."""
    return next((layer for layer in layers if not layer.similarity.cosine >= gate), None)


def findings(layers: Sequence[Layer], outputs: Iterable[str]) -> list[str]:
    """What a person should know, a line each: NaN, saturation, tensors below resolution, constant outputs."""
    ends = set(outputs)
    found = []
    for layer in layers:
        near = layer.similarity
        if near.not_finite:
            found.append(f"{layer.name}: {near.not_finite} of {near.elements} values are NaN or infinite")
        if near.saturated > SATURATION:
            found.append(f"{layer.name}: {near.saturated:.1%} of its values saturate (beyond what {layer.dtype} holds)")
        if layer.is_below_resolution:
            found.append(f"{layer.name}: all its values round to zero (largest below half its scale {layer.scale:.3g})")
        if layer.name in ends and near.is_constant and not near.expected_is_constant:
            found.append(f"{layer.name}: is an output and constant over all samples; the float network's is not")
    return found


SATURATION = 0.01
"""Share of saturated values from which a tensor is worth a finding."""
