"""The range of real values a tensor is given: the calibrated one, cut by what its producer can reach at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of

NO_LIMITS = (-math.inf, math.inf)

PAD_REACH = 16.0
"""A padding value this many times beyond the data is a mark to be skipped (minus infinity before a maximum, say):
storing it would leave less than four of the eight bits to the data, so it saturates instead."""


class TensorRange(Protocol):
    """One row of a calibration table."""

    @property
    def threshold(self) -> float:
        """Absolute value beyond which the tensor saturates."""
        ...

    @property
    def min(self) -> float:
        """Smallest value seen."""
        ...

    @property
    def max(self) -> float:
        """Largest value seen."""
        ...


@dataclass(frozen=True)
class Range:
    """Smallest and largest value, and the absolute value beyond which saturation is accepted."""

    low: float
    high: float
    threshold: float

    def joined(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high), max(self.threshold, other.threshold))

    def unclipped(self) -> Range:
        """The range with a threshold that holds all of it."""
        return Range(self.low, self.high, max(self.threshold, abs(self.low), abs(self.high)))

    def with_padding(self, value: float) -> Range:
        """The range joined with a padding value, unless that lies beyond PAD_REACH and is left to saturate."""
        if not abs(value) <= PAD_REACH * self.threshold:
            return self
        return self.joined(Range(value, value, abs(value)))

    def within(self, low: float, high: float) -> Range:
        """The part of the range inside [low, high], with a threshold that reaches no further."""
        if low <= self.low and self.high <= high:
            return Range(self.low, self.high, min(self.threshold, max(abs(low), abs(high))))
        cut = min(max(self.low, low), high), max(min(self.high, high), low)
        return Range(*cut, min(self.threshold, max(abs(cut[0]), abs(cut[1]))))


def range_of_array(values: np.ndarray[Any, Any]) -> Range:
    """The exact range of a constant."""
    low, high = float(values.min()), float(values.max())
    return Range(low, high, max(abs(low), abs(high)))


def reach(op: Operation) -> tuple[float, float]:
    """The smallest and largest value the results of `op` can take whatever it reads; infinite where unbounded."""
    attributes = attributes_of(op)
    low, high = _function_reach(op.name, attributes)
    if attributes.get("do_relu") or op.name == "top.Relu":
        low = max(low, 0.0)
        if attributes["relu_limit"] >= 0:
            high = min(high, attributes["relu_limit"])
    return low, high


def _function_reach(name: str, attributes: dict[str, Any]) -> tuple[float, float]:
    if name == "top.Clip":
        return attributes["min"], attributes["max"]
    if name == "top.Sigmoid" and not attributes["log"]:
        ends = (attributes["bias"], attributes["bias"] + attributes["scale"])
        return min(ends), max(ends)
    if name in ("top.HardSigmoid", "top.Softmax") and not attributes.get("log"):
        return 0.0, 1.0
    if name in ("top.Tanh", "top.Erf"):
        return -1.0, 1.0
    if name == "top.Softplus":
        return 0.0, math.inf
    return -math.inf, math.inf


def interest(op: Operation) -> tuple[float, float]:
    """The smallest and largest operand that `op` tells from still smaller and larger ones; infinite if it has none.

    Sigmoid, Tanh and Erf are taken to be flat where they are within half an 8-bit step of their bound.
    """
    attributes = attributes_of(op)
    if op.name in ("top.Relu", "top.Clip"):
        return reach(op)
    if op.name == "top.HardSwish":
        return -3.0, math.inf
    if op.name == "top.HardSigmoid" and attributes["alpha"] > 0:
        alpha, beta = attributes["alpha"], attributes["beta"]
        return -beta / alpha, (1 - beta) / alpha
    if op.name == "top.Sigmoid" and not attributes["log"]:
        return -math.log(509.0), math.log(509.0)
    if op.name == "top.Tanh":
        return -math.atanh(1 - 0.5 / 127), math.atanh(1 - 0.5 / 127)
    if op.name == "top.Erf":
        end = NormalDist(sigma=math.sqrt(0.5)).inv_cdf(1 - 0.25 / 127)
        return -end, end
    return NO_LIMITS


def readers_interest(value: SSAValue) -> tuple[float, float]:
    """The range outside which no reader tells values apart."""
    limits = [interest(use.operation) if use.operation.name.startswith("top.") else NO_LIMITS for use in value.uses]
    return min((low for low, _ in limits), default=-math.inf), max((high for _, high in limits), default=math.inf)


def noticed_ranges(network: Network) -> dict[str, tuple[float, float]]:
    """The range outside which no reader tells values apart, by the name of each value that has one."""
    found = {name_of(value): readers_interest(value) for value in network.values()}
    return {name: limits for name, limits in found.items() if limits != NO_LIMITS}


def padding_value(op: Operation) -> float | None:
    """The constant a `top.Pad` fills with; None for other operations and for padding that repeats data."""
    if op.name != "top.Pad" or attributes_of(op)["mode"] != "constant":
        return None
    return float(attributes_of(op)["val"])


def value_range(value: SSAValue, entry: TensorRange | None) -> Range:
    """The range of a value: its row of the calibration table, cut by what its producer can reach and its readers tell
    apart.

    A row may be missing only where the producer is bounded on both sides. Raises BadInput, naming the tensor, for a
    missing row or one that holds no range.
    """
    owner = value.owner
    low, high = reach(owner) if isinstance(owner, Operation) else (-math.inf, math.inf)
    if entry is None:
        if not math.isfinite(low) or not math.isfinite(high):
            raise BadInput(f"calibration table: has no threshold for {name_of(value)}; calibrate this model again")
        return Range(low, high, max(abs(low), abs(high)))
    numbers = (entry.threshold, entry.min, entry.max)
    if not all(math.isfinite(n) for n in numbers) or entry.threshold < 0 or entry.min > entry.max:
        raise BadInput(
            f"calibration table: {name_of(value)} has threshold {entry.threshold}, minimum {entry.min}, maximum "
            f"{entry.max}, which is no range; calibrate this model again"
        )
    return Range(entry.min, entry.max, entry.threshold).within(low, high).within(*readers_interest(value))
