"""Commands with addresses, before identifiers, dependencies and bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal


class Space(Enum):
    """The address spaces a command may point into."""

    LOCAL = "local"
    COEFFICIENTS = "coefficients"
    CONTEXT = "context"


@dataclass(frozen=True)
class Address:
    """A byte: for LOCAL the offset in a lane (plus `lane`), else the offset in that part of global memory."""

    space: Space
    offset: int
    lane: int = 0


@dataclass(frozen=True)
class LocalRange:
    """Bytes [start, stop) of local memory, in all lanes."""

    start: int
    stop: int


@dataclass(frozen=True)
class PlannedCommand:
    """One command of the final order. `origin` names the tensor it works for."""

    instruction: str
    engine: Literal["TIU", "GDMA"]
    fields: Mapping[str, int]
    addresses: Mapping[str, Address]
    reads: tuple[LocalRange, ...] = ()
    writes: tuple[LocalRange, ...] = ()
    origin: str = field(default="", compare=False)
