"""Where packed constants lie among the coefficients of a network, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import transfers
from tpu_deploy.codegen.bmodel import Location
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import LoadConstant
from tpu_deploy.ir.weights import Array


@dataclass(frozen=True)
class ConstantSlot:
    """Offset of a constant, and the matrix (rows, 32-bit words a lane) that holds it for `lanes` lanes."""

    offset: int
    lanes: int
    rows: int
    words: int


class CoefficientLayout:
    """Hands out places for constants, in order of first use; equal keys share one."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.size = 0
        self._slots: dict[str, ConstantSlot] = {}
        self._loads: dict[str, LoadConstant] = {}
        self._plain: dict[str, tuple[int, Array]] = {}
        self._starts: list[tuple[str, int]] = []

    def slot(self, load: LoadConstant, operation: str) -> ConstantSlot:
        """The place of a constant, which `operation` uses."""
        if load.key not in self._slots:
            rows, words = transfers.constant_shape(load.lanes, load.row_bytes, self.chip)
            self._slots[load.key] = ConstantSlot(self.size, load.lanes, rows, words)
            self._loads[load.key] = load
            self._starts.append((operation, self.size))
            self.size = round_up(self.size + rows * words * load.lanes * 4, 64)
        return self._slots[load.key]

    def plain(self, name: str, array: Array) -> int:
        """The offset of an array that lies there as it is."""
        if name not in self._plain:
            self._plain[name] = (self.size, array)
            self._starts.append((name, self.size))
            self.size = round_up(self.size + array.nbytes, 64)
        return self._plain[name][0]

    def locations(self) -> tuple[Location, ...]:
        """What operation first used each part, neighbours of one operation together."""
        starts = [each for k, each in enumerate(self._starts) if not k or self._starts[k - 1][0] != each[0]]
        ends = (start for _, start in (*starts[1:], ("", self.size)))
        return tuple(Location(name, start, end - start) for (name, start), end in zip(starts, ends, strict=False))

    def pack(self, align: int) -> bytes:
        """All constants, each as the matrix its load expects, padded to `align` bytes."""
        section = np.zeros(round_up(self.size, align), np.uint8)
        for key, slot in self._slots.items():
            packed = self._loads[key].pack()
            lanes, width = packed.shape
            row = slot.words * 4
            place = section[slot.offset : slot.offset + slot.rows * lanes * row].reshape(slot.rows, lanes, row)
            whole = width // row
            place[:whole] = packed[:, : whole * row].reshape(lanes, whole, row).transpose(1, 0, 2)
            if width % row:
                place[whole, :, : width % row] = packed[:, whole * row :]
        for offset, array in self._plain.values():
            section[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return section.tobytes()
