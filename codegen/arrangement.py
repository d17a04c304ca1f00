"""A schedule carried out: items, their places in both memories, commands in a good order, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import global_memory
from tpu_deploy.codegen.commands import PlannedCommand
from tpu_deploy.codegen.global_memory import GlobalPlan
from tpu_deploy.codegen.items import Item
from tpu_deploy.codegen.queue_order import Ordered, in_good_order
from tpu_deploy.codegen.realize import Parts
from tpu_deploy.codegen.schedule import Schedule
from tpu_deploy.codegen.sequence import LocalBlock, NoRoom, PlacedItems, Writer, lay_out
from tpu_deploy.codegen.storages import Placement
from tpu_deploy.codegen.wholes import Forms


class PartWithoutRoom(Exception):
    """The part of a schedule with that number finds no room in local memory beside what else is alive."""

    def __init__(self, part: int) -> None:
        super().__init__(f"part {part} finds no room in local memory")
        self.part = part


@dataclass(frozen=True)
class Arrangement:
    """What became of a schedule."""

    schedule: Schedule
    items: list[Item]
    placed: PlacedItems
    memory: GlobalPlan
    writer: Writer
    ordered: Ordered
    """The order of what the writer wrote."""

    @property
    def cycles(self) -> int:
        """The cycle at which the last command ends."""
        return self.ordered.cycles

    @property
    def commands(self) -> tuple[PlannedCommand, ...]:
        """The commands in their order."""
        return tuple(self.writer.commands[k] for k in self.ordered.order)

    @property
    def command_parts(self) -> tuple[int, ...]:
        """The number of the part that each command belongs to."""
        number = {part.start: k for k, part in enumerate(self.schedule.parts)}
        return tuple(number[self.writer.groups[k]] for k in self.ordered.order)

    @property
    def blocks(self) -> tuple[LocalBlock, ...]:
        """What lies where in local memory, by its first command."""
        return tuple(self.writer.local_blocks(self.ordered.order))


class Arranger:
    """Carries out schedules of one network."""

    def __init__(self, placement: Placement, chip: Chip) -> None:
        self.placement, self.chip = placement, chip
        self.forms = Forms(placement.works, frozenset(s.buffer for s in placement.outputs), chip)
        self.parts = Parts(self.forms)

    def arrange(self, schedule: Schedule) -> Arrangement:
        """The schedule carried out. Raises InvalidSchedule when it does not suit the network, PartWithoutRoom."""
        items = self.parts.items(schedule)
        try:
            placed = lay_out(items, schedule, self.chip)
        except NoRoom as problem:
            start = items[problem.item].group
            raise PartWithoutRoom(next(k for k, p in enumerate(schedule.parts) if p.start == start)) from problem
        memory = global_memory.assign(global_memory.lifetimes(self.placement, items))
        writer = Writer(items, placed, self.chip, memory.offsets, self.placement.constants)
        ordered = in_good_order(writer.write(), self.chip)
        return Arrangement(schedule, items, placed, memory, writer, ordered)
