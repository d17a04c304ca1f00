"""Convolutions: dense and grouped ones on the CONV unit, depthwise ones on the pooling unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
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
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import AxisMap, Box, Dims, canonical_axes, dims_of

from tpu_deploy.chips import Chip
from tpu_deploy.ir import geometry

I32 = np.dtype(np.int32)

ACC_BUDGET = 32768
"""Bytes of a lane that int32 sums may take at a time: the larger, the fewer commands; the smaller, the more room."""
MAX_STRIDE = 65536
"""Strides of a convolution's input have 16 bits."""


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

    def input_window(self, box: Box) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
        """Rows, columns and pads that a box of the result needs of the input."""
        _, _, height, width = self.x_dims
        top, left, _, _ = self.pads
        rows = self._span(box, 0, height, top)
        columns = self._span(box, 1, width, left)
        return rows[:2], columns[:2], (rows[2], columns[2], rows[3], columns[3])

    def _span(self, box: Box, axis: int, size: int, begin: int) -> tuple[int, int, int, int]:
        """`geometry.input_range` along h (0) or w (1); the last tile takes what a stride leaves over, so that a whole
        result reads its whole input."""
        start, stop = box.start[2 + axis], box.stop[2 + axis]
        kernel, stride, dilation = self.kernel[axis], self.strides[axis], self.dilations[axis]
        first, last, before, after = geometry.input_range(start, stop, size, kernel, stride, begin, dilation)
        output = dims_of(self.op.result.shape, self.axes)[2 + axis]
        if stop == output and after == 0 and size - last < stride:
            last = size
        return first, last, before, after


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


def load_window(
    problem: Problem, box: Box, channels: tuple[int, int], name: str, pad_value: int
) -> tuple[Buffer, list[Action], Local, Window]:
    """The input that a box of the result needs, in a buffer: its actions, the tensor, and the window over it.

    `pad_value` is the byte that padding holds. Pads beyond what an instruction can express are written into the buffer.
    """
    chip, x = problem.chip, problem.op.operand("input")
    rows, columns, pads = problem.input_window(box)
    read = Box((box.start[0], channels[0], rows[0], columns[0]), (box.stop[0], channels[1], rows[1], columns[1]))
    window = Window(problem.kernel, problem.strides, problem.dilations, pads, pad_value)
    if max(pads) <= chip.max_pad:
        local = Local(name, read.dims, x.dtype)
        buffer = Buffer(name, aligned_bytes(read.dims, x.dtype.itemsize, chip))
        return buffer, [LoadOperand(0, x.shape, problem.axes, read, name)], local, window
    top, left, bottom, right = pads
    n, c, h, w = read.dims
    dims = (n, c, h + top + bottom, w + left + right)
    into = (dims, (0, 0, top, left))
    actions: list[Action] = [
        Fill(name, dims, x.dtype.itemsize, pad_value),
        LoadOperand(0, x.shape, problem.axes, read, name, into),
    ]
    buffer = Buffer(name, aligned_bytes(dims, x.dtype.itemsize, chip))
    return buffer, actions, Local(name, dims, x.dtype), replace(window, pads=(0, 0, 0, 0))


def _pack_dense(problem: Problem, first: int, last: int) -> packing.Bytes:
    op, chip = problem.op, problem.chip
    part = slice(first, last)
    slots = packing.requant_slots(
        op.constant("multiplier")[part], op.constant("rshift")[part], op.result.zero_point, op.constant("bias")[part]
    )
    filters = packing.conv_filter(problem.filters[part], chip.conv_block_i8)
    return np.concatenate([packing.rows_by_lane(slots, chip), packing.rows_by_lane(filters, chip)], axis=1)


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
        return [Chunk((k, k + 1), (0, slots), (0, h)) for k in range(n)]
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


def _row_quantum(x: Local, y: Local, chip: Chip) -> int:
    """Rows of the result that a chunk must be a multiple of so that it begins on a vector; 0 where it cannot be cut."""
    if aligned_strides(x.dims, x.dtype.itemsize, chip)[1] >= MAX_STRIDE:
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
    first, last, top, bottom = geometry.input_range(
        *chunk.rows, h, window.kernel[0], window.strides[0], window.pads[0], window.dilations[0]
    )
    pads = (top, window.pads[1], bottom, window.pads[3])
    part = Local(x.buffer, (images, c, last - first, w), x.dtype, base + first * w, strides)
    return part, replace(window, pads=pads)


def dense_steps(
    problem: Problem, x: Local, window: Window, acc: str, y: Local, constants: Buffer, table: int
) -> tuple[Buffer, list[Action]]:
    """The steps of a convolution into `y`, part by part, and the buffer of sums they need.

    The constants hold the requantization table and from byte `table` on the filters.
    """
    chip = problem.chip
    actions: list[Action] = []
    size = 0
    filter_bytes = packing.conv_filter_bytes(x.dims[1], *window.kernel, chip.conv_block_i8)
    for chunk in chunks(y.dims, chip, _row_quantum(x, y, chip)):
        target = part_of(y, chunk, chip)
        source, over = _chunk_window(problem, x, window, chunk, y.dims[2])
        first, last = chunk.slots
        sums = Local(acc, target.dims, I32)
        size = max(size, aligned_bytes(target.dims, 4, chip))
        filters = Access(constants.name, table + first * filter_bytes, table + last * filter_bytes)
        slots = Access(constants.name, first * packing.SLOT_BYTES, last * packing.SLOT_BYTES)
        actions += [tiu.convolution(sums, source, filters, over, chip), *_finish(sums, target, slots, chip)]
    return Buffer(acc, size, away=frozenset({y.buffer})), actions


def _dense_group(problem: Problem, box: Box, group: int, place: int) -> tuple[list[Buffer], list[Action]]:
    """The part of a tile that belongs to one group; neighbours use buffers by turns (`place` 0 or 1)."""
    op, chip = problem.op, problem.chip
    size = problem.channels_out
    first, last = max(box.start[1], group * size), min(box.stop[1], (group + 1) * size)
    part = Box((box.start[0], first, *box.start[2:]), (box.stop[0], last, *box.stop[2:]))
    low = group * problem.channels_in
    buffer, loads, x, window = load_window(problem, part, (low, low + problem.channels_in), f"x{place}", problem.zero)
    slots = channel_groups(last - first, chip)
    table = slots * packing.SLOT_BYTES
    row = table + slots * packing.conv_filter_bytes(problem.channels_in, *problem.kernel, chip.conv_block_i8)
    constants = Buffer(f"weights{place}", row)
    y = Local(f"y{place}", part.dims, op.result.dtype)
    acc, steps = dense_steps(problem, x, window, f"acc{place}", y, constants, table)
    pack = partial(_pack_dense, problem, first, last)
    key = f"{op.result.name}:{first}:{last}"
    actions = [
        LoadConstant(key, min(last - first, chip.lanes), row, constants.name, pack),
        *loads,
        *steps,
        StoreResult(op.result.shape, problem.axes, part, y.buffer),
    ]
    return [buffer, constants, acc, Buffer(y.buffer, aligned_bytes(part.dims, 1, chip))], actions


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
    slots = packing.requant_slots(
        op.constant("multiplier")[part], op.constant("rshift")[part], op.result.zero_point, bias
    )
    table = packing.padded(packing.rows_by_lane(slots, chip), bias_start)
    biases = packing.rows_by_lane(np.ascontiguousarray(bias).reshape(-1, 1).view(np.uint8), chip)
    taps = np.ascontiguousarray(problem.filters[part]).reshape(last - first, -1).view(np.uint8)
    return np.concatenate(
        [table, packing.padded(biases, filter_start - bias_start), packing.rows_by_lane(taps, chip)], axis=1
    )


def _depthwise_tile(problem: Problem, box: Box) -> TileProgram:
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    buffer, actions, x, window = load_window(problem, box, (first, last), "x", problem.zero)
    slots = channel_groups(last - first, chip)
    bias_start = slots * packing.SLOT_BYTES
    filter_start = round_up(bias_start + slots * 4, chip.vector_bytes)
    row = filter_start + slots * problem.kernel[0] * problem.kernel[1]
    y = Local("y", box.dims, op.result.dtype)
    pack = partial(_pack_depthwise, problem, first, last, bias_start, filter_start)
    taps = problem.kernel[0] * problem.kernel[1]
    steps: list[Action] = []
    size = 0
    for chunk in chunks(box.dims, chip):
        low, high = chunk.slots
        target, source = part_of(y, chunk, chip), part_of(x, replace(chunk, rows=(0, x.dims[2])), chip)
        sums = Local("acc", target.dims, I32)
        size = max(size, aligned_bytes(target.dims, 4, chip))
        weights = Access("weights", filter_start + low * taps, filter_start + high * taps)
        bias = Access("weights", bias_start + low * 4, bias_start + high * 4)
        slots_read = Access("weights", low * packing.SLOT_BYTES, high * packing.SLOT_BYTES)
        steps += [
            tiu.pooling(PoolOp.DEPTHWISE, sums, source, window, chip, weights=weights, bias=bias),
            tiu.requantize_channels(target, sums, slots_read, chip),
        ]
    buffers = (
        buffer,
        Buffer("weights", row),
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


def dense_variant(problem: Problem) -> Variant:
    """The convolution on the CONV unit, cut in output channels (within a group), images, rows and columns."""
    size = problem.channels_out
    lanes = problem.chip.lanes
    multiple = lanes if problem.groups == 1 or size % lanes == 0 else size
    shape = problem.op.result.shape
    tiling = Tiling(shape, problem.axes, dims_of(shape, problem.axes), (1, multiple, 1, 1))
    return Variant("dense", tiling, partial(_dense_tile, problem))


@emits("tpu.Conv2D")
def conv2d(op: OperationView, chip: Chip) -> list[Variant]:
    """Depthwise convolutions on the pooling unit, all others on the CONV unit."""
    attributes = op.attributes
    kernel, strides, dilations = (
        (a[0], a[1]) for a in (attributes[k] for k in ("kernel_shape", "strides", "dilations"))
    )
    top, left, bottom, right = attributes["pads"]
    filters, groups = op.constant("filter"), attributes["group"]
    problem = Problem(
        op, chip, canonical_axes(4), filters, groups, kernel, strides, dilations, (top, left, bottom, right)
    )
    if groups > 1 and filters.shape[1] == 1 and filters.shape[0] == groups:
        shape = op.result.shape
        tiling = Tiling(shape, problem.axes, dims_of(shape, problem.axes), (1, chip.lanes, 1, 1))
        return [Variant("depthwise", tiling, partial(_depthwise_tile, problem))]
    filters, groups = merge_groups(filters, groups, chip.conv_block_i8)
    return [dense_variant(replace(problem, filters=filters, groups=groups))]
