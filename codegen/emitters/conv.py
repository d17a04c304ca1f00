"""Convolutions: dense and grouped ones on the CONV unit, depthwise ones on the pooling unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.instructions import Local, Window
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.isa import ArithmeticOp, PoolOp
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides, channel_groups, round_up
from tpu_deploy.codegen.program import (
    Access,
    Action,
    Buffer,
    Fill,
    LoadConstant,
    LoadOperand,
    Step,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import AxisMap, Box, Dims, canonical_axes, dims_of

I32 = np.dtype(np.int32)

ACC_BUDGET = 32768
"""Bytes of a lane that int32 sums may take at a time: the larger, the fewer commands; the smaller, the more room."""
PIXELS_PER_CYCLE = 4
SHORT_ROW = 256
"""A row of fewer bytes takes as long to transfer as one of this many."""
STORE_WEIGHT = 1.4
"""A byte stored takes as long as this many loaded."""
PART_BYTES = 32768
"""Bytes of an output channel's filter that one part of the input channels takes where they are summed in parts."""
MAX_STRIDE = 65536
"""Strides of a convolution's input have 16 bits."""


@dataclass(frozen=True)
class Span:
    """What a window reads along one axis: [low, high) with padding, of it [first, last) are real; empty if first >= last."""

    low: int
    high: int
    first: int
    last: int

    @property
    def is_empty(self) -> bool:
        """Whether only padding is read."""
        return self.first >= self.last


@dataclass(frozen=True)
class Problem:
    """A convolution as the unit sees it: groups already merged so that a group fills the input lanes where it can."""

    op: OperationView
    chip: Chip
    axes: AxisMap
    filters: npt.NDArray[np.int8]
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def x_dims(self) -> Dims:
        """Sizes of the input."""
        return dims_of(self.op.operand("input").shape, self.axes)

    @property
    def zero(self) -> int:
        """The byte of the input's zero point."""
        return self.op.operand("input").zero_point & 0xFF

    @property
    def channels_in(self) -> int:
        """Input channels of a group."""
        return self.x_dims[1] // self.groups

    @property
    def channels_out(self) -> int:
        """Output channels of a group."""
        return self.filters.shape[0] // self.groups

    def span(self, box: Box, axis: int) -> Span:
        """What a box of the result reads along h (0) or w (1).

        The last tile takes what a stride leaves over, so that a whole result reads its whole input.
        """
        start, stop = box.start[2 + axis], box.stop[2 + axis]
        size, output = self.x_dims[2 + axis], dims_of(self.op.result.shape, self.axes)[2 + axis]
        low = start * self.strides[axis] - self.pads[axis]
        high = (stop - 1) * self.strides[axis] - self.pads[axis] + self.dilations[axis] * (self.kernel[axis] - 1) + 1
        if stop == output and 0 < size - high < self.strides[axis] <= self.chip.max_stride:
            high = size
        return Span(low, high, max(low, 0), min(high, size))


def merge_groups(filters: npt.NDArray[np.int8], groups: int, block: int) -> tuple[npt.NDArray[np.int8], int]:
    """Filters with as many groups joined (zeros between them) as fit the `block` input lanes of one pass."""
    oc, ic = filters.shape[:2]
    merged = max((k for k in range(1, groups + 1) if groups % k == 0 and k * ic <= block), default=1)
    if merged == 1:
        return filters, groups
    per_group = oc // groups
    out = np.zeros((groups // merged, merged, per_group, merged, ic, *filters.shape[2:]), np.int8)
    shaped = filters.reshape(groups // merged, merged, per_group, ic, *filters.shape[2:])
    for k in range(merged):
        out[:, k, :, k] = shaped[:, k]
    return out.reshape(oc, merged * ic, *filters.shape[2:]), groups // merged


def _strides(problem: Problem, box: Box) -> tuple[int, int]:
    """Strides over a box: one too large for an instruction does not matter where there is one position along the axis."""
    limit = problem.chip.max_stride
    down, across = (1 if n == 1 and s > limit else s for n, s in zip(box.dims[2:], problem.strides, strict=True))
    return down, across


def load_window(
    problem: Problem, box: Box, channels: tuple[int, int], name: str, pad_value: int
) -> tuple[Buffer, list[Action], Local, Window]:
    """The input that a box of the result needs, in a buffer: its actions, the tensor, and the window over it.

    `pad_value` is the byte that padding holds. Pads beyond what an instruction can express are written into the buffer.
    """
    chip, x = problem.chip, problem.op.operand("input")
    rows, columns = problem.span(box, 0), problem.span(box, 1)
    pads = (rows.first - rows.low, columns.first - columns.low, rows.high - rows.last, columns.high - columns.last)
    images = (box.start[0], box.stop[0])
    window = Window(problem.kernel, _strides(problem, box), problem.dilations, pads, pad_value)
    empty = rows.is_empty or columns.is_empty
    if not empty and max(pads) <= chip.max_pad:
        read = Box(
            (images[0], channels[0], rows.first, columns.first), (images[1], channels[1], rows.last, columns.last)
        )
        local = Local(name, read.dims, x.dtype)
        buffer = Buffer(name, aligned_bytes(read.dims, x.dtype.itemsize, chip))
        return buffer, [LoadOperand(0, x.shape, problem.axes, read, name)], local, window
    dims = (images[1] - images[0], channels[1] - channels[0], rows.high - rows.low, columns.high - columns.low)
    actions: list[Action] = [Fill(name, dims, x.dtype.itemsize, pad_value)]
    if not empty:
        read = Box(
            (images[0], channels[0], rows.first, columns.first), (images[1], channels[1], rows.last, columns.last)
        )
        actions.append(LoadOperand(0, x.shape, problem.axes, read, name, (dims, (0, 0, pads[0], pads[1]))))
    buffer = Buffer(name, aligned_bytes(dims, x.dtype.itemsize, chip))
    return buffer, actions, Local(name, dims, x.dtype), replace(window, pads=(0, 0, 0, 0))


def record_bytes(slots: int, chip: Chip) -> int:
    """Bytes of a lane that the requantization records of so many channel groups take."""
    return round_up(slots * packing.RECORD_BYTES, chip.vector_bytes)


def _pack_records(problem: Problem, first: int, last: int) -> packing.Bytes:
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


def _pack_dense(problem: Problem, first: int, last: int) -> packing.Bytes:
    chip = problem.chip
    part = slice(first, last)
    filters = packing.conv_filter(problem.filters[part], chip.conv_block_i8)
    return np.concatenate([_pack_records(problem, first, last), packing.rows_by_lane(filters, chip)], axis=1)


@dataclass(frozen=True)
class Chunk:
    """A part of a tile that is summed up at a time: images, groups of 64 channels and rows, each [start, stop)."""

    images: tuple[int, int]
    slots: tuple[int, int]
    rows: tuple[int, int]


def chunks(dims: Dims, chip: Chip, row_quantum: int = 0) -> list[Chunk]:
    """Parts of a tile whose int32 sums stay within ACC_BUDGET where the layout allows it.

    One image's channel groups follow each other in the aligned layout, and so do one group's rows (cut at multiples of
    `row_quantum`; 0: not at all), so a part is a tensor in the same layout at an offset.
    """
    n, c, h, _ = dims
    slots = channel_groups(c, chip)
    if aligned_bytes(dims, 4, chip) <= ACC_BUDGET:
        return [Chunk((0, n), (0, slots), (0, h))]
    one = aligned_bytes((1, *dims[1:]), 4, chip)
    if one <= ACC_BUDGET:
        step = ACC_BUDGET // one
        return [Chunk((k, min(k + step, n)), (0, slots), (0, h)) for k in range(0, n, step)]
    single = one // slots
    if single <= ACC_BUDGET or not row_quantum:
        step = max(1, ACC_BUDGET // single)
        cuts = [(g, min(g + step, slots)) for g in range(0, slots, step)]
        return [Chunk((k, k + 1), cut, (0, h)) for k in range(n) for cut in cuts]
    rows = max(row_quantum, h * ACC_BUDGET // single // row_quantum * row_quantum)
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


def _finish(acc: Local, y: Local, table: Access, chip: Chip) -> list[Action]:
    """Bias and requantization of int32 sums by the slots of a table."""
    channels = y.dims[1]
    strides = (0, packing.SLOT_BYTES // 4, 0, 0)
    bias = Local(table.buffer, (1, channels, 1, 1), I32, table.start + packing.BIAS_OFFSET, strides)
    return [
        tiu.arithmetic(ArithmeticOp.ADDS, acc, acc, bias, chip),
        tiu.requantize_channels(y, acc, table, chip),
    ]


def _row_quantum(x: Local, y: Local, window: Window, chip: Chip) -> int:
    """Rows of the result that a chunk must be a multiple of so that it begins on a vector; 0 where it cannot be cut.

    It cannot where an input plane is too large for strides, or where a chunk might lie wholly in padding.
    """
    reach = window.dilations[0] * (window.kernel[0] - 1) + 1
    if aligned_strides(x.dims, x.dtype.itemsize, chip)[1] >= MAX_STRIDE or max(window.pads[::2]) >= reach:
        return 0
    return chip.vector_bytes // math.gcd(y.dims[3], chip.vector_bytes)


def _chunk_window(problem: Problem, x: Local, window: Window, chunk: Chunk, height: int) -> tuple[Local, Window]:
    """The rows of the input that a chunk of the result reads, and the window over them."""
    _, c, h, w = x.dims
    strides = aligned_strides(x.dims, x.dtype.itemsize, problem.chip)
    images = chunk.images[1] - chunk.images[0]
    base = x.offset + chunk.images[0] * strides[0]
    if chunk.rows == (0, height):
        return Local(x.buffer, (images, c, h, w), x.dtype, base), window
    low = chunk.rows[0] * window.strides[0] - window.pads[0]
    reach = window.dilations[0] * (window.kernel[0] - 1) + 1
    high = (chunk.rows[1] - 1) * window.strides[0] - window.pads[0] + reach
    first, last = max(low, 0), min(high, h)
    pads = (first - low, window.pads[1], high - last, window.pads[3])
    part = Local(x.buffer, (images, c, last - first, w), x.dtype, base + first * w, strides)
    return part, replace(window, pads=pads)


def dense_steps(
    problem: Problem, x: Local, window: Window, y: Local, constants: Buffer, place: str
) -> tuple[list[Buffer], list[Action]]:
    """The steps of a convolution into `y`, part by part, and the buffers of table and sums they need.

    The constants hold requantization records, then the filters. `place` tells buffers of neighbouring groups apart.
    """
    chip = problem.chip
    count = channel_groups(y.dims[1], chip)
    records = record_bytes(count, chip)
    table, acc = Buffer(f"table{place}", count * packing.SLOT_BYTES), f"acc{place}"
    actions: list[Action] = [spread_records(constants.name, table, y.dims[1], chip)]
    size = 0
    filter_bytes = packing.conv_filter_bytes(x.dims[1], *window.kernel, chip.conv_block_i8)
    for chunk in chunks(y.dims, chip, _row_quantum(x, y, window, chip)):
        target = part_of(y, chunk, chip)
        source, over = _chunk_window(problem, x, window, chunk, y.dims[2])
        first, last = chunk.slots
        sums = Local(acc, target.dims, I32)
        size = max(size, aligned_bytes(target.dims, 4, chip))
        filters = Access(constants.name, records + first * filter_bytes, records + last * filter_bytes)
        slots = Access(table.name, first * packing.SLOT_BYTES, last * packing.SLOT_BYTES)
        actions += [tiu.convolution(sums, source, filters, over, chip), *_finish(sums, target, slots, chip)]
    return [table, Buffer(acc, size, away=frozenset({y.buffer}))], actions


def _dense_group(problem: Problem, box: Box, group: int, place: int) -> tuple[list[Buffer], list[Action]]:
    """The part of a tile that belongs to one group; neighbours use buffers by turns (`place` 0 or 1)."""
    op, chip = problem.op, problem.chip
    size = problem.channels_out
    first, last = max(box.start[1], group * size), min(box.stop[1], (group + 1) * size)
    part = Box((box.start[0], first, *box.start[2:]), (box.stop[0], last, *box.stop[2:]))
    low = group * problem.channels_in
    buffer, loads, x, window = load_window(problem, part, (low, low + problem.channels_in), f"x{place}", problem.zero)
    slots = channel_groups(last - first, chip)
    row = record_bytes(slots, chip) + slots * packing.conv_filter_bytes(
        problem.channels_in, *problem.kernel, chip.conv_block_i8
    )
    constants = Buffer(f"weights{place}", row)
    y = Local(f"y{place}", part.dims, op.result.dtype)
    scratch, steps = dense_steps(problem, x, window, y, constants, str(place))
    pack = partial(_pack_dense, problem, first, last)
    key = f"{op.result.name}:{first}:{last}"
    actions = [
        LoadConstant(key, min(last - first, chip.lanes), row, constants.name, pack),
        *loads,
        *steps,
        StoreResult(op.result.shape, problem.axes, part, y.buffer),
    ]
    return [buffer, constants, *scratch, Buffer(y.buffer, aligned_bytes(part.dims, 1, chip))], actions


def _dense_tile(problem: Problem, box: Box) -> TileProgram:
    buffers: dict[str, Buffer] = {}
    actions: list[Action] = []
    size = problem.channels_out
    for place, group in enumerate(range(box.start[1] // size, (box.stop[1] - 1) // size + 1)):
        more_buffers, more_actions = _dense_group(problem, box, group, place % 2)
        for buffer in more_buffers:
            known = buffers.get(buffer.name, buffer)
            buffers[buffer.name] = replace(buffer, bytes=max(buffer.bytes, known.bytes))
        actions += more_actions
    return TileProgram(tuple(buffers.values()), tuple(actions))


def _pack_depthwise(problem: Problem, first: int, last: int, bias_start: int, filter_start: int) -> packing.Bytes:
    op, chip = problem.op, problem.chip
    part = slice(first, last)
    bias = op.constant("bias")[part]
    records = _pack_records(problem, first, last)
    biases = packing.rows_by_lane(np.ascontiguousarray(bias).reshape(-1, 1).view(np.uint8), chip)
    taps = np.ascontiguousarray(problem.filters[part]).reshape(last - first, -1).view(np.uint8)
    return np.concatenate(
        [records, packing.padded(biases, filter_start - bias_start), packing.rows_by_lane(taps, chip)], axis=1
    )


def _depthwise_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    buffer, actions, x, window = load_window(problem, box, (first, last), "x", problem.zero)
    slots = channel_groups(last - first, chip)
    bias_start = record_bytes(slots, chip)
    table = Buffer("table", slots * packing.SLOT_BYTES)
    filter_start = round_up(bias_start + slots * 4, chip.vector_bytes)
    row = filter_start + slots * problem.kernel[0] * problem.kernel[1]
    y = Local("y", box.dims, op.result.dtype)
    pack = partial(_pack_depthwise, problem, first, last, bias_start, filter_start)
    taps = problem.kernel[0] * problem.kernel[1]
    steps: list[Action] = [spread_records("weights", table, last - first, chip)]
    size = 0
    for chunk in chunks(box.dims, chip):
        low, high = chunk.slots
        target, source = part_of(y, chunk, chip), part_of(x, replace(chunk, rows=(0, x.dims[2])), chip)
        sums = Local("acc", target.dims, I32)
        size = max(size, aligned_bytes(target.dims, 4, chip))
        weights = Access("weights", filter_start + low * taps, filter_start + high * taps)
        bias = Access("weights", bias_start + low * 4, bias_start + high * 4)
        slots_read = Access("table", low * packing.SLOT_BYTES, high * packing.SLOT_BYTES)
        steps += [
            tiu.pooling(PoolOp.DEPTHWISE, sums, source, window, chip, weights=weights, bias=bias),
            tiu.requantize_channels(target, sums, slots_read, chip),
        ]
    buffers = (
        buffer,
        Buffer("weights", row),
        table,
        Buffer("acc", size, away=frozenset({"y"})),
        Buffer("y", aligned_bytes(box.dims, 1, chip)),
    )
    key = f"{op.result.name}:{first}:{last}"
    return TileProgram(
        buffers,
        (
            LoadConstant(key, min(last - first, chip.lanes), row, "weights", pack),
            *actions,
            *steps,
            StoreResult(op.result.shape, problem.axes, box, "y"),
        ),
    )


def dense_variants(problem: Problem) -> list[Variant]:
    """The convolution on the CONV unit, cut in output channels, images, rows and columns.

    Groups are cut inside, and input channels summed part by part, only where nothing else fits.
    """
    shape = problem.op.result.shape
    dims, lanes, size = dims_of(shape, problem.axes), problem.chip.lanes, problem.channels_out
    cuts = stride_cuts(problem, dims)
    whole = lanes if problem.groups == 1 or size % lanes == 0 else size

    def variant(name: str, multiple: int, tile: Callable[[Problem, Box], TileProgram], fallback: bool) -> Variant:
        return Variant(
            name, Tiling(shape, problem.axes, dims, (1, multiple, 1, 1), cuts), partial(tile, problem), fallback
        )

    found = [gathered_variant(problem)] if _gathers(problem) else []
    found.append(variant("dense", whole, _dense_tile, False))
    if whole != lanes:
        found.append(variant("dense, groups cut", lanes, _dense_tile, True))
    if problem.groups == 1:
        found.append(variant("dense, inputs in parts", lanes, _split_tile, True))
    return found


def _gathers(problem: Problem) -> bool:
    """Whether it pays to bring each row of the kernel's taps into channels of its own, so that fewer input lanes idle.

    The passes saved are weighed against loading every row once for each tap that reads it.
    """
    chip, (kh, kw), ic = problem.chip, problem.kernel, problem.channels_in
    if problem.groups != 1 or kh == 1 or ic * kh > chip.conv_block_i8:
        return False
    n, oc, oh, ow = dims_of(problem.op.result.shape, problem.axes)
    if max(problem.pads[1], problem.pads[3]) > chip.max_pad or problem.strides[1] > chip.max_stride:
        return False
    passes = n * channel_groups(oc, chip) * -(-oh * ow // PIXELS_PER_CYCLE)
    rows, width = n * ic * oh * kh, problem.x_dims[3]
    transfer = rows * max(width, SHORT_ROW) + STORE_WEIGHT * math.prod(problem.x_dims)
    return passes * (kh - 1) * kw > transfer / chip.dma_bytes_per_cycle


def _gathered_tile(problem: Problem, box: Box) -> TileProgram:
    """Channel ky * ic + c of the gathered input holds, for each output row, the input row that tap row ky reads."""
    op, chip, x_type = problem.op, problem.chip, problem.op.operand("input")
    ic, (kh, kw), stride = problem.channels_in, problem.kernel, problem.strides[0]
    columns, height = problem.span(box, 1), problem.x_dims[2]
    first, last = box.start[2], box.stop[2]
    width = max(columns.last - columns.first, 1)
    dims = (box.dims[0], ic * kh, last - first, width)
    actions: list[Action] = []
    for ky in range(kh):
        ahead = problem.pads[0] - ky * problem.dilations[0]
        low = min(max(first, -(-ahead // stride)), last)
        high = max(min(last, (height - 1 + ahead) // stride + 1), low)
        for start, stop in ((first, low), (high, last)):
            if start < stop:
                edge = Box((0, ky * ic, start - first, 0), (dims[0], (ky + 1) * ic, stop - first, width))
                actions.append(Fill("x", dims, 1, problem.zero, edge))
        if low < high:
            read = Box(
                (box.start[0], 0, low * stride - ahead, columns.first),
                (box.stop[0], ic, (high - 1) * stride - ahead + 1, columns.last),
            )
            into = (dims, (0, ky * ic, low - first, 0))
            actions.append(LoadOperand(0, x_type.shape, problem.axes, read, "x", into, stride))
    pads = (0, columns.first - columns.low, 0, columns.high - columns.last)
    window = Window((1, kw), (1, problem.strides[1]), (1, problem.dilations[1]), pads, problem.zero)
    oc0, oc1 = box.start[1], box.stop[1]
    slots = channel_groups(oc1 - oc0, chip)
    constants = Buffer(
        "weights", record_bytes(slots, chip) + slots * packing.conv_filter_bytes(ic * kh, 1, kw, chip.conv_block_i8)
    )
    x, y = Local("x", dims, x_type.dtype), Local("y", box.dims, op.result.dtype)
    scratch, steps = dense_steps(problem, x, window, y, constants, "")
    oc, _, _, _ = problem.filters.shape
    gathered = np.ascontiguousarray(problem.filters.transpose(0, 2, 1, 3)).reshape(oc, kh * ic, 1, kw)
    pack = partial(_pack_dense, replace(problem, filters=gathered), oc0, oc1)
    load = LoadConstant(
        f"{op.result.name}:{oc0}:{oc1}:gathered", min(oc1 - oc0, chip.lanes), constants.bytes, "weights", pack
    )
    size = aligned_bytes(box.dims, 1, chip)
    buffers = (Buffer("x", aligned_bytes(dims, 1, chip)), constants, *scratch, Buffer("y", size))
    store = StoreResult(op.result.shape, problem.axes, box, "y")
    return TileProgram(buffers, (load, *actions, *steps, store))


def gathered_variant(problem: Problem) -> Variant:
    """The convolution with the rows of its kernel gathered into channels."""
    shape = problem.op.result.shape
    dims = dims_of(shape, problem.axes)
    tile = partial(_gathered_tile, problem)
    return Variant(
        "rows gathered", Tiling(shape, problem.axes, dims, (1, problem.chip.lanes, 1, 1)), tile, preferred=True
    )


def stride_cuts(problem: Problem, dims: Dims) -> tuple[tuple[int, ...], ...]:
    """Where a stride is more than an instruction can express each position is a tile of its own."""

    def along(axis: int) -> tuple[int, ...]:
        return tuple(range(1, dims[2 + axis])) if problem.strides[axis] > problem.chip.max_stride else ()

    return (), (), along(0), along(1)


def _pack_filters(problem: Problem, outputs: tuple[int, int], inputs: tuple[int, int]) -> packing.Bytes:
    part = problem.filters[slice(*outputs), slice(*inputs)]
    return packing.rows_by_lane(packing.conv_filter(part, problem.chip.conv_block_i8), problem.chip)


def _split_tile(problem: Problem, box: Box) -> TileProgram:
    """A tile whose input channels are too many for local memory: int32 sums over one part after another."""
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    taps = problem.kernel[0] * problem.kernel[1]
    step = max(chip.conv_block_i8, PART_BYTES // taps // chip.conv_block_i8 * chip.conv_block_i8)
    slots, lanes = channel_groups(last - first, chip), min(last - first, chip.lanes)
    acc, y = Local("acc", box.dims, I32), Local("y", box.dims, op.result.dtype)
    buffers: dict[str, Buffer] = {
        "table": Buffer("table", slots * packing.SLOT_BYTES),
        "records": Buffer("records", record_bytes(slots, chip)),
        "acc": Buffer("acc", aligned_bytes(box.dims, 4, chip), away=frozenset({"y"})),
        "y": Buffer("y", aligned_bytes(box.dims, 1, chip)),
    }
    key = f"{op.result.name}:{first}:{last}"
    actions: list[Action] = []
    for index, low in enumerate(range(0, problem.channels_in, step)):
        high = min(low + step, problem.channels_in)
        place = index % 2
        x_buffer, loads, x, window = load_window(problem, box, (low, high), f"x{place}", problem.zero)
        row = slots * packing.conv_filter_bytes(high - low, *problem.kernel, chip.conv_block_i8)
        for buffer in (x_buffer, Buffer(f"weights{place}", row)):
            known = buffers.get(buffer.name, buffer)
            buffers[buffer.name] = replace(buffer, bytes=max(buffer.bytes, known.bytes))
        pack = partial(_pack_filters, problem, (first, last), (low, high))
        weights = Access(f"weights{place}", 0, row)
        actions += [
            LoadConstant(f"{key}:{low}", lanes, row, weights.buffer, pack),
            *loads,
            tiu.convolution(acc, x, weights, window, chip, add=index > 0),
        ]
    pack = partial(_pack_records, problem, first, last)
    table = Access("table", 0, slots * packing.SLOT_BYTES)
    actions += [
        LoadConstant(f"{key}:records", lanes, buffers["records"].bytes, "records", pack),
        spread_records("records", buffers["table"], last - first, chip),
        *_finish(acc, y, table, chip),
        StoreResult(op.result.shape, problem.axes, box, "y"),
    ]
    return TileProgram(tuple(buffers.values()), tuple(actions))


def spread_taps(
    filters: npt.NDArray[np.int8], axis: int, dilation: int, limit: int
) -> tuple[npt.NDArray[np.int8], int]:
    """Filters and dilation along an axis such that the dilation is at most `limit`: zero taps stand between the taps."""
    size = filters.shape[axis]
    if size == 1:
        return filters, 1
    kept = max(k for k in range(1, limit + 1) if dilation % k == 0)
    apart = dilation // kept
    if apart == 1:
        return filters, dilation
    shape = list(filters.shape)
    shape[axis] = (size - 1) * apart + 1
    spread = np.zeros(shape, filters.dtype)
    spread[tuple(slice(None, None, apart) if a == axis else slice(None) for a in range(4))] = filters
    return spread, kept


@emits("tpu.Conv2D")
def conv2d(op: OperationView, chip: Chip) -> list[Variant]:
    """Depthwise convolutions on the pooling unit, all others on the CONV unit."""
    attributes = op.attributes
    filters, groups = op.constant("filter"), attributes["group"]
    filters, down = spread_taps(filters, 2, attributes["dilations"][0], chip.max_dilation)
    filters, across = spread_taps(filters, 3, attributes["dilations"][1], chip.max_dilation)
    kernel, strides = (filters.shape[2], filters.shape[3]), (attributes["strides"][0], attributes["strides"][1])
    top, left, bottom, right = attributes["pads"]
    pads = (top, left, bottom, right)
    problem = Problem(op, chip, canonical_axes(4), filters, groups, kernel, strides, (down, across), pads)
    if groups > 1 and filters.shape[1] == 1 and filters.shape[0] == groups:
        shape = op.result.shape
        dims = dims_of(shape, problem.axes)
        tiling = Tiling(shape, problem.axes, dims, (1, chip.lanes, 1, 1), stride_cuts(problem, dims))
        return [Variant("depthwise", tiling, partial(_depthwise_tile, problem))]
    filters, groups = merge_groups(filters, groups, chip.conv_block_i8)
    return dense_variants(replace(problem, filters=filters, groups=groups))
