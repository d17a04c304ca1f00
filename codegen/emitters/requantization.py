"""Bias and requantization of int32 sums, channel by channel, and the sums taken part by part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.epilogue import Held
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.emitters.windows import Problem
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides, channel_groups, round_up
from tpu_deploy.codegen.program import Access, Action, Buffer, Step
from tpu_deploy.codegen.views import Dims

I32 = np.dtype(np.int32)

ACC_BUDGET = 32768
"""Bytes of a lane that int32 sums may take at a time: the larger, the fewer commands; the smaller, the more room."""


def record_bytes(slots: int, chip: Chip) -> int:
    """Bytes of a lane that the requantization records of so many channel groups take."""
    return round_up(slots * packing.RECORD_BYTES, chip.vector_bytes)


def pack_records(problem: Problem, first: int, last: int) -> packing.Bytes:
    """Requantization records of output channels [first, last), a row a lane, padded to vectors."""
    op, chip, part = problem.op, problem.chip, slice(first, last)
    records = packing.requant_records(
        op.constant("multiplier")[part], op.constant("rshift")[part], op.result.zero_point, op.constant("bias")[part]
    )
    rows = packing.rows_by_lane(records, chip)
    return packing.padded(rows, record_bytes(channel_groups(last - first, chip), chip))


def spread_records(constants: str, table: Buffer, channels: int, chip: Chip) -> Step:
    """Copies the records at the start of a buffer of constants into the slots of a table."""
    wide, packed = packing.SLOT_BYTES // 4, packing.RECORD_BYTES // 4
    dims = (1, channels, 1, packed)
    slots = Local(table.name, dims, I32, 0, (0, wide, packed, 1))
    return tiu.arithmetic(ArithmeticOp.COPY, slots, Local(constants, dims, I32, 0, (0, packed, packed, 1)), None, chip)


@dataclass(frozen=True)
class Chunk:
    """A part of a tile that is summed up at a time: images, groups of 64 channels and rows, each [start, stop)."""

    images: tuple[int, int]
    slots: tuple[int, int]
    rows: tuple[int, int]


def chunks(dims: Dims, chip: Chip, row_quantum: int = 0, budget: int = ACC_BUDGET) -> list[Chunk]:
    """Parts of a tile whose elements, of four bytes, stay within a budget where the layout allows it.

    One image's channel groups follow each other in the aligned layout, and so do one group's rows (cut at multiples of
    `row_quantum`; 0: not at all), so a part is a tensor in the same layout at an offset.
    """
    n, c, h, _ = dims
    slots = channel_groups(c, chip)
    if aligned_bytes(dims, 4, chip) <= budget:
        return [Chunk((0, n), (0, slots), (0, h))]
    one = aligned_bytes((1, *dims[1:]), 4, chip)
    if one <= budget:
        step = budget // one
        return [Chunk((k, min(k + step, n)), (0, slots), (0, h)) for k in range(0, n, step)]
    single = one // slots
    if single <= budget or not row_quantum:
        step = max(1, budget // single)
        cuts = [(g, min(g + step, slots)) for g in range(0, slots, step)]
        return [Chunk((k, k + 1), cut, (0, h)) for k in range(n) for cut in cuts]
    rows = max(row_quantum, h * budget // single // row_quantum * row_quantum)
    lines = [(r, min(r + rows, h)) for r in range(0, h, rows)]
    return [Chunk((k, k + 1), (g, g + 1), line) for k in range(n) for g in range(slots) for line in lines]


def part_of(tensor: Local, chunk: Chunk, chip: Chip) -> Local:
    """The part of an aligned tensor that a chunk covers."""
    _, c, _, w = tensor.dims
    whole = aligned_strides(tensor.dims, tensor.dtype.itemsize, chip)
    first, last = chunk.slots
    channels = min(last * chip.lanes, c) - first * chip.lanes
    dims = (chunk.images[1] - chunk.images[0], channels, chunk.rows[1] - chunk.rows[0], w)
    elements = chunk.images[0] * whole[0] + first * whole[1] + chunk.rows[0] * whole[2]
    return Local(tensor.buffer, dims, tensor.dtype, tensor.offset + elements * tensor.dtype.itemsize)


@dataclass(frozen=True)
class Requantization:
    """The epilogue of int32 sums: bias, multiplier and shift of each channel, saturation to the result's type."""

    problem: Problem

    sums = parts = I32
    is_direct = False

    def constant_bytes(self, slots: int) -> int:
        """Bytes of the records."""
        return record_bytes(slots, self.problem.chip)

    def pack(self, first: int, last: int) -> packing.Bytes:
        """The records."""
        return pack_records(self.problem, first, last)

    def prepare(self, constants: Held, place: str, channels: int) -> tuple[list[Buffer], list[Action]]:
        """Spreads the records into the slots of a table."""
        chip = self.problem.chip
        table = Buffer(f"table{place}", channel_groups(channels, chip) * packing.SLOT_BYTES)
        return [table], [spread_records(constants.buffer, table, channels, chip)]

    def bias(self, constants: Held, slots: tuple[int, int]) -> Access | None:
        """Nothing: the instruction has no room for an int32 bias."""
        return None

    def begin(self, acc: Local, constants: Held, place: str, slots: tuple[int, int]) -> list[Action]:
        """The bias where the sums will be: adding it to them in place takes twice as long."""
        start = slots_of(place, slots).start + packing.BIAS_OFFSET
        strides = (0, packing.SLOT_BYTES // 4, 0, 0)
        bias = Local(f"table{place}", (1, acc.dims[1], 1, 1), I32, start, strides)
        return [tiu.arithmetic(ArithmeticOp.COPY, acc, bias, None, self.problem.chip)]

    def finish(
        self, acc: Local, y: Local, constants: Held, place: str, slots: tuple[int, int]
    ) -> tuple[list[Buffer], list[Action]]:
        """Requantizes by the slots of the table."""
        return [], [tiu.requantize_channels(y, acc, slots_of(place, slots), self.problem.chip)]


def slots_of(place: str, slots: tuple[int, int]) -> Access:
    """The slots of these channel groups in the table that the records are spread into."""
    return Access(f"table{place}", slots[0] * packing.SLOT_BYTES, slots[1] * packing.SLOT_BYTES)
