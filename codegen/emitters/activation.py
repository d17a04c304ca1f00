"""Table look-ups."""

from __future__ import annotations

from functools import partial

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.flat import elementwise_variants
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.registry import emits
from tpu_deploy.codegen.layout import aligned_bytes, channel_groups
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

ENTRIES = 256


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
