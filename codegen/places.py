"""Where the tensors of decoded commands lie: memory, first lane, sizes and strides in bytes.

Only the fields of commands are read here, nothing of the compiler that made them: the hazard checker, the legality
rules and the simulator judge by these places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tpu_deploy.codegen.isa.addresses import DDR, GDMA_LOCAL, L2, L2_BYTES, LANE_BYTES, LANES, STATIC, STATIC_BYTES

Memory = Literal["local", "static", "l2", "global", "nowhere"]

Quad = tuple[int, int, int, int]

VECTOR = 64
"""Bytes a lane's unit takes at a time; the alignment of channels in the aligned layout."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor (n, c, h, w) in one memory.

    In local memory channel c lies in lane `(lane + c) mod 64` at row `(lane + c) div 64`, and the second stride is that
    of rows; `offset` counts within a lane. Elsewhere it is the stride of channels, `lane` is 0 and `offset` counts from
    the start of the memory (in global memory: is the address). Strides are in bytes.
    """

    memory: Memory
    lane: int
    offset: int
    dims: Quad
    strides: Quad
    itemsize: int

    @property
    def rows(self) -> int:
        """How many rows of 64 channels it takes; outside local memory its channels."""
        return -(-(self.lane + self.dims[1]) // LANES) if self.memory == "local" else self.dims[1]

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        n, _, h, w = self.dims
        sn, sc, sh, sw = self.strides
        return self.offset + (n - 1) * sn + (self.rows - 1) * sc + (h - 1) * sh + (w - 1) * sw + self.itemsize

    @property
    def elements(self) -> int:
        """How many elements it has."""
        n, c, h, w = self.dims
        return n * c * h * w

    def describe(self) -> str:
        """The byte range as a person reads it: "lane0+0x1000..0x2000", "DDR+0x40..0x80"."""
        if self.memory == "local":
            last = min(self.dims[1], LANES) + self.lane - 1
            lanes = f"lane{self.lane}" if last == self.lane else f"lanes {self.lane}-{min(last, LANES - 1)}"
            return f"{lanes} {self.offset:#x}..{self.end:#x}"
        base = DDR if self.memory == "global" else 0
        name = {"global": "DDR", "l2": "L2", "static": "static", "nowhere": "address"}[self.memory]
        return f"{name} {self.offset - base:#x}..{self.end - base:#x}"


def locate_tiu(address: int) -> tuple[Memory, int, int]:
    """Memory, lane and offset of an address in a TIU command."""
    if address < LANES * LANE_BYTES:
        return "local", address // LANE_BYTES, address % LANE_BYTES
    if STATIC <= address < STATIC + STATIC_BYTES:
        return "static", 0, address - STATIC
    return "nowhere", 0, address


def locate_gdma(address: int) -> tuple[Memory, int, int]:
    """Memory, lane and offset of an address in a GDMA command."""
    if address >= DDR:
        return "global", 0, address
    if GDMA_LOCAL <= address < GDMA_LOCAL + LANES * LANE_BYTES:
        return "local", (address - GDMA_LOCAL) // LANE_BYTES, address % LANE_BYTES
    if L2 <= address < L2 + L2_BYTES:
        return "l2", 0, address - L2
    if STATIC <= address < STATIC + STATIC_BYTES:
        return "static", 0, address - STATIC
    return "nowhere", 0, address


def _rows(channels: int, lane: int) -> int:
    return -(-(channels + lane) // LANES)


def aligned(address: int, dims: Quad, itemsize: int) -> Place:
    """The aligned layout: each channel starts on a vector boundary."""
    memory, lane, offset = locate_tiu(address)
    _, c, h, w = dims
    row = -(-h * w * itemsize // VECTOR) * VECTOR
    return Place(memory, lane, offset, dims, (_rows(c, lane) * row, row, w * itemsize, itemsize), itemsize)


def line_aligned(address: int, dims: Quad, itemsize: int) -> Place:
    """Like the aligned layout, and each row of elements starts on a vector boundary too."""
    memory, lane, offset = locate_tiu(address)
    _, c, h, w = dims
    line = -(-w * itemsize // VECTOR) * VECTOR
    return Place(memory, lane, offset, dims, (_rows(c, lane) * h * line, h * line, line, itemsize), itemsize)


def compact(address: int, dims: Quad, itemsize: int) -> Place:
    """The compact layout: the channels of a lane follow each other without gaps."""
    memory, lane, offset = locate_tiu(address)
    _, c, h, w = dims
    row = h * w * itemsize
    return Place(memory, lane, offset, dims, (_rows(c, lane) * row, row, w * itemsize, itemsize), itemsize)


def strided(address: int, dims: Quad, strides: Quad, itemsize: int) -> Place:
    """A layout with strides (n, row, h, w) in elements."""
    memory, lane, offset = locate_tiu(address)
    n, c, h, w = (stride * itemsize for stride in strides)
    return Place(memory, lane, offset, dims, (n, c, h, w), itemsize)


def slots(address: int, channels: int, words: int) -> Place:
    """`words` 32-bit values a channel at the start of a slot of 64 bytes."""
    memory, lane, offset = locate_tiu(address)
    return Place(memory, lane, offset, (1, channels, 1, words), (0, VECTOR, 0, 4), 4)


def in_every_lane(address: int, lanes: int, dims: Quad, itemsize: int) -> Place:
    """The same (h, w) in each of `lanes` lanes, contiguous."""
    memory, lane, offset = locate_tiu(address)
    n, _, h, w = dims
    return Place(memory, lane, offset, (n, lanes, h, w), (0, 0, w * itemsize, itemsize), itemsize)
