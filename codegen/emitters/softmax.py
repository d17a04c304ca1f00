"""Softmax in float32, every step one rounding that numpy reproduces.

Rows lie on lanes and the softmax axis along w, or, where axes trail, along h beside the last of them, whose elements
follow each other in global memory. An axis too long for a lane is dealt out to all lanes, element i to lane i mod 64.
All add and compare the same pairs in the same order, so all give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.elementwise import Assembly
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.packing import Bytes
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides
from tpu_deploy.codegen.program import (
    Access,
    Buffer,
    Fill,
    LoadConstant,
    LoadOperand,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import AxisMap, Box, dims_of
from tpu_deploy.numbers import RoundMode

F32, I32 = np.dtype(np.float32), np.dtype(np.int32)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""log(2) in two parts, the first exact in few bits. Source: Cephes expf."""
LOWEST = -64.0
"""Arguments of exp are cut here: exp(-64) is below any float32 sum's last bit."""
TERMS = 8
"""Terms of the Taylor polynomial of exp on [-log(2)/2, log(2)/2]."""
MANTISSA_BITS = 23
GOOD_ROW = 64
"""Elements a lane should hold of a last axis that is cut to fill more lanes."""
PIECE_BYTES = 16384
"""Bytes of a lane that a long axis takes at a time on its way in and out."""

Fold = Callable[[ArithmeticOp, Local], Local]
"""Reduces the elements of each row, in place; what comes out broadcasts against the rows."""


def _axes(rank: int, axis: int) -> AxisMap:
    """The softmax axis is w; rows go to the lanes: trailing axes, or all leading ones where nothing trails."""
    before, after = tuple(range(axis)), tuple(range(axis + 1, rank))
    return (before, after, (), (axis,)) if after else ((), before, (), (axis,))


def _fold(tile: Assembly, op: ArithmeticOp, work: Local) -> Local:
    """Reduces w in place by halves; the row's result is its first element."""
    n, c, _, length = work.dims
    strides = aligned_strides(work.dims, 4, tile.chip)
    return _halved(tile, op, length, lambda start, count: Local(work.buffer, (n, c, 1, count), F32, start * 4, strides))


def _fold_planes(tile: Assembly, op: ArithmeticOp, work: Local) -> Local:
    """Reduces h in place by the same halves; the result of each column is its first element."""
    n, c, length, w = work.dims
    strides = aligned_strides(work.dims, 4, tile.chip)
    return _halved(
        tile, op, length, lambda start, count: Local(work.buffer, (n, c, count, w), F32, start * w * 4, strides)
    )


def _halved(tile: Assembly, op: ArithmeticOp, length: int, part: Callable[[int, int], Local]) -> Local:
    """Reduces `length` elements in place by halves; `part` sees some of them from one on."""
    while length > 1:
        half = 1 << (length - 1).bit_length() - 1
        rest = length - half
        tile.actions.append(tiu.arithmetic(op, part(0, rest), part(0, rest), part(half, rest), tile.chip))
        length = half
    return part(0, 1)


def _coefficients(lanes: int, row: int) -> Bytes:
    taylor = np.zeros(row // 4, np.float32)
    taylor[:TERMS] = [1.0 / math.factorial(k) for k in range(TERMS)]
    return np.tile(taylor.view(np.uint8), (lanes, 1))


def _exponential(tile: Assembly, x: Local, t: Local, k: Local, p: Local) -> None:
    """p = exp(x) for x in [-64, 0]; t and k are scratch."""
    chip, add = tile.chip, tile.actions.append
    k_bits, p_bits = Local(k.buffer, k.dims, I32), Local(p.buffer, p.dims, I32)
    add(tiu.arithmetic(ArithmeticOp.MUL, t, x, Constant.float32(1.0 / math.log(2.0)), chip))
    add(tiu.cast(k_bits, t, chip, RoundMode.HALF_EVEN))
    add(tiu.cast(t, k_bits, chip, RoundMode.HALF_EVEN))
    for share in (LN2_HIGH, LN2_LOW):
        add(tiu.arithmetic(ArithmeticOp.MUL, p, t, Constant.float32(share), chip))
        add(tiu.arithmetic(ArithmeticOp.SUB, x, x, p, chip))
    add(tiu.taylor(p, x, Access("taylor", 0, chip.vector_bytes), TERMS, chip))
    left = Constant(MANTISSA_BITS, np.dtype(np.int8))
    add(tiu.arithmetic(ArithmeticOp.ARITHMETIC_SHIFT, k_bits, k_bits, left, chip))
    add(tiu.arithmetic(ArithmeticOp.ADD, p_bits, p_bits, k_bits, chip))


def _normalize(tile: Assembly, x: Local, scratch: tuple[Local, Local, Local], row: Local, fold: Fold) -> None:
    """The last scratch tensor = softmax of the rows of x; x and the others are spent, `row` takes a number a row."""
    chip, add = tile.chip, tile.actions.append
    t, k, p = scratch
    add(tiu.arithmetic(ArithmeticOp.COPY, t, x, None, chip))
    largest = fold(ArithmeticOp.MAX, t)
    add(tiu.arithmetic(ArithmeticOp.SUB, x, x, largest, chip))
    add(tiu.arithmetic(ArithmeticOp.MAX, x, x, Constant.float32(LOWEST), chip))
    _exponential(tile, x, t, k, p)
    add(tiu.arithmetic(ArithmeticOp.COPY, t, p, None, chip))
    total = fold(ArithmeticOp.ADD, t)
    add(tiu.divide(row, Constant.float32(1.0), total, chip))
    add(tiu.arithmetic(ArithmeticOp.MUL, p, p, row, chip))


def _load_taylor(tile: Assembly) -> None:
    chip = tile.chip
    tile.buffers.append(Buffer("taylor", chip.vector_bytes))
    pack = partial(_coefficients, chip.lanes, chip.vector_bytes)
    tile.actions.append(LoadConstant("softmax:taylor", chip.lanes, chip.vector_bytes, "taylor", pack))


def _tile(op: OperationView, chip: Chip, axes: AxisMap, box: Box) -> TileProgram:
    tile = Assembly(chip)
    x, t, k, p = (tile.tensor(name, box.dims, F32) for name in ("x", "t", "k", "p"))
    row = tile.tensor("row", (*box.dims[:3], 1), F32)
    _load_taylor(tile)
    tile.actions.append(LoadOperand(0, op.operands[0].shape, axes, box, "x"))
    _normalize(tile, x, (t, k, p), row, partial(_fold, tile))
    tile.actions.append(StoreResult(op.result.shape, axes, box, "p"))
    return tile.program()


def _planes_tile(op: OperationView, chip: Chip, shape: tuple[int, ...], axes: AxisMap, box: Box) -> TileProgram:
    tile = Assembly(chip)
    x, t, k, p = (tile.tensor(name, box.dims, F32) for name in ("x", "t", "k", "p"))
    row = tile.tensor("row", (*box.dims[:2], 1, box.dims[3]), F32)
    _load_taylor(tile)
    tile.actions.append(LoadOperand(0, shape, axes, box, "x"))
    _normalize(tile, x, (t, k, p), row, partial(_fold_planes, tile))
    tile.actions.append(StoreResult(shape, axes, box, "p"))
    return tile.program()


def planes_variant(op: OperationView, chip: Chip) -> Variant | None:
    """The softmax axis along h and the last axis along w; None where no axis trails."""
    shape = op.result.shape
    axis = op.attributes["axis"] % len(shape)
    before, trailing = shape[:axis], math.prod(shape[axis + 1 :])
    if trailing == 1:
        return None
    short = [k for k in range(1, chip.lanes + 1) if trailing % k == 0 and trailing // k >= GOOD_ROW]
    rows = max(short, default=1) if len(shape) == axis + 2 else trailing // shape[-1]
    seen = (math.prod(before), shape[axis], rows, trailing // rows)
    axes: AxisMap = ((0,), (2,), (1,), (3,))
    in_rows = 1 if len(shape) == 4 and axis == 1 else 2
    tiling = Tiling(seen, axes, dims_of(seen, axes), (1, 1, 0, 1), rows=in_rows)
    return Variant("planes", tiling, partial(_planes_tile, op, chip, seen, axes))


def _slot_ranges(elements: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """(lanes, first slot, slots) of a row of elements dealt out to the lanes: whole slots, then what is left."""
    whole, rest = divmod(elements, lanes)
    if whole:
        yield lanes, 0, whole
    if rest:
        yield rest, whole, 1


def _dealt_part(tensor: Local, lanes: int, first: int, slots: int, chip: Chip) -> Local:
    """Slots [first, first + slots) of the first lanes of a tensor (rows, 64, 1, slots)."""
    strides = aligned_strides(tensor.dims, 4, chip)
    return Local(tensor.buffer, (tensor.dims[0], lanes, 1, slots), F32, first * 4, strides)


@dataclass(frozen=True)
class Dealt:
    """A tile of a softmax along a dealt-out axis, (1, c, h, w) with the axis on c, as it is put together."""

    tile: Assembly
    op: OperationView
    axes: AxisMap
    box: Box

    @property
    def rows(self) -> int:
        """How many independent rows the tile has."""
        return self.box.dims[2] * self.box.dims[3]

    @property
    def length(self) -> int:
        """Elements of the softmax axis."""
        return self.box.dims[1]

    @property
    def is_last(self) -> bool:
        """Whether elements of the softmax axis may follow each other in global memory."""
        return dims_of(self.op.result.shape, self.axes)[3] == 1

    def pieces(self) -> Iterator[tuple[int, int, str]]:
        """Pieces [start, stop) of the softmax axis that are moved at a time, and the suffix of their buffers."""
        lanes = self.tile.chip.lanes
        if self.is_last:
            step = max(1, PIECE_BYTES // (4 * self.rows * lanes)) * lanes
        else:
            step = max(1, PIECE_BYTES // aligned_bytes((1, 1, 1, self.rows), 4, self.tile.chip)) * lanes
        for index, start in enumerate(range(0, self.length, step)):
            yield start, min(start + step, self.length), str(index % 2)

    def crossing(self, start: int, stop: int) -> tuple[AxisMap, Box]:
        """The view and box under which a piece crosses the memory border: as rows where single elements would."""
        _, _, h, w = self.box.start
        _, _, last_h, last_w = self.box.stop
        if not self.is_last:
            return self.axes, Box((0, start, h, w), (1, stop, last_h, last_w))
        return (self.axes[2], (), (), self.axes[1]), Box((h, 0, 0, start), (last_h, 1, 1, stop))

    def copies(self, whole: Local, start: int, piece: Local) -> Iterator[tuple[Local, Local]]:
        """Parts of the dealt-out tensor and of a piece's channels that hold the same elements."""
        chip = self.tile.chip
        vector = chip.vector_bytes // 4
        groups, slot = aligned_strides(piece.dims, 4, chip)[:2]
        strides = (groups, vector, 0, vector) if self.is_last else (1, slot, 0, slot)
        for lanes, first, slots in _slot_ranges(piece.dims[1], chip.lanes):
            dims = (self.rows, lanes, 1, slots)
            part = Local(piece.buffer, dims, F32, first * strides[3] * 4, strides)
            yield _dealt_part(whole, lanes, start // chip.lanes + first, slots, chip), part

    def _locals(self, start: int, stop: int, box: Box, suffix: str) -> tuple[Local, Local]:
        """A piece as it crosses the border, and as channels."""
        line = Local(f"line{suffix}", box.dims, F32)
        if not self.is_last:
            return line, line
        return line, Local(f"slots{suffix}", (self.rows, stop - start, 1, 1), F32)

    def reserve(self) -> None:
        """Buffers for two pieces at a time."""
        start, stop, _ = next(self.pieces())
        for suffix in {suffix for *_, suffix in self.pieces()}:
            for one in dict.fromkeys(self._locals(start, stop, self.crossing(start, stop)[1], suffix)):
                self.tile.tensor(one.buffer, one.dims, F32)

    def load(self, x: Local) -> None:
        """Brings the operand and deals it out; lanes that the last slot leaves over get the lowest number."""
        chip, add = self.tile.chip, self.tile.actions.append
        if self.length % chip.lanes:
            rows, lanes, _, slots = x.dims
            last = Box((0, 0, 0, slots - 1), (rows, lanes, 1, slots))
            add(Fill(x.buffer, x.dims, 4, Constant.float32(float(np.finfo(np.float32).min)).value, last))
        for start, stop, suffix in self.pieces():
            axes, box = self.crossing(start, stop)
            line, channels = self._locals(start, stop, box, suffix)
            add(LoadOperand(0, self.op.operands[0].shape, axes, box, line.buffer))
            if channels != line:
                add(tiu.transpose_channels(channels, line, chip))
            for whole, part in self.copies(x, start, channels):
                add(tiu.arithmetic(ArithmeticOp.COPY, whole, part, None, chip))

    def store(self, y: Local) -> None:
        """Collects the result and takes it to its place."""
        chip, add = self.tile.chip, self.tile.actions.append
        for start, stop, suffix in self.pieces():
            axes, box = self.crossing(start, stop)
            line, channels = self._locals(start, stop, box, suffix)
            for whole, part in self.copies(y, start, channels):
                add(tiu.arithmetic(ArithmeticOp.COPY, part, whole, None, chip))
            if channels != line:
                add(tiu.transpose_channels(line, channels, chip))
            add(StoreResult(self.op.result.shape, axes, box, line.buffer))


def _fold_dealt(tile: Assembly, length: int, ends: tuple[Local, Local, Local], op: ArithmeticOp, work: Local) -> Local:
    """Reduces rows dealt out to the lanes by the same halves: whole slots, then the last ones across the lanes.

    `ends` are those last elements as channels, those as a row, and another such row.
    """
    chip, add = tile.chip, tile.actions.append
    channels, line, spread = ends
    while length > chip.lanes:
        half = 1 << (length - 1).bit_length() - 1
        for lanes, first, slots in _slot_ranges(length - half, chip.lanes):
            near = _dealt_part(work, lanes, first, slots, chip)
            far = _dealt_part(work, lanes, half // chip.lanes + first, slots, chip)
            add(tiu.arithmetic(op, near, near, far, chip))
        length = half
    add(tiu.arithmetic(ArithmeticOp.COPY, channels, _dealt_part(work, chip.lanes, 0, 1, chip), None, chip))
    add(tiu.transpose_channels(line, channels, chip))
    add(tiu.arithmetic(ArithmeticOp.COPY, spread, _fold(tile, op, line), None, chip))
    add(tiu.transpose_channels(channels, spread, chip))
    return channels


def _dealt_tile(op: OperationView, chip: Chip, axes: AxisMap, box: Box) -> TileProgram:
    tile = Assembly(chip)
    dealt = Dealt(tile, op, axes, box)
    rows, lanes = dealt.rows, chip.lanes
    dims = (rows, lanes, 1, -(-dealt.length // lanes))
    x, t, k, p = (tile.tensor(name, dims, F32) for name in ("x", "t", "k", "p"))
    channels, row = (tile.tensor(name, (rows, lanes, 1, 1), F32) for name in ("ends", "row"))
    line, spread = (tile.tensor(name, (rows, 1, 1, lanes), F32) for name in ("ends row", "spread"))
    dealt.reserve()
    _load_taylor(tile)
    dealt.load(x)
    _normalize(tile, x, (t, k, p), row, partial(_fold_dealt, tile, dealt.length, (channels, line, spread)))
    dealt.store(p)
    return tile.program()


def dealt_variant(op: OperationView, chip: Chip) -> Variant:
    """The softmax axis, of more elements than lanes, dealt out to the lanes."""
    shape = op.result.shape
    axis = op.attributes["axis"] % len(shape)
    axes = ((), (axis,), tuple(range(axis)), tuple(range(axis + 1, len(shape))))
    tiling = Tiling(shape, axes, dims_of(shape, axes), (1, 0, 1, 1))
    return Variant("dealt", tiling, partial(_dealt_tile, op, chip, axes), fallback=True)


@emits("tpu.Softmax")
def softmax(op: OperationView, chip: Chip) -> list[Variant]:
    """exp of the distance to the row's maximum, times the reciprocal of the row's sum."""
    rank = len(op.result.shape)
    axes = _axes(rank, op.attributes["axis"] % rank)
    dims = dims_of(op.result.shape, axes)
    rows = Variant("rows", Tiling(op.result.shape, axes, dims, (1, chip.lanes, 1, 0)), partial(_tile, op, chip, axes))
    planes = planes_variant(op, chip)
    usual = [rows] if planes is None else [planes, rows]
    is_long = 4 * aligned_bytes((1, 1, 1, dims[3]), 4, chip) > chip.lane_bytes // 2
    return [*usual, dealt_variant(op, chip)] if is_long else usual
