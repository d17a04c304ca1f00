"""Layer by layer, errors added up: how near the quantized network's tensors are to the float network's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of, uniform_of
from tpu_deploy.numbers import widened
from tpu_deploy.reports.attribution import Origin, Shares
from tpu_deploy.reports.channels import channel_count
from tpu_deploy.reports.similarity import Comparison, Similarity

if TYPE_CHECKING:
    import pandas

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Explanation:
    """Why a tensor is as near to the float network's as it is.

    `precision` is that of the operation; `isolated` compares the layer alone, on float operands stored in its operands'
    types, with the float layer; `shares` say what its error comes from, `origin` how much of the accumulated error is
    born here. `quantizes` tells whether the layer itself quantizes an operand that is stored in float; `output_share`
    is the layer's share of the outputs' error, None where it was not measured.
    """

    precision: str
    isolated: Similarity
    shares: Shares
    origin: Origin
    dead_channels: tuple[int, ...] = ()
    quantizes: bool = False
    output_share: float | None = None


@dataclass(frozen=True)
class Layer:
    """One tensor that float and quantized network share: what makes it, how it is stored, how near it is.

    `similarity` is that of the accumulated error, which all layers before are part of. The explanation is there when
    it was asked for.
    """

    index: int
    name: str
    operation: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    similarity: Similarity
    explanation: Explanation | None = None

    @property
    def channels(self) -> int:
        """How many channels the tensor has; 0 for one of less than two axes."""
        return channel_count(self.shape)

    @property
    def stored_range(self) -> tuple[float, float] | None:
        """The smallest and largest real value that is stored; None for floats."""
        if self.scale is None:
            return None
        ends, zero = np.iinfo(self.dtype), self.zero_point or 0
        return self.scale * (int(ends.min) - zero), self.scale * (int(ends.max) - zero)

    @property
    def is_below_resolution(self) -> bool:
        """Whether all of the float tensor rounds to zero in its quantized type."""
        largest = max(abs(self.similarity.expected_min), abs(self.similarity.expected_max))
        return self.scale is not None and 0 < largest < self.scale / 2


class LayerComparison:
    """The similarity of all shared tensors, gathered over samples in the order of the quantized network."""

    def __init__(
        self, network: Network, shared: Iterable[str], noticed: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        """`network` is the quantized one; `shared` are the names of the float network's tensors.

        Of the tensors that `noticed` names, values are compared as far as their readers tell them apart: all beyond
        these ends are taken for the ends.
        """
        names = set(shared)
        self._noticed = noticed or {}
        self._values = {name_of(v): v for v in network.values() if name_of(v) in names}
        self._kinds = {name: uniform_of(value) for name, value in self._values.items()}
        self._comparisons = {name: Comparison(*_limits(value)) for name, value in self._values.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def add(self, name: str, expected: Array, actual: Array) -> float:
        """Takes in a tensor of one sample, `actual` as it is stored; returns its cosine."""
        kind = self._kinds[name]
        found = widened(actual) if kind is None else kind.dequantize(actual)
        limits = self._noticed.get(name)
        if limits is not None:
            expected, found = np.clip(expected, *limits), np.clip(found, *limits)
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
    """A flat dictionary for each layer: what tables, CSV and JSON show; explained layers have more columns."""
    return [_row(layer) for layer in layers]


def _row(layer: Layer) -> dict[str, Any]:
    row = {
        "index": layer.index,
        "name": layer.name,
        "operation": layer.operation,
        "shape": "x".join(map(str, layer.shape)),
        "dtype": layer.dtype,
        "scale": layer.scale,
        "zero_point": layer.zero_point or 0,
        **asdict(layer.similarity),
        "saturated": layer.similarity.saturated,
    }
    return row if layer.explanation is None else row | _explained(layer, layer.explanation)


def _explained(layer: Layer, why: Explanation) -> dict[str, Any]:
    isolated = asdict(why.isolated)
    return {
        "precision": why.precision,
        "channels": layer.channels,
        "dead_channels": len(why.dead_channels),
        **{f"isolated_{key}": isolated[key] for key in ("cosine", "sqnr_db", "relative_l2", "max_error")},
        "born_relative_l2": why.origin.born,
        "passed_relative_l2": why.origin.passed,
        "born_share": why.origin.born_share,
        "born_gain": why.origin.gain,
        "output_share": why.output_share,
        "worst_channel": why.origin.channel,
        "worst_channel_share": why.origin.channel_share,
        **{f"share_{part}": share for part, share in asdict(why.shares).items()},
    }


def table(layers: Sequence[Layer]) -> pandas.DataFrame:
    """The layers as a pandas DataFrame, a row for each, columns as in `rows`."""
    import pandas

    return pandas.DataFrame(rows(layers))


def first_below(layers: Sequence[Layer], gate: float) -> Layer | None:
    """The first layer whose worst cosine is not at least `gate`."""
    return next((layer for layer in layers if not layer.similarity.cosine >= gate), None)
