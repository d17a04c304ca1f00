"""A TPU network to a bmodel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpu_deploy.chips import Chip
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen import global_memory
from tpu_deploy.codegen.assemble import encode_groups
from tpu_deploy.codegen.bmodel import Bmodel, Coefficients, CommandGroup, KernelModule, Net, Stage, TensorInfo
from tpu_deploy.codegen.commands import PlannedCommand, Space
from tpu_deploy.codegen.grouping import Planner
from tpu_deploy.codegen.items import Item
from tpu_deploy.codegen.measure import Weights
from tpu_deploy.codegen.queue_order import in_good_order
from tpu_deploy.codegen.realize import items_of
from tpu_deploy.codegen.schedule import InvalidSchedule, Schedule, Sliced
from tpu_deploy.codegen.sequence import LocalBlock, NoRoom, PlacedItems, Writer, lay_out
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


def _layer_groups(schedule: Schedule, forms: Forms) -> list[LayerGroup]:
    found = []
    for part in schedule.parts:
        works = forms.works[part.start : part.stop]
        names = tuple(work.view.result.name if isinstance(work, Compute) else work.name for work in works)
        found.append(LayerGroup(names, forms.batch // part.images if isinstance(part, Sliced) else 0))
    return found


def forms_of(placement: Placement, chip: Chip) -> Forms:
    """All forms that the works of a placed network can run in."""
    return Forms(placement.works, frozenset(s.buffer for s in placement.outputs), chip)


def arrange(forms: Forms) -> tuple[Schedule, list[Item], PlacedItems]:
    """A schedule, its items and their places in local memory.

    Parts that cannot be placed first give up hiding their stores, then are divided.
    """
    planner = Planner(forms, Weights())
    while True:
        schedule = planner.schedule()
        items = items_of(schedule, forms)
        for linger in (schedule.linger, 0):
            schedule = replace(schedule, linger=linger)
            try:
                return schedule, items, lay_out(items, forms.chip, schedule.lookahead, linger)
            except NoRoom as problem:
                failed = items[problem.item].group
        planner.refuse(schedule.parts[failed])


def _follow(schedule: Schedule, forms: Forms) -> tuple[Schedule, list[Item], PlacedItems]:
    """A given schedule's items and their places. Raises InvalidSchedule when it does not suit."""
    items = items_of(schedule, forms)
    try:
        return schedule, items, lay_out(items, forms.chip, schedule.lookahead, schedule.linger)
    except NoRoom as problem:
        raise InvalidSchedule(f"part {items[problem.item].group} finds no room in local memory") from problem


def compile_network(
    network: Network,
    chip: str = "bm1684x",
    *,
    schedule: Schedule | None = None,
    name: str | None = None,
    kernel_module: KernelModule | None = None,
) -> Compiled:
    """The bmodel of a TPU network: equal networks (and schedules, if one is given) give equal bytes.

    Raises BadInput naming the tensor when an operation cannot be cut to fit the chip, InvalidSchedule when `schedule`
    does not suit the network.
    """
    target = chip_named(chip)
    placement = place(network, target)
    forms = forms_of(placement, target)
    schedule, items, placed = arrange(forms) if schedule is None else _follow(schedule, forms)
    plan = global_memory.assign(global_memory.lifetimes(placement, items))
    writer = Writer(items, placed, target, plan.offsets, placement.constants)
    written = writer.write()
    order = in_good_order(written, target).order
    commands = [written[k] for k in order]
    data = writer.coefficients.pack(PAGE)
    context = target.global_base + len(data)
    bases = {Space.COEFFICIENTS: target.global_base, Space.CONTEXT: context}
    streams = encode_groups(commands, bases, target)
    inputs, outputs = _tensors(network, placement, plan, context)
    queues = tuple(CommandGroup(s.tiu, s.gdma, s.tiu_count, s.gdma_count) for s in streams)
    named = writer.coefficients.locations()
    coefficients = Coefficients(target.global_base, data, locations=named) if data else None
    stage = Stage(inputs, outputs, context, max(plan.size, PAGE), coefficients, queues)
    bmodel = Bmodel(
        chip=target.bmodel_name,
        nets=(Net(name or network.name, (stage,)),),
        neuron_size=max(plan.size, PAGE),
        kernel_module=kernel_module,
    )
    memory = MemoryUse(len(data), plan.size, plan.lower_bound, placed.peak, placed.lower_bound)
    blocks = tuple(writer.local_blocks(order))
    groups = tuple(_layer_groups(schedule, forms))
    return Compiled(bmodel, tuple(commands), memory, groups, tuple(writer.groups[k] for k in order), blocks, schedule)
