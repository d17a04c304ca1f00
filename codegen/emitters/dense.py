"""Dense and grouped convolutions on the CONV unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.epilogue import Epilogue, Held
from tpu_deploy.codegen.emitters.instructions import Local, Window
from tpu_deploy.codegen.emitters.requantization import Chunk, chunks, part_of
from tpu_deploy.codegen.emitters.windows import Problem, load_window, stride_cuts
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides, channel_groups
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
from tpu_deploy.ir.weights import Array

PART_BYTES = 32768
"""Bytes of an output channel's filter that one part of the input channels takes where they are summed in parts."""
PIECE_BYTES = 24576
"""Bytes of a lane that a piece of the filters takes where they come in several."""
LARGE = 49152
"""Bytes of a lane from which on filters come in several pieces."""
MAX_STRIDE = 65536
"""Strides of a convolution's input have 16 bits."""


def merge_groups(filters: Array, groups: int, block: int, lanes: int) -> tuple[Array, int]:
    """Filters with as many groups joined (zeros between them) as take no longer together than one by one.

    They fit the `block` input lanes of one pass, or, where a pass takes a single channel, the `lanes` of its results.
    """
    oc, ic = filters.shape[:2]
    per_group = oc // groups
    size, room = (ic, block) if block > 1 else (per_group, lanes)
    merged = max((k for k in range(1, groups + 1) if groups % k == 0 and k * size <= room), default=1)
    if merged == 1:
        return filters, groups
    out = np.zeros((groups // merged, merged, per_group, merged, ic, *filters.shape[2:]), filters.dtype)
    shaped = filters.reshape(groups // merged, merged, per_group, ic, *filters.shape[2:])
    for k in range(merged):
        out[:, k, :, k] = shaped[:, k]
    return out.reshape(oc, merged * ic, *filters.shape[2:]), groups // merged


def pack_dense(problem: Problem, epilogue: Epilogue, first: int, last: int) -> packing.Bytes:
    """What the epilogue needs and the filters of output channels [first, last), a row a lane."""
    return np.concatenate([epilogue.pack(first, last), _pack_filters(problem, (first, last))], axis=1)


def _pack_filters(problem: Problem, outputs: tuple[int, int], inputs: tuple[int, int] | None = None) -> packing.Bytes:
    part = problem.filters[slice(*outputs), slice(*(inputs or (None, None)))]
    return packing.rows_by_lane(packing.conv_filter(part, problem.chip), problem.chip)


def filter_bytes(problem: Problem, inputs: int) -> int:
    """Bytes of one output channel's packed filter over so many input channels."""
    return packing.conv_filter_bytes(inputs, *problem.kernel, problem.filters.dtype.itemsize, problem.chip)


def _row_quantum(x: Local, y: Local, window: Window, chip: Chip) -> int:
    """Rows of the result that a chunk must be a multiple of so that it begins on a vector; 0 where it cannot be cut.

    It cannot where an input plane is too large for strides, where a chunk might lie wholly in padding, and between
    inserted zeros.
    """
    reach = window.dilations[0] * (window.kernel[0] - 1) + 1
    if (
        aligned_strides(x.dims, x.dtype.itemsize, chip)[1] >= MAX_STRIDE
        or max(window.pads[::2]) >= reach
        or any(window.inserts)
    ):
        return 0
    return chip.vector_bytes // math.gcd(y.dims[3], chip.vector_bytes)


def _chunk_window(problem: Problem, x: Local, window: Window, chunk: Chunk, height: int) -> tuple[Local, Window]:
    """The rows of the input that a chunk of the result reads, and the window over them."""
    _, c, h, w = x.dims
    strides = aligned_strides(x.dims, x.dtype.itemsize, problem.chip)
    images, size = chunk.images[1] - chunk.images[0], x.dtype.itemsize
    base = x.offset + chunk.images[0] * strides[0] * size
    if chunk.rows == (0, height):
        return Local(x.buffer, (images, c, h, w), x.dtype, base), window
    low = chunk.rows[0] * window.strides[0] - window.pads[0]
    reach = window.dilations[0] * (window.kernel[0] - 1) + 1
    high = (chunk.rows[1] - 1) * window.strides[0] - window.pads[0] + reach
    first, last = max(low, 0), min(high, h)
    pads = (first - low, window.pads[1], high - last, window.pads[3])
    part = Local(x.buffer, (images, c, last - first, w), x.dtype, base + first * w * size, strides)
    return part, replace(window, pads=pads)


@dataclass(frozen=True)
class Piece:
    """The constants of channel groups [first, last) of a result: what the epilogue needs, then the filters."""

    constants: Buffer
    slots: tuple[int, int]


def _within(chunk: Chunk, piece: Piece, whole: int) -> list[Chunk]:
    """What a piece's channel groups have of a chunk; some groups of several images are no tensor."""
    low, high = max(chunk.slots[0], piece.slots[0]), min(chunk.slots[1], piece.slots[1])
    if low >= high:
        return []
    if high - low == whole:
        return [chunk]
    return [replace(chunk, images=(k, k + 1), slots=(low, high)) for k in range(*chunk.images)]


def dense_steps(
    problem: Problem, epilogue: Epilogue, x: Local, window: Window, y: Local, pieces: Sequence[Piece], place: str
) -> tuple[list[Buffer], list[Action]]:
    """The steps of a convolution into `y`, part by part, and the buffers they need beside `x`, `y` and constants.

    `place` tells buffers of neighbouring groups apart.
    """
    chip, slots = problem.chip, channel_groups(y.dims[1], problem.chip)
    whole = Chunk((0, y.dims[0]), (0, slots), (0, y.dims[2]))
    cut = [whole] if epilogue.is_direct else chunks(y.dims, chip, _row_quantum(x, y, window, chip))
    buffers: list[Buffer] = []
    actions: list[Action] = []
    for piece in pieces:
        first, last = piece.slots
        held = Held(piece.constants.name, last - first)
        tables, prepare = epilogue.prepare(held, place, min(last * chip.lanes, y.dims[1]) - first * chip.lanes)
        buffers, actions = [*buffers, *tables], [*actions, *prepare]
        for chunk in (part for each in cut for part in _within(each, piece, slots)):
            source, over = _chunk_window(problem, x, window, chunk, y.dims[2])
            shifted = (chunk.slots[0] - first, chunk.slots[1] - first)
            more, steps = _chunk_steps(epilogue, source, over, part_of(y, chunk, chip), held, shifted, place, chip)
            buffers, actions = [*buffers, *more], [*actions, *steps]
    return list(joined(buffers)), actions


def _chunk_steps(
    epilogue: Epilogue, x: Local, window: Window, y: Local, held: Held, slots: tuple[int, int], place: str, chip: Chip
) -> tuple[list[Buffer], list[Action]]:
    """The steps of a chunk, whose channel groups are `slots` of those whose constants are held."""
    size = packing.conv_filter_bytes(x.dims[1], *window.kernel, x.dtype.itemsize, chip)
    start = epilogue.constant_bytes(held.slots)
    filters = Access(held.buffer, start + slots[0] * size, start + slots[1] * size)
    sums = y if epilogue.is_direct else Local(f"acc{place}", y.dims, epilogue.sums)
    begin = epilogue.begin(sums, held, place, slots)
    multiply = tiu.convolution(sums, x, filters, window, chip, bias=epilogue.bias(held, slots), add=bool(begin))
    if epilogue.is_direct:
        return [], [multiply]
    buffers, actions = epilogue.finish(sums, y, held, place, slots)
    return [_sums_buffer(sums, y, chip), *buffers], [*begin, multiply, *actions]


def _sums_buffer(sums: Local, y: Local, chip: Chip) -> Buffer:
    return Buffer(sums.buffer, aligned_bytes(sums.dims, sums.dtype.itemsize, chip), away=frozenset({y.buffer}))


def _dense_group(
    problem: Problem, epilogue: Epilogue, box: Box, group: int, place: int
) -> tuple[list[Buffer], list[Action]]:
    """The part of a tile that belongs to one group; neighbours use buffers by turns (`place` 0 or 1)."""
    op, chip = problem.op, problem.chip
    size = problem.channels_out
    first, last = max(box.start[1], group * size), min(box.stop[1], (group + 1) * size)
    part = Box((box.start[0], first, *box.start[2:]), (box.stop[0], last, *box.stop[2:]))
    low = group * problem.channels_in
    buffer, loads, x, window = load_window(problem, part, (low, low + problem.channels_in), f"x{place}", problem.zero)
    pieces, constants = _pieces(problem, epilogue, (first, last), f"weights{place}")
    y = Local(f"y{place}", part.dims, op.result.dtype)
    scratch, steps = dense_steps(problem, epilogue, x, window, y, pieces, str(place))
    store = StoreResult(op.result.shape, problem.axes, part, y.buffer)
    result = Buffer(y.buffer, aligned_bytes(part.dims, y.dtype.itemsize, chip))
    return [buffer, *(p.constants for p in pieces), *scratch, result], [*constants, *loads, *steps, store]


def _pieces(
    problem: Problem, epilogue: Epilogue, channels: tuple[int, int], name: str
) -> tuple[list[Piece], list[LoadConstant]]:
    """The constants of output channels [first, last) and their loads: those of a large layer in several pieces.

    What has come is computed with while the rest is on its way, and small pieces find room earlier.
    """
    chip, (first, last) = problem.chip, channels
    slots, size = channel_groups(last - first, chip), filter_bytes(problem, problem.channels_in)
    step = slots if slots * size <= LARGE else max(1, PIECE_BYTES // size)
    pieces, loads = [], []
    for index, low in enumerate(range(0, slots, step)):
        high = min(low + step, slots)
        begin, end = first + low * chip.lanes, min(first + high * chip.lanes, last)
        row = epilogue.constant_bytes(high - low) + (high - low) * size
        buffer = Buffer(name if step >= slots else f"{name}.{index}", row)
        pack = partial(pack_dense, problem, epilogue, begin, end)
        key = f"{problem.op.result.name}:{begin}:{end}"
        pieces.append(Piece(buffer, (low, high)))
        loads.append(LoadConstant(key, min(end - begin, chip.lanes), row, buffer.name, pack))
    return pieces, loads


def _dense_tile(problem: Problem, epilogue: Epilogue, box: Box) -> TileProgram:
    buffers: list[Buffer] = []
    actions: list[Action] = []
    size = problem.channels_out
    for place, group in enumerate(range(box.start[1] // size, (box.stop[1] - 1) // size + 1)):
        more_buffers, more_actions = _dense_group(problem, epilogue, box, group, place % 2)
        buffers += more_buffers
        actions += more_actions
    return TileProgram(joined(buffers), tuple(actions))


def dense_variants(problem: Problem, epilogue: Epilogue) -> list[Variant]:
    """The convolution on the CONV unit, cut in output channels, images, rows and columns.

    Groups are cut inside, and input channels summed part by part, only where nothing else fits.
    """
    shape = problem.op.result.shape
    dims, lanes, size = dims_of(shape, problem.axes), problem.chip.lanes, problem.channels_out
    cuts = stride_cuts(problem, dims)
    whole = lanes if problem.groups == 1 or size % lanes == 0 else size

    def variant(
        name: str, multiple: int, tile: Callable[[Problem, Epilogue, Box], TileProgram], fallback: bool
    ) -> Variant:
        tiling = Tiling(shape, problem.axes, dims, (1, multiple, 1, 1), cuts)
        return Variant(name, tiling, partial(tile, problem, epilogue), fallback)

    found = [variant("dense", whole, _dense_tile, False)]
    if whole != lanes:
        found.append(variant("dense, groups cut", lanes, _dense_tile, True))
    if problem.groups == 1:
        found.append(variant("dense, inputs in parts", lanes, _split_tile, True))
    return found


def _split_tile(problem: Problem, epilogue: Epilogue, box: Box) -> TileProgram:
    """A tile whose input channels are too many for local memory: sums over one part after another."""
    op, chip = problem.op, problem.chip
    first, last = box.start[1], box.stop[1]
    block = chip.conv_block(problem.filters.dtype.itemsize)
    step = max(block, PART_BYTES // filter_bytes(problem, block) * block)
    slots, lanes = channel_groups(last - first, chip), min(last - first, chip.lanes)
    acc, y = Local("acc", box.dims, epilogue.parts), Local("y", box.dims, op.result.dtype)
    constants = Buffer("constants", epilogue.constant_bytes(slots))
    held = Held(constants.name, slots)
    tables, prepare = epilogue.prepare(held, "", last - first)
    buffers = [
        constants,
        *tables,
        _sums_buffer(acc, y, chip),
        Buffer("y", aligned_bytes(box.dims, y.dtype.itemsize, chip)),
    ]
    key = f"{op.result.name}:{first}:{last}"
    pack = partial(epilogue.pack, first, last)
    begin = epilogue.begin(acc, held, "", (0, slots))
    actions: list[Action] = [
        LoadConstant(f"{key}:constants", lanes, constants.bytes, constants.name, pack),
        *prepare,
        *begin,
    ]
    for index, low in enumerate(range(0, problem.channels_in, step)):
        high = min(low + step, problem.channels_in)
        place = index % 2
        x_buffer, loads, x, window = load_window(problem, box, (low, high), f"x{place}", problem.zero)
        row = slots * filter_bytes(problem, high - low)
        buffers += [x_buffer, Buffer(f"weights{place}", row)]
        weights = Access(f"weights{place}", 0, row)
        bias = None if index else epilogue.bias(held, (0, slots))
        pack = partial(_pack_filters, problem, (first, last), (low, high))
        actions += [
            LoadConstant(f"{key}:{low}", lanes, row, weights.buffer, pack),
            *loads,
            tiu.convolution(acc, x, weights, window, chip, bias=bias, add=index > 0 or bool(begin)),
        ]
    scratch, steps = epilogue.finish(acc, y, held, "", (0, slots))
    store = StoreResult(op.result.shape, problem.axes, box, "y")
    return TileProgram(joined([*buffers, *scratch]), (*actions, *steps, store))
