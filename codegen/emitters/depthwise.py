"""Depthwise convolutions on the pooling unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.epilogue import Epilogue, Held
from tpu_deploy.codegen.emitters.floating import F32, converted, pack_words
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.requantization import (
    I32,
    Chunk,
    chunks,
    pack_records,
    part_of,
    record_bytes,
    slots_of,
    spread_records,
)
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.isa import ArithmeticOp, PoolOp
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups, round_up
from tpu_deploy.codegen.program import (
    Access,
    Action,
    Buffer,
    LoadConstant,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
    joined,
)
from tpu_deploy.codegen.views import Box, dims_of

I16 = np.dtype(np.int16)
BLOCK_SHARE = 16
"""A lane holds this many of what a block of a large filter reads for one position."""


@dataclass(frozen=True)
class Narrowing:
    """The epilogue of depthwise int32 sums, to which the unit adds the bias: rounding to int16, requantization."""

    problem: Problem

    parts = I32
    is_direct = False

    @property
    def shift(self) -> int:
        """By how much sums are shifted right to become int16; negative where they stay as they are."""
        return int(self.problem.op.attributes["acc_shift"])

    @property
    def sums(self) -> np.dtype[Any]:
        """What the unit writes."""
        return I16 if self.shift >= 0 else I32

    def constant_bytes(self, slots: int) -> int:
        """Bytes of records and biases."""
        chip = self.problem.chip
        return record_bytes(slots, chip) + round_up(slots * 4, chip.vector_bytes)

    def pack(self, first: int, last: int) -> packing.Bytes:
        """Records, then biases."""
        biases = pack_words((self.problem.op.constant("bias")[first:last],), self.problem.chip)
        return np.concatenate([pack_records(self.problem, first, last), biases], axis=1)

    def prepare(self, constants: Held, place: str, channels: int) -> tuple[list[Buffer], list[Action]]:
        """Spreads the records into the slots of a table."""
        table = Buffer(f"table{place}", constants.slots * packing.SLOT_BYTES)
        return [table], [spread_records(constants.buffer, table, channels, self.problem.chip)]

    def bias(self, constants: Held, slots: tuple[int, int]) -> Access | None:
        """The biases of these channel groups."""
        start = record_bytes(constants.slots, self.problem.chip)
        return Access(constants.buffer, start + slots[0] * 4, start + slots[1] * 4)

    def begin(self, acc: Local, constants: Held, place: str, slots: tuple[int, int]) -> list[Action]:
        """Nothing."""
        return []

    def finish(
        self, acc: Local, y: Local, constants: Held, place: str, slots: tuple[int, int]
    ) -> tuple[list[Buffer], list[Action]]:
        """Narrows sums of parts, then requantizes."""
        chip = self.problem.chip
        requantize = partial(tiu.requantize_channels, y, table=slots_of(place, slots), chip=chip)
        if acc.dtype == self.sums:
            return [], [requantize(acc)]
        narrow = Local("narrowed", acc.dims, I16)
        step = tiu.arithmetic(ArithmeticOp.ADDS, narrow, acc, Constant(0, I32), chip, shift=self.shift)
        return [_like(narrow, problem=self.problem, away=y)], [step, requantize(narrow)]


def _like(tensor: Local, problem: Problem, away: Local | None = None) -> Buffer:
    """A buffer for a tensor."""
    apart = frozenset() if away is None else frozenset({away.buffer})
    return Buffer(tensor.buffer, aligned_bytes(tensor.dims, tensor.dtype.itemsize, problem.chip), away=apart)


def _widened(problem: Problem, x: Local) -> tuple[Local, list[Buffer], list[Action]]:
    """The tensor in the type of the filters: the unit sums in the type it reads, which 16 bits are too few for."""
    if x.dtype.itemsize != 2:
        return x, [], []
    wide = Local("wide", x.dims, F32)
    return wide, [_like(wide, problem)], [converted(wide, x, problem.chip)]


def _pack_depthwise(problem: Problem, epilogue: Epilogue, first: int, last: int) -> packing.Bytes:
    return np.concatenate([epilogue.pack(first, last), _pack_taps(problem, first, last)], axis=1)


def _pack_taps(problem: Problem, first: int, last: int) -> packing.Bytes:
    taps = np.ascontiguousarray(problem.filters[first:last]).reshape(last - first, -1).view(np.uint8)
    return packing.rows_by_lane(taps, problem.chip)


def _tap_bytes(problem: Problem) -> int:
    """Bytes of a channel's filter."""
    return prod(problem.kernel) * problem.filters.dtype.itemsize


def _shift(problem: Problem) -> int:
    """By how much the unit shifts its sums right."""
    return max(int(problem.op.attributes.get("acc_shift", 0)), 0)


def _parts_of_tile(problem: Problem, epilogue: Epilogue, x: Local, y: Local) -> list[Chunk]:
    """Images and channel groups to be summed at a time: all, unless sums or a wider input need room."""
    n, c, h, _ = y.dims
    if epilogue.is_direct and x.dtype.itemsize != 2:
        return [Chunk((0, n), (0, channel_groups(c, problem.chip)), (0, h))]
    largest = x.dims if x.dtype.itemsize == 2 and prod(x.dims) > prod(y.dims) else y.dims
    return [replace(chunk, rows=(0, h)) for chunk in chunks(largest, problem.chip)]


def _depthwise_tile(problem: Problem, epilogue: Epilogue, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    buffer, loads, x, window = load_window(problem, box, (first, last), "x", problem.zero)
    y = Local("y", box.dims, op.result.dtype)
    held = Held("weights", channel_groups(last - first, chip))
    start, size = epilogue.constant_bytes(held.slots), _tap_bytes(problem)
    row = start + held.slots * size
    buffers, actions = epilogue.prepare(held, "", last - first)
    for chunk in _parts_of_tile(problem, epilogue, x, y):
        target, source = part_of(y, chunk, chip), part_of(x, replace(chunk, rows=(0, x.dims[2])), chip)
        source, wide, widen = _widened(problem, source)
        sums = target if epilogue.is_direct else Local("acc", target.dims, epilogue.sums)
        weights = Access("weights", start + chunk.slots[0] * size, start + chunk.slots[1] * size)
        bias, shift = epilogue.bias(held, chunk.slots), _shift(problem)
        step = tiu.pooling(PoolOp.DEPTHWISE, sums, source, window, chip, weights=weights, bias=bias, shift=shift)
        buffers, actions = [*buffers, *wide], [*actions, *widen, step]
        if not epilogue.is_direct:
            more, finish = epilogue.finish(sums, target, held, "", chunk.slots)
            buffers, actions = [*buffers, _like(sums, problem, y), *more], [*actions, *finish]
    pack = partial(_pack_depthwise, problem, epilogue, first, last)
    load = LoadConstant(f"{op.result.name}:{first}:{last}", min(last - first, chip.lanes), row, "weights", pack)
    store = StoreResult(op.result.shape, problem.axes, box, "y")
    every = joined([buffer, Buffer("weights", row), *buffers, _like(y, problem)])
    return TileProgram(every, (load, *loads, *actions, store))


def _blocks(problem: Problem, copies: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the filter in blocks over which `copies` windows in a lane take at most BLOCK_SHARE of it."""
    reach = problem.chip.lane_bytes // BLOCK_SHARE // copies // problem.filters.dtype.itemsize
    down, across = problem.dilations
    height, width = problem.kernel
    columns = min(width, max(1, (reach - 1) // across + 1))
    rows = min(height, max(1, (reach // ((columns - 1) * across + 1) - 1) // down + 1))
    for top, left in product(range(0, height, rows), range(0, width, columns)):
        yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def _block(problem: Problem, rows: slice, columns: slice) -> Problem:
    """The problem of some of the filter's rows and columns alone, over the same positions of the result."""
    top, left, bottom, right = problem.pads
    down, across = problem.dilations
    height, width = problem.kernel
    pads = (
        top - down * rows.start,
        left - across * columns.start,
        bottom - down * (height - rows.stop),
        right - across * (width - columns.stop),
    )
    kernel = (rows.stop - rows.start, columns.stop - columns.start)
    return replace(problem, filters=problem.filters[:, :, rows, columns], kernel=kernel, pads=pads)


def _block_sums(
    problem: Problem, box: Box, bias: Access | None, total: Local, more: Local
) -> tuple[list[Buffer], list[Action]]:
    """Sums over the whole filter, block by block."""
    chip, (first, last) = problem.chip, (box.start[1], box.stop[1])
    slots = channel_groups(last - first, chip)
    buffers: list[Buffer] = []
    actions: list[Action] = []
    for index, (rows, columns) in enumerate(_blocks(problem, slots * box.dims[0])):
        block = _block(problem, rows, columns)
        turn = index % 2
        buffer, loads, x, window = load_window(block, box, (first, last), f"x{turn}", problem.zero)
        x, wide, widen = _widened(problem, x)
        size = slots * _tap_bytes(block)
        weights = Access(f"weights{turn}", 0, size)
        buffers += [buffer, Buffer(weights.buffer, size), *wide]
        key = f"{problem.op.result.name}:{first}:{last}:taps:{rows.start}:{columns.start}"
        pack = partial(_pack_taps, block, first, last)
        actions += [LoadConstant(key, min(last - first, chip.lanes), size, weights.buffer, pack), *loads, *widen]
        sums, added = (more, None) if index else (total, bias)
        actions.append(tiu.pooling(PoolOp.DEPTHWISE, sums, x, window, chip, weights=weights, bias=added))
        if index:
            actions.append(tiu.arithmetic(ArithmeticOp.ADD, total, total, more, chip))
    return buffers, actions


def _blocks_tile(problem: Problem, epilogue: Epilogue, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    held = Held("constants", channel_groups(last - first, chip))
    row = epilogue.constant_bytes(held.slots)
    total, more = (Local(name, box.dims, epilogue.parts) for name in ("sum", "more"))
    y = Local("y", box.dims, op.result.dtype)
    tables, prepare = epilogue.prepare(held, "", last - first)
    blocks, sums = _block_sums(problem, box, epilogue.bias(held, (0, held.slots)), total, more)
    scratch, finish = epilogue.finish(total, y, held, "", (0, held.slots))
    pack = partial(epilogue.pack, first, last)
    key = f"{op.result.name}:{first}:{last}:constants"
    load = LoadConstant(key, min(last - first, chip.lanes), row, held.buffer, pack)
    ends = [Buffer(held.buffer, row), *tables, _like(total, problem, y), _like(more, problem), *scratch]
    store = StoreResult(op.result.shape, problem.axes, box, "y")
    every = joined([*blocks, *ends, _like(y, problem)])
    return TileProgram(every, (load, *prepare, *sums, *finish, store))


def _is_large(problem: Problem) -> bool:
    """Whether the filter, or what it reads for one position, may be too much for a lane or for sizes."""
    spans = [d * (k - 1) + 1 for d, k in zip(problem.dilations, problem.kernel, strict=True)]
    read = prod(min(s, size) for s, size in zip(spans, problem.x_dims[2:], strict=True))
    itemsize = problem.filters.dtype.itemsize
    return (prod(problem.kernel) + read) * itemsize > problem.chip.lane_bytes // 4


def blocks_variant(problem: Problem, epilogue: Epilogue) -> Variant:
    """The filter in blocks, whose sums are added."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tiling = Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1), stride_cuts(problem, dims))
    return Variant("blocks", tiling, partial(_blocks_tile, problem, epilogue), fallback=True)


def depthwise_variants(problem: Problem, epilogue: Epilogue) -> list[Variant]:
    """A filter for each channel, in the channel's lane; a large one in blocks where it does not fit."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tiling = Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1), stride_cuts(problem, dims))
    whole = Variant("depthwise", tiling, partial(_depthwise_tile, problem, epilogue))
    return [whole, blocks_variant(problem, epilogue)] if _is_large(problem) else [whole]
