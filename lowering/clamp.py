"""Operations that bound a tensor: Clip and Relu read as an interval, and written in the plainest way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.top import UNBOUNDED


@dataclass(frozen=True)
class Interval:
    """The values from `low` to `high`."""

    low: float
    high: float

    def after(self, first: Interval) -> Interval:
        """What clipping to `first` and then to this interval leaves."""
        low, high = (min(max(v, self.low), self.high) for v in (first.low, first.high))
        return Interval(low, high)

    @property
    def is_everything(self) -> bool:
        """Whether nothing is clipped."""
        return self.low <= -UNBOUNDED and self.high >= UNBOUNDED

    @property
    def is_relu(self) -> bool:
        """Whether it begins at 0, so that a ReLU, with or without a limit, expresses it."""
        return self.low == 0 and self.high >= 0

    @property
    def relu_limit(self) -> float:
        """The limit of the ReLU; negative for none."""
        return self.high if self.high < UNBOUNDED else -1.0

    def operation(self) -> tuple[str, dict[str, Any]]:
        """The operation that clips to it: Relu where it begins at 0, else Clip."""
        if self.is_relu:
            return "top.Relu", {"relu_limit": self.relu_limit}
        return "top.Clip", {"min": self.low, "max": self.high}


def read_clamp(op: Operation) -> Interval | None:
    """The interval that a Clip or Relu clips to; None for other operations."""
    attributes = attributes_of(op)
    if op.name == "top.Clip":
        return Interval(attributes["min"], attributes["max"])
    if op.name == "top.Relu":
        return _up_to(attributes["relu_limit"])
    return None


def read_relu(op: Operation) -> Interval | None:
    """The interval of the ReLU that an operation carries (`do_relu`); None when it carries none."""
    attributes = attributes_of(op)
    return _up_to(attributes["relu_limit"]) if attributes.get("do_relu") else None


def _up_to(limit: float) -> Interval:
    return Interval(0.0, limit if limit >= 0 else UNBOUNDED)
