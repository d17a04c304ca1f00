"""A TPU network to a bmodel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tpu_deploy.codegen import global_memory, schedule
from tpu_deploy.codegen.assemble import encode_groups
from tpu_deploy.codegen.bmodel import Bmodel, Coefficients, CommandGroup, KernelModule, Net, Stage, TensorInfo
from tpu_deploy.codegen.commands import Address, PlannedCommand, Space
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.storages import Placement, place
from tpu_deploy.codegen.views import Storage
from tpu_deploy.codegen.works import Compute

from tpu_deploy.chips import Chip
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.ir.network import Network, uniform_of

PAGE = 4096


@dataclass(frozen=True)
class MemoryUse:
    """Bytes the network takes: coefficients, context (and the least a plan needs), peak of a lane's local memory."""

    coefficients: int
    context: int
    context_lower_bound: int
    local_peak: int


@dataclass(frozen=True)
class Compiled:
    """A bmodel, with the commands behind its bits in program order and the memory it takes."""

    bmodel: Bmodel
    commands: tuple[PlannedCommand, ...]
    memory: MemoryUse


def _pack(layout: schedule.CoefficientLayout) -> bytes:
    """The coefficient section: every constant as the matrix its load expects."""
    section = np.zeros(round_up(layout.size, PAGE), np.uint8)
    for key, slot in layout.slots.items():
        load = layout.loads[key]
        packed = load.pack()
        lanes, width = packed.shape
        whole = np.zeros((lanes, slot.rows * slot.words * 4), np.uint8)
        whole[:, :width] = packed
        matrix = whole.reshape(lanes, slot.rows, slot.words * 4).transpose(1, 0, 2)
        end = slot.offset + whole.size
        section[slot.offset : end].reshape(matrix.shape)[:] = matrix
    return section.tobytes()


def _tensors(
    network: Network, placement: Placement, plan: global_memory.GlobalPlan, context: int
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    def info(name: str, storage: Storage, scale: float, zero_point: int) -> TensorInfo:
        address = context + plan.offsets[storage.buffer]
        return TensorInfo(name, storage.dtype.name, storage.shape, address, scale, zero_point)

    inputs, outputs = [], []
    for value, storage in zip(network.inputs, placement.inputs, strict=True):
        kind = uniform_of(value)
        scale, zero = (1.0 / kind.scale, kind.zero_point) if kind else (1.0, 0)
        inputs.append(info(storage.buffer, storage, scale, zero))
    for value, name, storage in zip(network.outputs, network.output_names, placement.outputs, strict=True):
        kind = uniform_of(value)
        scale, zero = (kind.scale, kind.zero_point) if kind else (1.0, 0)
        outputs.append(info(name, storage, scale, zero))
    return tuple(inputs), tuple(outputs)


def emit(placement: Placement, plan: global_memory.GlobalPlan, chip: Chip) -> tuple[schedule.Emission, int]:
    """All commands in order, and the peak of a lane's local memory."""
    emission = schedule.Emission(chip, lambda buffer: Address(Space.CONTEXT, plan.offsets[buffer]))
    peak = 0
    for work in placement.works:
        chosen = None
        if isinstance(work, Compute):
            chosen = schedule.plan(work, chip)
            peak = max(peak, chosen.peak)
        emission.add(work, chosen)
    return emission, peak


def compile_network(
    network: Network, chip: str = "bm1684x", *, name: str | None = None, kernel_module: KernelModule | None = None
) -> Compiled:
    """The bmodel of a TPU network: equal networks give equal bytes.

    Raises BadInput naming the tensor when an operation cannot be cut to fit the chip.
    """
    target = chip_named(chip)
    placement = place(network, target)
    plan = global_memory.assign(global_memory.lifetimes(placement))
    emission, peak = emit(placement, plan, target)
    data = _pack(emission.coefficients)
    context = target.global_base + len(data)
    bases = {Space.COEFFICIENTS: target.global_base, Space.CONTEXT: context}
    streams = encode_groups(emission.commands, bases, target)
    inputs, outputs = _tensors(network, placement, plan, context)
    groups = tuple(CommandGroup(s.tiu, s.gdma, s.tiu_count, s.gdma_count) for s in streams)
    coefficients = Coefficients(target.global_base, data) if data else None
    stage = Stage(inputs, outputs, context, max(plan.size, PAGE), coefficients, groups)
    bmodel = Bmodel(
        chip=target.bmodel_name,
        nets=(Net(name or network.name, (stage,)),),
        neuron_size=max(plan.size, PAGE),
        kernel_module=kernel_module,
    )
    memory = MemoryUse(len(data), plan.size, plan.lower_bound, peak)
    return Compiled(bmodel, tuple(emission.commands), memory)
