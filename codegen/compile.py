"""A TPU network to a bmodel."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen import global_memory
from tpu_deploy.codegen.arrangement import Arrangement, Arranger, PartWithoutRoom
from tpu_deploy.codegen.assemble import encode_groups
from tpu_deploy.codegen.bmodel import Bmodel, Coefficients, CommandGroup, KernelModule, Net, Stage, TensorInfo
from tpu_deploy.codegen.commands import PlannedCommand, Space
from tpu_deploy.codegen.schedule import InvalidSchedule, Schedule, Sliced
from tpu_deploy.codegen.search import search
from tpu_deploy.codegen.sequence import LocalBlock
from tpu_deploy.codegen.storages import Placement, place
from tpu_deploy.codegen.views import Storage
from tpu_deploy.codegen.wholes import Forms
from tpu_deploy.codegen.works import Compute
from tpu_deploy.ir.network import Network, uniform_of

PAGE = 4096


@dataclass(frozen=True)
class MemoryUse:
    """Bytes the network takes: coefficients, context, peak of a lane's local memory.

    The lower bounds are what the tensors alive at once need in any plan.
    """

    coefficients: int
    context: int
    context_lower_bound: int
    local_peak: int
    local_lower_bound: int


@dataclass(frozen=True)
class LayerGroup:
    """Operations, named by the values they compute, whose values meet in local memory.

    They run in `slices` of the batch, one after another; 0 slices: one operation cut into tiles, or moved by the DMA
    engine alone.
    """

    operations: tuple[str, ...]
    slices: int


@dataclass(frozen=True)
class Compiled:
    """A bmodel, with the commands behind its bits in program order and the memory it takes.

    `command_groups` holds the number of the layer group of each command: loads run ahead, so the commands of two groups
    are interleaved. `blocks` tell what lies where in local memory, from which command to which.
    """

    bmodel: Bmodel
    commands: tuple[PlannedCommand, ...]
    memory: MemoryUse
    groups: tuple[LayerGroup, ...]
    command_groups: tuple[int, ...]
    blocks: tuple[LocalBlock, ...]
    schedule: Schedule


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


def _layer_groups(schedule: Schedule, forms: Forms) -> tuple[LayerGroup, ...]:
    found = []
    for part in schedule.parts:
        works = forms.works[part.start : part.stop]
        names = tuple(work.view.result.name if isinstance(work, Compute) else work.name for work in works)
        found.append(LayerGroup(names, forms.batch // part.images if isinstance(part, Sliced) else 0))
    return tuple(found)


def compile_network(
    network: Network,
    chip: str = "bm1684x",
    *,
    optimize: int = 1,
    schedule: Schedule | None = None,
    name: str | None = None,
    kernel_module: KernelModule | None = None,
) -> Compiled:
    """The bmodel of a TPU network: equal networks, levels and schedules give equal bytes.

    A given `schedule` is followed; otherwise one is searched for, the longer the higher the level `optimize`, 0 to 3.
    Raises BadInput naming the tensor when an operation cannot be cut to fit the chip, InvalidSchedule when `schedule`
    does not suit the network.
    """
    target = chip_named(chip)
    placement = place(network, target)
    arranger = Arranger(placement, target)
    found = search(arranger, optimize) if schedule is None else _followed(arranger, schedule)
    return _compiled(network, found, arranger, name or network.name, kernel_module)


def _followed(arranger: Arranger, schedule: Schedule) -> Arrangement:
    try:
        return arranger.arrange(schedule)
    except PartWithoutRoom as problem:
        raise InvalidSchedule(str(problem)) from problem


def _compiled(
    network: Network, found: Arrangement, arranger: Arranger, name: str, kernel_module: KernelModule | None
) -> Compiled:
    target, plan = arranger.chip, found.memory
    data = found.writer.coefficients.pack(PAGE)
    context = target.global_base + len(data)
    bases = {Space.COEFFICIENTS: target.global_base, Space.CONTEXT: context}
    commands = found.commands
    streams = encode_groups(commands, bases, target)
    inputs, outputs = _tensors(network, arranger.placement, plan, context)
    queues = tuple(CommandGroup(s.tiu, s.gdma, s.tiu_count, s.gdma_count) for s in streams)
    named = found.writer.coefficients.locations()
    coefficients = Coefficients(target.global_base, data, locations=named) if data else None
    stage = Stage(inputs, outputs, context, max(plan.size, PAGE), coefficients, queues)
    bmodel = Bmodel(
        chip=target.bmodel_name,
        nets=(Net(name, (stage,)),),
        neuron_size=max(plan.size, PAGE),
        kernel_module=kernel_module,
    )
    local = found.placed
    memory = MemoryUse(len(data), plan.size, plan.lower_bound, local.peak, local.lower_bound)
    groups = _layer_groups(found.schedule, arranger.forms)
    return Compiled(bmodel, commands, memory, groups, found.command_parts, found.blocks, found.schedule)
