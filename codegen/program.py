"""The language of emitters: what a tile of an operation reads, keeps, does and leaves, before anything has an address.

An emitter knows its operation and a box of its result. It does not know where buffers lie, when transfers happen or
what other operations share the local memory: the scheduler decides that from this data alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.views import AxisMap, Box, Dims


@dataclass(frozen=True)
class Buffer:
    """A piece of local memory in every lane: `bytes` long, in no bank of the buffers in `apart`.

    It had better not begin in the bank in which one of `away` begins: instructions on both take longer then.
    """

    name: str
    bytes: int
    apart: frozenset[str] = frozenset()
    away: frozenset[str] = frozenset()


def joined(buffers: Iterable[Buffer]) -> tuple[Buffer, ...]:
    """Each name once, with the most bytes asked for."""
    found: dict[str, Buffer] = {}
    for one in buffers:
        known = found.get(one.name, one)
        found[one.name] = replace(one, bytes=max(one.bytes, known.bytes))
    return tuple(found.values())


@dataclass(frozen=True)
class Access:
    """Bytes [start, stop) of a buffer, in all lanes; stop None means to its end."""

    buffer: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Ref:
    """The address of a byte of a buffer, to be filled into an address field."""

    buffer: str
    offset: int = 0


@dataclass(frozen=True)
class LoadOperand:
    """Brings a box of a data operand into a buffer, in the aligned layout.

    The operand is seen under `shape` (its own, one it broadcasts to, or one of as many elements), whose axes `axes`
    maps to (n, c, h, w).
    Of the rows of the box only every `row_step`-th is taken. `into` places what is taken inside a larger aligned tensor
    of no more channels than lanes: (dims of that tensor, start of the box in it).
    """

    operand: int
    shape: tuple[int, ...]
    axes: AxisMap
    box: Box
    buffer: str
    into: tuple[Dims, Dims] | None = None
    row_step: int = 1

    @property
    def dims(self) -> Dims:
        """Sizes of what is taken."""
        n, c, h, w = self.box.dims
        return n, c, -(-h // self.row_step), w


@dataclass(frozen=True)
class LoadConstant:
    """Brings constant bytes into a buffer: `lanes` rows of `row_bytes`, row k into lane k.

    `key` names the content (equal keys, equal bytes); `pack` makes the (lanes, row_bytes) uint8 array, once.
    """

    key: str
    lanes: int
    row_bytes: int
    buffer: str
    pack: Callable[[], npt.NDArray[np.uint8]] = field(compare=False)


@dataclass(frozen=True)
class Fill:
    """Fills a box of a buffer's aligned tensor with one constant (its bit pattern) by the DMA engine.

    The box holds whole images and either all channels or, where these are no more than the lanes, a range of them.
    """

    buffer: str
    dims: Dims
    itemsize: int
    value: int
    box: Box | None = None


@dataclass(frozen=True)
class Step:
    """One instruction with constant fields and addresses still to be filled in."""

    instruction: str
    fields: Mapping[str, int]
    addresses: Mapping[str, Ref]
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]


@dataclass(frozen=True)
class StoreResult:
    """Takes a box of the result, seen under `shape` and `axes`, from a buffer (aligned layout) to its place."""

    shape: tuple[int, ...]
    axes: AxisMap
    box: Box
    buffer: str


Action = LoadOperand | LoadConstant | Fill | Step | StoreResult


@dataclass(frozen=True)
class TileProgram:
    """The frozen micro-program of one tile: buffers, and actions in an order that gives the result."""

    buffers: tuple[Buffer, ...]
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Tiling:
    """How an operation's result may be cut.

    `dims` is the result as (n, c, h, w) under `shape` and `axes`; `multiple` gives the granularity of cuts in each
    dimension (0: not to be cut); `cuts` are positions where a tile must end, per dimension. Of the dimensions `rows` is
    the one that a tensor's rows are found in, and n holds `per_image` entries for each image.
    """

    shape: tuple[int, ...]
    axes: AxisMap
    dims: Dims
    multiple: Dims = (1, 0, 1, 0)
    cuts: tuple[tuple[int, ...], ...] = ((), (), (), ())
    rows: int = 2
    per_image: int = 1


@dataclass(frozen=True)
class Variant:
    """One way to compute an operation: how it may be cut, and the program of any box.

    A fallback is for results that no other variant can cut small enough. A preferred variant pays even where it cannot
    take its operands from local memory.
    """

    name: str
    tiling: Tiling
    tile: Callable[[Box], TileProgram]
    fallback: bool = False
    preferred: bool = False


def usual_variants(variants: Sequence[Variant]) -> list[Variant]:
    """The variants that are no fallbacks; all of them where there is nothing else."""
    return [v for v in variants if not v.fallback] or list(variants)
