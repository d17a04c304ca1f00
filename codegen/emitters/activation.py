"""Functions of single elements: table look-ups, and in floating point programs of steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.flat import elementwise_variants
from tpu_deploy.codegen.emitters.floating import F32, WORD, pack_words, per_channel
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.emitters.step_programs import Translation, computing_type, with_number
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups, round_up
from tpu_deploy.codegen.program import (
    Access,
    Buffer,
    LoadConstant,
    LoadOperand,
    StoreResult,
    TileProgram,
    Tiling,
    Variant,
)
from tpu_deploy.codegen.views import Box, canonical_axes, dims_of
from tpu_deploy.ir.float_functions import FUNCTIONS, Program, X, program
from tpu_deploy.ir.float_functions import Step as FloatStep

ENTRIES = 256

ChannelOperand = Callable[[tuple[int, int]], Local]
"""The numbers of channel groups [first, last)."""


def _tables(op: OperationView, chip: Chip, first: int, last: int) -> packing.Bytes:
    table = np.ascontiguousarray(op.constant("table")).view(np.uint8)
    if table.ndim == 1:
        return np.tile(table, (chip.lanes, 1))
    return packing.rows_by_lane(table[first:last], chip)


def _tile(op: OperationView, chip: Chip, seen: tuple[int, ...], box: Box) -> TileProgram:
    shared = op.operand("table").shape == (ENTRIES,)
    first, last = box.start[1], box.stop[1]
    lanes = chip.lanes if shared else min(last - first, chip.lanes)
    row = ENTRIES if shared else ENTRIES * channel_groups(last - first, chip)
    key = f"{op.result.name}:table" if shared else f"{op.result.name}:table:{first}:{last}"
    x, y = Local("x", box.dims, op.operands[0].dtype), Local("y", box.dims, op.result.dtype)
    size = aligned_bytes(box.dims, 1, chip)
    buffers = (
        Buffer("x", size, apart=frozenset({"y", "table"})),
        Buffer("table", row, apart=frozenset({"x", "y"})),
        Buffer("y", size, apart=frozenset({"x", "table"})),
    )
    axes = canonical_axes(len(seen))
    return TileProgram(
        buffers,
        (
            LoadConstant(key, lanes, row, "table", partial(_tables, op, chip, first, last)),
            LoadOperand(0, seen, axes, box, "x"),
            tiu.look_up(y, x, Access("table", 0, row), chip, shared=shared),
            StoreResult(seen, axes, box, "y"),
        ),
    )


@emits("tpu.Lut")
def lut(op: OperationView, chip: Chip) -> list[Variant]:
    """One gather from a table in each lane; a table a channel needs the channels in their lanes."""
    if op.operand("table").shape == (ENTRIES,):
        return elementwise_variants(op.result.shape, chip, partial(_tile, op, chip))
    seen = op.result.shape
    axes = canonical_axes(len(seen))
    tiling = Tiling(seen, axes, dims_of(seen, axes), (1, chip.lanes, 1, 1))
    return [Variant("nchw", tiling, partial(_tile, op, chip, seen))]


def channel_operand(op: OperationView, name: str, box: Box, chip: Chip) -> tuple[LoadConstant, ChannelOperand]:
    """The float32 numbers of a constant operand, one a channel: their load, and those of given groups as an operand."""
    first, last = box.start[1], box.stop[1]
    array = op.constant(name)[first:last]
    size = round_up(channel_groups(last - first, chip) * WORD, chip.vector_bytes)
    key = f"{op.result.name}:{name}:{first}:{last}"
    load = LoadConstant(key, min(last - first, chip.lanes), size, name, partial(pack_words, (array,), chip))

    def operand(slots: tuple[int, int]) -> Local:
        channels = min(slots[1] * chip.lanes, last - first) - slots[0] * chip.lanes
        return per_channel(name, slots[0] * WORD, channels, F32)

    return load, operand


def _program_tile(
    op: OperationView, chip: Chip, steps: Program, names: tuple[str, ...], seen: tuple[int, ...], box: Box
) -> TileProgram:
    """Load x, do the steps, with the operands `names` that differ between channels, store y."""
    loads = {name: channel_operand(op, name, box, chip) for name in names}
    kind = F32 if names else computing_type(steps, op.result.dtype)
    translation = Translation(steps, kind, {name: operand for name, (_, operand) in loads.items()}, chip)
    x, y = Local("x", box.dims, op.operands[0].dtype), Local("y", box.dims, op.result.dtype)
    constants, more = translation.coefficients()
    registers, actions = translation.over(x, y)
    constants += [Buffer(load.buffer, load.row_bytes) for load, _ in loads.values()]
    size = aligned_bytes(box.dims, x.dtype.itemsize, chip)
    axes = canonical_axes(len(seen))
    return TileProgram(
        (Buffer("x", size), *constants, *registers, Buffer("y", size)),
        (
            *(load for load, _ in loads.values()),
            *more,
            LoadOperand(0, seen, axes, box, "x"),
            *actions,
            StoreResult(seen, axes, box, "y"),
        ),
    )


def _program_variants(op: OperationView, chip: Chip, steps: Program) -> list[Variant]:
    """The program over all elements alike; where operands differ between channels the channels are in their lanes."""
    read = {operand for step in steps for operand in step.operands}
    constants = {name: op.constant(name).reshape(-1) for name in op.names if name in read}
    for name, array in constants.items():
        if array.size == 1:
            steps = with_number(steps, name, float(array[0]))
    names = tuple(name for name, array in constants.items() if array.size > 1)
    found = elementwise_variants(op.result.shape, chip, partial(_program_tile, op, chip, steps, names))
    return found[1:] if names else found


def function(op: OperationView, chip: Chip) -> list[Variant]:
    """The steps of the function."""
    return _program_variants(op, chip, program(op.kind, op.attributes, op.result.dtype == F32))


for _kind in FUNCTIONS:
    emits(_kind)(function)


@emits("tpu.Affine")
def affine(op: OperationView, chip: Chip) -> list[Variant]:
    """Product, sum and ReLU, as far as they are not the identity."""
    steps: list[FloatStep] = []
    value: str = X
    for name, operation, neutral in (("scale", "mul", 1.0), ("bias", "add", 0.0)):
        if (op.constant(name) != neutral).any():
            steps.append(FloatStep(name + "d", operation, (value, name)))
            value = steps[-1].result
    if op.attributes["do_relu"]:
        steps.append(FloatStep("positive", "max", (0.0, value)))
        if op.attributes["relu_limit"] >= 0:
            steps.append(FloatStep("limited", "min", ("positive", op.attributes["relu_limit"])))
    return _program_variants(op, chip, tuple(steps))
