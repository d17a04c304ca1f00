"""Tensors of one element a channel cross the memory border as rows: transposed in local memory, moved contiguously.

Moved channel by channel each element would take as long as 256 bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.instructions import Local
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Action, Buffer, LoadOperand, StoreResult, TileProgram
from tpu_deploy.codegen.views import AxisMap, Box, Dims
from tpu_deploy.codegen.works import Compute

FEWEST_CHANNELS = 4
"""Below this many channels the transposition does not pay."""
MOST_ROW_BYTES = 32768
"""What all rows, in one lane, may take."""


def _row(box: Box) -> Box:
    """A box of (n, c, 1, 1) as (n, 1, 1, c)."""
    (n0, c0, _, _), (n1, c1, _, _) = box.start, box.stop
    return Box((n0, 0, 0, c0), (n1, 1, 1, c1))


def _row_axes(axes: AxisMap) -> AxisMap:
    return axes[0], (), (), axes[1]


def _pays(work: Compute, action: LoadOperand | StoreResult) -> bool:
    """Whether a transfer moves single elements that lie next to each other in global memory."""
    if isinstance(action, LoadOperand) and (action.into is not None or action.row_step != 1):
        return False
    n, c, h, w = action.box.dims
    storage = work.storage(action)
    if (h, w) != (1, 1) or c < FEWEST_CHANNELS or n * c * storage.dtype.itemsize > MOST_ROW_BYTES:
        return False
    seen = storage.seen_as(action.shape)
    whole = None if seen is None else seen.as_nchw(action.axes)
    return whole is not None and whole[0][2:] == (1, 1) and whole[1][1] == 1


def as_row(work: Compute, action: LoadOperand | StoreResult) -> LoadOperand | StoreResult | None:
    """The transfer of the row in place of single elements; None where that does not pay."""
    if not _pays(work, action):
        return None
    return replace(action, axes=_row_axes(action.axes), box=_row(action.box), buffer=f"{action.buffer} row")


def through_rows(
    program: TileProgram, work: Compute, resident: Collection[str], stored: Collection[str], chip: Chip
) -> TileProgram:
    """The program with rows in place of single elements, for operands not `resident` and results `stored`."""
    buffers: dict[str, Buffer] = {b.name: b for b in program.buffers}
    actions: list[Action] = []

    def row_of(name: str, dims: Dims, itemsize: int) -> Buffer:
        row = Buffer(name, aligned_bytes(dims, itemsize, chip))
        known: Mapping[str, Buffer] = buffers
        buffers[row.name] = replace(row, bytes=max(row.bytes, known[row.name].bytes if row.name in known else 0))
        return row

    for action in program.actions:
        wanted = isinstance(action, LoadOperand) and action.buffer not in resident
        wanted = wanted or (isinstance(action, StoreResult) and action.buffer in stored)
        moved = as_row(work, action) if wanted and isinstance(action, LoadOperand | StoreResult) else None
        if moved is None or not isinstance(action, LoadOperand | StoreResult):
            actions.append(action)
            continue
        dtype = work.storage(action).dtype
        row = row_of(moved.buffer, moved.box.dims, dtype.itemsize)
        channels, line = Local(action.buffer, action.box.dims, dtype), Local(row.name, moved.box.dims, dtype)
        if isinstance(action, LoadOperand):
            actions += [moved, tiu.transpose_channels(channels, line, chip)]
        else:
            actions += [tiu.transpose_channels(line, channels, chip), moved]
    return TileProgram(tuple(buffers.values()), tuple(actions))
