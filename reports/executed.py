"""The commands of a stage in the order they start: when each runs, what it touches, what it is there for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tpu_deploy.codegen.isa import INSTRUCTIONS, Command, opcode
from tpu_deploy.codegen.regions import Access, Accesses, accesses, operands_of, overlap
from tpu_deploy.codegen.timing import Cost, GroupTime
from tpu_deploy.codegen.tiu_operands import UnsupportedCommandError

Reason = Literal["data", "room", "order"]

_TO_THE_QUEUE = ("SYSID", "sys")


@dataclass(frozen=True, slots=True)
class Executed:
    """A command that runs in cycles [start, end) of its stage.

    `group` is the number of its command group, `place` its number among the commands of its engine in the stage. What
    it touches is None where its operands cannot be read.
    """

    command: Command
    group: int
    place: int
    start: int
    end: int
    cost: Cost
    touched: Accesses | None

    @property
    def number(self) -> int:
        """Its identifier; 0 for the few that have none."""
        return self.command.fields.get("cmd_id", 0)

    @property
    def waits_for(self) -> int:
        """The identifier of the command of the other engine it waits for, or 0."""
        return self.command.fields.get("cmd_id_dep", 0)

    @property
    def family(self) -> str:
        """What kind of instruction it is: "CONV", "tensor", ..."""
        return INSTRUCTIONS[self.command.name].family

    @property
    def opcode(self) -> str:
        """What it does: "CONV", "AR.adds", "GDMA.tensor", ..."""
        return opcode(self.command)

    @property
    def reads(self) -> tuple[Access, ...]:
        """What it reads, as far as known."""
        return self.touched.reads if self.touched is not None else ()

    @property
    def writes(self) -> tuple[Access, ...]:
        """What it writes, as far as known."""
        return self.touched.writes if self.touched is not None else ()


def executed(groups: Sequence[GroupTime]) -> tuple[Executed, ...]:
    """The commands of the command groups of one stage, those to the queues left out; cycles count from its first."""
    first = groups[0].timeline.start if groups else 0
    found: list[Executed] = []
    for pick in (0, 1):
        place = 0
        for number, group in enumerate(groups):
            commands, spans = ((group.tiu, group.timeline.tiu), (group.gdma, group.timeline.gdma))[pick]
            for command, (start, end, cost) in zip(commands, spans, strict=True):
                if INSTRUCTIONS[command.name].family not in _TO_THE_QUEUE:
                    found.append(Executed(command, number, place, start - first, end - first, cost, _touched(command)))
                    place += 1
    return tuple(sorted(found, key=lambda each: (each.start, each.end)))


def _touched(command: Command) -> Accesses | None:
    try:
        return accesses(operands_of(command))
    except UnsupportedCommandError:
        return None


def reason(waiting: Executed, before: Executed) -> Reason:
    """Why one command must follow another: for the data it makes, for the room it takes, or for no byte they share."""
    if overlap(waiting.reads, before.writes):
        return "data"
    if overlap(waiting.writes, (*before.reads, *before.writes)):
        return "room"
    return "order"


def by_engine(commands: Iterable[Executed]) -> Iterator[tuple[str, list[Executed]]]:
    """The commands of each engine in their order."""
    whole = list(commands)
    for engine in ("TIU", "GDMA"):
        yield engine, sorted((each for each in whole if each.command.engine == engine), key=lambda each: each.place)
