"""The memories of the chip, and tensors in them as numpy arrays."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.addresses import L2_BYTES, LANE_BYTES, LANES, STATIC_BYTES
from tpu_deploy.codegen.places import Place
from tpu_deploy.codegen.regions import channel_rows

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_NUMBERS = (0x5C0, 0x6C0)
"""Where the firmware keeps the int32 numbers 0..63 in static memory. Source: commands in the vendor's bmodels."""


_MOST_ELEMENTS = 1 << 28
"""More than any real tensor of one command has; only broadcasts could claim so many."""


class AccessError(Exception):
    """A command reaches outside the memory there is; the message says where."""


class Memories:
    """Local, static and L2 memory, and the segments of global memory a stage has.

    Global memory consists of segments (address, bytes) that do not touch; a read-only one holds coefficients.
    """

    def __init__(self) -> None:
        self.local: Bytes = np.zeros(LANES * LANE_BYTES, np.uint8)
        self.static: Bytes = np.zeros(STATIC_BYTES, np.uint8)
        self.l2: Bytes = np.zeros(L2_BYTES, np.uint8)
        self.segments: list[tuple[int, Bytes]] = []
        self.static[slice(*_NUMBERS)] = np.arange(64, dtype=np.int32).view(np.uint8)

    def segment(self, address: int, size: int) -> Bytes:
        """The `size` bytes of global memory at an address; raises AccessError when no segment has them all."""
        for base, data in self.segments:
            if base <= address and address + size <= base + len(data):
                return data[address - base : address - base + size]
        raise AccessError(f"global memory {address:#x}..{address + size:#x} belongs to no tensor and no coefficients")

    def read(self, place: Place, dtype: npt.DTypeLike, to: npt.DTypeLike | None = None) -> Array:
        """The tensor as (n, c, h, w), its elements converted from `dtype` to `to`; a view where that is possible."""
        target = np.dtype(to if to is not None else dtype)
        pieces = list(self._pieces(place, np.dtype(dtype)))
        if len(pieces) == 1 and pieces[0][1].ndim == 4:
            return pieces[0][1].astype(target, copy=False)
        n, c, h, w = place.dims
        result = np.empty((n, c, h, w), target)
        for first, view in pieces:
            into = result[:, first : first + _channels(view)]
            into.reshape(view.shape)[...] = view
        return result

    def write(self, place: Place, values: Array) -> None:
        """Stores (n, c, h, w) values, whose dtype is that of the elements in memory."""
        for first, view in self._pieces(place, values.dtype):
            part = values[:, first : first + _channels(view)]
            view[...] = part.reshape(view.shape)

    def _pieces(self, place: Place, dtype: np.dtype[Any]) -> Iterator[tuple[int, Array]]:
        """Views with their first channel: (n, c, h, w), or (n, rows, lanes, h, w) where channels fill several rows."""
        n, c, h, w = place.dims
        sn, sc, sh, sw = place.strides
        if dtype.itemsize != place.itemsize:
            raise AccessError(f"elements of {place.itemsize} bytes are no {dtype}")
        if not 0 < place.elements <= _MOST_ELEMENTS:
            raise AccessError(f"a tensor of {list(place.dims)}")
        if place.memory != "local":
            yield 0, np.ndarray((n, c, h, w), dtype, self._linear(place), 0, (sn, sc, sh, sw))
            return
        if place.end > LANE_BYTES:
            raise AccessError(f"{place.describe()} reaches beyond the {LANE_BYTES:#x} bytes of a lane")
        channel = 0
        for lane, lanes, row, rows in channel_rows(place.lane, c):
            offset = lane * LANE_BYTES + place.offset + row * sc
            if rows == 1:
                view: Array = np.ndarray((n, lanes, h, w), dtype, self.local, offset, (sn, LANE_BYTES, sh, sw))
            else:
                strides = (sn, sc, LANE_BYTES, sh, sw)
                view = np.ndarray((n, rows, lanes, h, w), dtype, self.local, offset, strides)
            yield channel, view
            channel += lanes * rows

    def _linear(self, place: Place) -> Bytes:
        """The bytes of a place outside local memory, from its first to its last."""
        size = place.end - place.offset
        if place.memory == "global":
            return self.segment(place.offset, size)
        if place.memory == "static" and not (_NUMBERS[0] <= place.offset and place.end <= _NUMBERS[1]):
            raise AccessError(f"{place.describe()} holds tables of the vendor's firmware, which are not simulated")
        memory = {"l2": self.l2, "static": self.static}.get(place.memory)
        if memory is None:
            raise AccessError(f"{place.offset:#x} is an address of no memory")
        if place.offset + size > len(memory):
            raise AccessError(f"{place.describe()} reaches beyond the {len(memory):#x} bytes of the memory")
        return memory[place.offset : place.offset + size]


def _channels(view: Array) -> int:
    return int(view.shape[1]) if view.ndim == 4 else int(view.shape[1] * view.shape[2])
