"""What the scheduler decides, as plain data: with the network and the chip it fixes every byte of the bmodel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tpu_deploy.codegen.tiles import Grid
from tpu_deploy.codegen.views import Dims

LOOKAHEAD = 96
"""How many slots a load may run ahead of its first use."""


class InvalidSchedule(Exception):
    """A schedule does not suit the network: other works, variants that cannot be cut so, or more than fits."""


@dataclass(frozen=True)
class Moved:
    """A work of the DMA engine alone."""

    start: int

    @property
    def stop(self) -> int:
        """The work after it."""
        return self.start + 1


@dataclass(frozen=True)
class Tiled:
    """A computation by itself: its variant of that number, its result cut into tiles."""

    start: int
    variant: int
    grid: Grid

    @property
    def stop(self) -> int:
        """The work after it."""
        return self.start + 1


@dataclass(frozen=True)
class Sliced:
    """Computations [start, stop) that run in slices and meet in local memory.

    A slice is `images` of the batch, or one of `stripes` of their rows: then computations whose results others read by
    windows make a few rows more, some of them twice. `variants` are the numbers of the variants taken. The constants of
    the works in `reloaded` (counted from `start`) are loaded again for each slice, all others once. The first `ahead`
    works of a slice run in the slice before, behind its first `behind` works.
    """

    start: int
    stop: int
    images: int
    variants: tuple[int, ...]
    reloaded: tuple[int, ...] = ()
    ahead: int = 0
    behind: int = 0
    stripes: int = 1


Part = Moved | Tiled | Sliced


@dataclass(frozen=True)
class Schedule:
    """The parts a network runs in, one after another, and how their transfers are arranged.

    A load may run `lookahead` slots (tiles or operations of a slice) ahead of its use; results on their way to global
    memory stay `linger` slots longer than they must, so that the transfer hides behind the next computation. Nothing
    lies beyond the first `height` bytes of a lane (0: all of them may be used).
    """

    parts: tuple[Part, ...]
    lookahead: int = LOOKAHEAD
    linger: int = 1
    height: int = 0

    def to_json(self) -> dict[str, Any]:
        """The schedule as lists, dictionaries, numbers and names."""
        parts = [{"kind": type(part).__name__, **asdict(part)} for part in self.parts]
        return {"parts": parts, "lookahead": self.lookahead, "linger": self.linger, "height": self.height}

    @staticmethod
    def from_json(data: object) -> Schedule:
        """The schedule that `to_json` wrote. Raises InvalidSchedule for anything else."""
        try:
            assert isinstance(data, dict)
            parts = tuple(_part(row) for row in data["parts"])
            return Schedule(parts, *(_count(data[name]) for name in ("lookahead", "linger", "height")))
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise InvalidSchedule(f"not a schedule: {error!r}") from error


def _count(value: object) -> int:
    assert type(value) is int and value >= 0
    return value


def _counts(values: object) -> tuple[int, ...]:
    assert isinstance(values, list | tuple)
    return tuple(_count(v) for v in values)


def _part(row: Mapping[str, Any]) -> Part:
    start = _count(row["start"])
    match row["kind"]:
        case "Moved":
            return Moved(start)
        case "Tiled":
            order = row["grid"]["order"]
            assert order in ("channels_outside", "channels_inside")
            n, c, h, w = _counts(row["grid"]["tile"])
            tile: Dims = (n, c, h, w)
            return Tiled(start, _count(row["variant"]), Grid(tile, order))
        case "Sliced":
            variants, reloaded = _counts(row["variants"]), _counts(row["reloaded"])
            counts = (_count(row[name]) for name in ("ahead", "behind", "stripes"))
            return Sliced(start, _count(row["stop"]), _count(row["images"]), variants, reloaded, *counts)
        case kind:
            raise ValueError(f"unknown kind {kind!r}")
