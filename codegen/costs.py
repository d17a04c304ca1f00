"""Cycles that the actions of a tile take of each engine, before anything has an address: for comparing plans.

Buffers are taken to begin in banks of their own, so that nothing clashes, and global memory at a page boundary.
"""

from __future__ import annotations

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import transfers
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.layout import aligned_strides
from tpu_deploy.codegen.program import Fill, LoadConstant, LoadOperand, Step, StoreResult, TileProgram
from tpu_deploy.codegen.timing import planned_cost
from tpu_deploy.codegen.vectors import as_row
from tpu_deploy.codegen.works import Compute

_FAR = Address(Space.CONTEXT, 0)
_NEAR = Address(Space.LOCAL, 0)


def steps_cycles(program: TileProgram, chip: Chip) -> int:
    """Cycles of the TIU for a tile."""
    bank = {b.name: k % chip.banks for k, b in enumerate(program.buffers)}
    total = 0
    for action in program.actions:
        if isinstance(action, Step):
            addresses = {
                name: Address(Space.LOCAL, bank[ref.buffer] * chip.bank_bytes + ref.offset % chip.bank_bytes)
                for name, ref in action.addresses.items()
            }
            command = PlannedCommand(action.instruction, "TIU", action.fields, addresses)
            total += planned_cost(command, chip).cycles
    return total


def transfer_cycles(action: LoadOperand | StoreResult, work: Compute, chip: Chip) -> int:
    """Cycles of the DMA engine for bringing an operand from global memory, or a result there."""
    action = as_row(work, action) or action
    storage = work.storage(action)
    seen = storage.seen_as(action.shape)
    found = None if seen is None else seen.as_nchw(action.axes)
    assert found is not None
    itemsize = storage.dtype.itemsize
    n, c, h, w = found[1]
    if isinstance(action, StoreResult):
        inside = aligned_strides(action.box.dims, itemsize, chip)
        ends = ((_NEAR, inside), (_FAR, (n, c, h, w)))
        dims = action.box.dims
    else:
        whole = action.into[0] if action.into is not None else action.dims
        ends = ((_FAR, (n, c, h * action.row_step, w)), (_NEAR, aligned_strides(whole, itemsize, chip)))
        dims = action.dims
    commands = transfers.move(itemsize, dims, *ends, (), (), chip, "")
    return sum(planned_cost(c, chip).cycles for c in commands)


def constant_cycles(action: LoadConstant, chip: Chip) -> int:
    """Cycles of the DMA engine for bringing a constant."""
    rows, words = transfers.constant_shape(action.lanes, action.row_bytes, chip)
    source = Address(Space.COEFFICIENTS, 0)
    return planned_cost(transfers.load_matrix(source, action.lanes, rows, words, 0, ""), chip).cycles


def fill_cycles(action: Fill, chip: Chip) -> int:
    """Cycles of the DMA engine for filling a box."""
    dims = action.dims if action.box is None else action.box.dims
    strides = aligned_strides(action.dims, action.itemsize, chip)
    span = LocalRange(0, 0)
    return planned_cost(
        transfers.fill_local(dims, strides, action.itemsize, action.value, _NEAR, span, ""), chip
    ).cycles
