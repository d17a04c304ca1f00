"""When each command runs: what one costs, and both engines replayed with their waiting for one another.

The two engines take their queues in order; a command starts when the one before it is done and, if it names one, the
command of the other engine it waits for. Commands to the queues themselves take no time. It is the vendor's static
estimate of this chip: neither memory refresh nor other users of the memory are in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from tpu_deploy import chips
from tpu_deploy.chips import Chip
from tpu_deploy.codegen.bmodel import DECODED_CHIP, Bmodel, decode_group
from tpu_deploy.codegen.commands import PlannedCommand, Space
from tpu_deploy.codegen.isa import INSTRUCTIONS, Command, Engine, opcode
from tpu_deploy.codegen.timing_cost import Cost, Formula
from tpu_deploy.codegen.timing_gdma import GDMA_FORMULAS
from tpu_deploy.codegen.timing_tiu import TIU_FORMULAS
from tpu_deploy.errors import BadInput

__all__ = [
    "Cost",
    "Estimate",
    "GroupTime",
    "Row",
    "Span",
    "Timeline",
    "command_cycles",
    "estimate",
    "planned_cost",
    "replay",
    "replay_plan",
]

_FREE = Cost(0)
_TO_THE_QUEUE = ("SYSID", "sys")


def _formulas() -> dict[str, Formula]:
    """The formula of every instruction but those to the queues, by its name."""
    families: dict[str, Formula] = TIU_FORMULAS | GDMA_FORMULAS
    return {
        name: families[instruction.family]
        for name, instruction in INSTRUCTIONS.items()
        if instruction.family not in _TO_THE_QUEUE
    }


_FORMULAS = _formulas()


def command_cycles(name: str, fields: Mapping[str, int]) -> Cost:
    """What a command of that name with these fields costs; fields not given are zero, names as in `codegen.isa`.

    Addresses count: lanes, banks and directions follow from them. Raises KeyError for an unknown name.
    """
    formula = _FORMULAS.get(name)
    if formula is None:
        assert INSTRUCTIONS[name].family in _TO_THE_QUEUE
        return _FREE
    try:
        return formula(fields)
    except KeyError:
        return formula(defaultdict(int, fields))


class Span(NamedTuple):
    """The cycles from `start` to before `end` in which a command runs."""

    start: int
    end: int
    cost: Cost


@dataclass(frozen=True)
class Timeline:
    """When each command of two queues runs, one span for each in the order given."""

    start: int
    tiu: tuple[Span, ...]
    gdma: tuple[Span, ...]

    @property
    def end(self) -> int:
        """The cycle after the last command."""
        return max([self.start, *(queue[-1].end for queue in (self.tiu, self.gdma) if queue)])

    @property
    def total(self) -> int:
        """Cycles from the first command to the end of the last."""
        return self.end - self.start

    @property
    def tiu_busy(self) -> int:
        """Cycles the TIU computes in."""
        return sum(span.cost.cycles for span in self.tiu)

    @property
    def gdma_busy(self) -> int:
        """Cycles the GDMA moves data in."""
        return sum(span.cost.cycles for span in self.gdma)

    @property
    def dma_bytes(self) -> dict[str, int]:
        """Bytes moved by direction ("global->local", "constant->local", ...)."""
        moved: Counter[str] = Counter()
        for span in self.gdma:
            if span.cost.direction:
                moved[span.cost.direction] += span.cost.bytes
        return dict(sorted(moved.items()))


class _Step(NamedTuple):
    """What replaying needs of a command: its cost, its identifier if it has one, the one it waits for or 0."""

    cost: Cost
    number: int | None
    wait: int


class _Queue:
    """An engine running its commands one by one."""

    def __init__(self, engine: Engine, steps: Iterable[_Step], start: int) -> None:
        self.engine, self.steps = engine, list(steps)
        self.spans: list[Span] = []
        self.ends = {0: start}
        self._time = start

    def run(self, others: Mapping[int, int]) -> None:
        """Runs commands until one waits for a command that has not run yet, by the identifiers in `others`."""
        spans, ends, time = self.spans, self.ends, self._time
        for cost, number, wait in islice(self.steps, len(spans), None):
            free = others.get(wait)
            if free is None:
                break
            start = max(time, free)
            time = start + cost.cycles
            spans.append(Span(start, time, cost))
            if number is not None:
                ends[number] = time
        self._time = time

    def next_waits(self) -> str:
        """What keeps the next command from running; empty when all have run."""
        if len(self.spans) == len(self.steps):
            return ""
        step = self.steps[len(self.spans)]
        return f"{self.engine} {step.number} waits for {'GDMA' if self.engine == 'TIU' else 'TIU'} {step.wait}"


def _replay(tiu: Iterable[_Step], gdma: Iterable[_Step], start: int) -> Timeline:
    first, second = queues = _Queue("TIU", tiu, start), _Queue("GDMA", gdma, start)
    ran = -1
    while (count := len(first.spans) + len(second.spans)) > ran:
        ran = count
        first.run(second.ends)
        second.run(first.ends)
    stuck = [queue.next_waits() for queue in queues if queue.next_waits()]
    if stuck:
        raise ValueError(f"the queues come to a standstill: {' and '.join(stuck)}")
    return Timeline(start, tuple(first.spans), tuple(second.spans))


def replay(tiu: Sequence[Command], gdma: Sequence[Command], start: int = 0) -> Timeline:
    """When the commands of both queues run, from cycle `start`; end commands may be left out.

    Raises ValueError naming both commands when each engine waits for one that the other has yet to run, or that is not
    there.
    """
    return _replay(map(_step, tiu), map(_step, gdma), start)


def _step(command: Command) -> _Step:
    """Commands to the queue wait for nothing; LAR has no identifier and waits for nothing either."""
    name, fields = command.name, command.fields
    wait = fields.get("cmd_id_dep", 0) if name in _FORMULAS else 0
    return _Step(command_cycles(name, fields), fields.get("cmd_id"), wait)


def planned_cost(command: PlannedCommand, chip: Chip) -> Cost:
    """What a planned command costs; where in global memory it points to does not matter."""
    if not command.addresses:
        return command_cycles(command.instruction, command.fields)
    fields = dict(command.fields)
    for name, address in command.addresses.items():
        place = address.lane * chip.lane_stride + address.offset
        if command.engine == "TIU":
            fields[name] = place
        else:
            place += chip.local_base if address.space is Space.LOCAL else chip.global_base
            fields[f"{name}_start_addr_l32"], fields[f"{name}_start_addr_h8"] = place & 0xFFFFFFFF, place >> 32
    return command_cycles(command.instruction, fields)


def replay_plan(commands: Sequence[PlannedCommand], waits: Sequence[tuple[int, int]], chip: Chip) -> Timeline:
    """When planned commands run, given the (identifier, identifier waited for) of each as `dependencies` finds them.

    Raises ValueError as `replay` does.
    """
    steps: dict[str, list[_Step]] = {"TIU": [], "GDMA": []}
    for command, (number, wait) in zip(commands, waits, strict=True):
        steps[command.engine].append(_Step(planned_cost(command, chip), number, wait))
    return _replay(steps["TIU"], steps["GDMA"], 0)


class Row(NamedTuple):
    """One command of a bmodel: where it is, what it does, when it runs."""

    net: str
    stage: int
    group: str
    engine: Engine
    number: int
    waits_for: int
    opcode: str
    start: int
    end: int
    cycles: int
    bytes: int
    direction: str
    estimated: bool


@dataclass(frozen=True)
class GroupTime:
    """A command group of a bmodel with its commands and when they run."""

    net: str
    stage: int
    name: str
    tiu: tuple[Command, ...]
    gdma: tuple[Command, ...]
    timeline: Timeline

    def rows(self) -> Iterator[Row]:
        """Its commands, but those to the queues, by engine."""
        queues = ((self.tiu, self.timeline.tiu), (self.gdma, self.timeline.gdma))
        for commands, spans in queues:
            for command, (start, end, cost) in zip(commands, spans, strict=True):
                if command.name in _FORMULAS:
                    number, wait = command.fields.get("cmd_id", 0), command.fields.get("cmd_id_dep", 0)
                    place = self.net, self.stage, self.name, command.engine, number, wait
                    yield Row(*place, opcode(command), start, end, *cost)


@dataclass(frozen=True)
class Estimate:
    """How long a bmodel takes: its groups one after another, through all stages of all nets.

    A run executes one stage; `stages` gives the cycles of each.
    """

    groups: tuple[GroupTime, ...]
    frequency_hz: float

    @property
    def cycles(self) -> int:
        """Cycles of all groups."""
        return sum(group.timeline.total for group in self.groups)

    @property
    def milliseconds(self) -> float:
        """What the cycles take at the chip's frequency."""
        return self.cycles * 1e3 / self.frequency_hz

    @property
    def stages(self) -> dict[tuple[str, int], int]:
        """Cycles by net and number of the stage."""
        total: dict[tuple[str, int], int] = {}
        for group in self.groups:
            place = group.net, group.stage
            total[place] = total.get(place, 0) + group.timeline.total
        return total

    @property
    def tiu_busy(self) -> int:
        """Cycles the TIU computes in."""
        return sum(group.timeline.tiu_busy for group in self.groups)

    @property
    def gdma_busy(self) -> int:
        """Cycles the GDMA moves data in."""
        return sum(group.timeline.gdma_busy for group in self.groups)

    @property
    def dma_bytes(self) -> dict[str, int]:
        """Bytes moved by direction."""
        moved: Counter[str] = Counter()
        for group in self.groups:
            moved.update(group.timeline.dma_bytes)
        return dict(sorted(moved.items()))

    @property
    def cycles_by_opcode(self) -> dict[str, int]:
        """Cycles each kind of command is busy, the longest first."""
        busy: Counter[str] = Counter()
        for row in self.rows():
            busy[row.opcode] += row.cycles
        return dict(sorted(busy.items(), key=lambda item: (-item[1], item[0])))

    @property
    def estimated_opcodes(self) -> dict[str, int]:
        """How many commands no outside judge covers, by kind."""
        return dict(sorted(Counter(row.opcode for row in self.rows() if row.estimated).items()))

    def rows(self) -> Iterator[Row]:
        """Every command but those to the queues, group by group."""
        for group in self.groups:
            yield from group.rows()


def estimate(bmodel: Bmodel) -> Estimate:
    """When every command of the bmodel runs.

    Raises BadInput when it is for another chip, or naming the group whose commands cannot be decoded or wait for each
    other.
    """
    if bmodel.chip != DECODED_CHIP:
        raise BadInput(f"{bmodel.source}: is for {bmodel.chip!r}; cycles are known only for {DECODED_CHIP}")
    groups: list[GroupTime] = []
    start = 0
    for net in bmodel.nets:
        for number, stage in enumerate(net.stages):
            for name, group in stage.command_groups():
                where = f"{bmodel.source}: net {net.name!r} stage {number} {name}"
                tiu, gdma = decode_group(group, where)
                try:
                    timeline = replay(tiu, gdma, start)
                except ValueError as error:
                    raise BadInput(f"{where}: {error}; the file is damaged") from error
                groups.append(GroupTime(net.name, number, name, tuple(tiu), tuple(gdma), timeline))
                start = timeline.end
    return Estimate(tuple(groups), chips.chip(DECODED_CHIP).frequency_hz)
