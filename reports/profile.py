"""Where the time of a bmodel goes, found in its commands: engines, traffic, bounds, groups, gaps, local memory.

Works for any bmodel of the chip. What compiling it has told besides, the operation and layer group of each command and
the planner's own blocks of local memory, is used where it is given; else phases and coefficients stand for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tpu_deploy import chips
from tpu_deploy.chips import Chip
from tpu_deploy.codegen.bmodel import DECODED_CHIP, Bmodel, Stage
from tpu_deploy.codegen.compile import Compiled, LayerGroup
from tpu_deploy.codegen.products import products
from tpu_deploy.codegen.timing import Estimate, GroupTime, estimate
from tpu_deploy.reports import local_memory
from tpu_deploy.reports.bounds import Bound, bound
from tpu_deploy.reports.executed import Executed, executed
from tpu_deploy.reports.idle import Gap, awaited, critical, gaps
from tpu_deploy.reports.local_memory import LocalMemory, Tracer
from tpu_deploy.reports.phases import nameless, operations, phase_name, phases
from tpu_deploy.reports.traffic import WITHIN, Moved, Traffic, classify, purpose, traffic

TIU_PURPOSES = {"CONV": "products", "MM": "products", "MM2": "products", "PorD": "windows", "RQ_DQ": "requantization"}
"""What an instruction is there for, by family; all others of the TIU are element by element."""

ELEMENTS = "element by element"


@dataclass(frozen=True, slots=True)
class Timed:
    """A command in cycles [start, end) of its stage.

    `waits_for` is the index of the command of the other engine it waits for, or -1; `purpose` what it is there for
    ("products", "coefficients", ...), `shape` that of what it writes, `operation` what it works for, `part` the number
    of its layer group or phase, `is_critical` whether it lies on the chain of commands that sets the time.
    """

    engine: str
    number: int
    waits_for: int
    opcode: str
    purpose: str
    start: int
    end: int
    bytes: int
    products: int
    shape: str
    operation: str
    part: int
    is_critical: bool

    @property
    def cycles(self) -> int:
        """How long it runs."""
        return self.end - self.start


@dataclass(frozen=True)
class Share:
    """What some commands of the same kind or operation take together; `critical` are their cycles on the chain that
    sets the time, which add up to the time itself."""

    name: str
    commands: int
    tiu_cycles: int
    gdma_cycles: int
    critical: int
    bytes: int
    products: int


@dataclass(frozen=True)
class Part:
    """A layer group or phase.

    `cycles` are those by which it moves the end of the work on: from the end of the parts before it to the end of its
    own last command, so that they add up to the total. `tiu_busy` and `gdma_busy` count what the engines do in that
    time, `bound` only what belongs to the part, wherever it ran.
    """

    name: str
    start: int
    cycles: int
    tiu_busy: int
    gdma_busy: int
    bound: Bound


@dataclass(frozen=True)
class StageProfile:
    """One stage of one net.

    `bytes_per_cycle` is the most that global memory gives or takes. `parts_are` says what `parts` are: "layer groups",
    or "phases" found in the commands.
    """

    net: str
    stage: int
    frequency_hz: float
    bytes_per_cycle: float
    cycles: int
    tiu_busy: int
    gdma_busy: int
    commands: tuple[Timed, ...]
    traffic: tuple[Traffic, ...]
    within_chip_bytes: int
    bound: Bound
    parts_are: str
    parts: tuple[Part, ...]
    operations: tuple[Share, ...]
    kinds: tuple[Share, ...]
    gaps: tuple[Gap, ...]
    memory: LocalMemory
    unread: tuple[str, ...]
    """Instructions whose operands cannot be read: what they touch is missing in `traffic` and `memory`."""

    @property
    def milliseconds(self) -> float:
        """What the cycles take at the chip's frequency."""
        return self.cycles * 1e3 / self.frequency_hz

    @property
    def distance(self) -> float:
        """How many times the bound the cycles are; NaN where nothing binds."""
        return self.bound.distance(self.cycles)


@dataclass(frozen=True)
class Profile:
    """The profile of a bmodel: its stages in the order of the file."""

    source: str
    chip: str
    stages: tuple[StageProfile, ...]

    @property
    def cycles(self) -> int:
        """Cycles of all stages."""
        return sum(stage.cycles for stage in self.stages)


def profile(bmodel: Bmodel, compiled: Compiled | None = None, timing: Estimate | None = None) -> Profile:
    """Where the time of every stage goes; `compiled` is what compiling this bmodel gave, `timing` its estimate.

    Raises BadInput as `timing.estimate` does.
    """
    timing = estimate(bmodel) if timing is None else timing
    chip = chips.chip(DECODED_CHIP)
    stages = []
    for net in bmodel.nets:
        for number, stage in enumerate(net.stages):
            groups = [group for group in timing.groups if (group.net, group.stage) == (net.name, number)]
            stages.append(_Profiler(stage, groups, chip, compiled).result(net.name, number))
    return Profile(bmodel.source, bmodel.chip, tuple(stages))


class _Profiler:
    """One stage while it is looked at."""

    def __init__(self, stage: Stage, groups: Sequence[GroupTime], chip: Chip, compiled: Compiled | None) -> None:
        self.chip, self.compiled = chip, compiled
        self.commands = executed(groups)
        self.cycles = sum(group.timeline.total for group in groups)
        self.moved = classify(stage, self.commands)
        self.waits = awaited(self.commands)
        self.planned = {} if compiled is None else _in_program_order(compiled, self.commands)
        if compiled is None:
            self._find(stage)
        else:
            self._take(compiled)
        self.timed = self._timed()

    def _find(self, stage: Stage) -> None:
        """Operations, phases and local memory as the commands show them."""
        tracer = Tracer()
        tracer.run(self.commands)
        self.operation = operations(stage, self.commands, tracer, self.moved)
        self.part = phases(self.commands, tracer)
        named = zip(self.operation, self.commands, strict=True)
        names = [each.opcode if name == nameless(each) else f"{name}: {each.opcode}" for name, each in named]
        self.memory = local_memory.traced(self.commands, tracer, self.moved, names)

    def _take(self, compiled: Compiled) -> None:
        """Operations, layer groups and local memory as the compiler planned them."""
        ordered = {k: self.commands[index] for k, index in self.planned.items()}
        moved = {k: self.moved[index] for k, index in self.planned.items() if index in self.moved}
        self.memory = local_memory.planned(compiled, ordered, moved)
        place = {index: k for k, index in self.planned.items()}
        self.operation = [compiled.commands[place[k]].origin for k in range(len(self.commands))]
        self.part = [compiled.command_groups[place[k]] for k in range(len(self.commands))]

    def _timed(self) -> tuple[Timed, ...]:
        marked = critical(self.commands, self.waits)
        return tuple(
            Timed(
                each.command.engine,
                each.number,
                -1 if wait is None else wait,
                each.opcode,
                _purpose(each, self.moved.get(index)),
                each.start,
                each.end,
                each.cost.bytes,
                products(each.family, each.command.fields),
                "x".join(map(str, each.writes[0].place.dims)) if each.writes else "",
                self.operation[index],
                self.part[index],
                marked[index],
            )
            for index, (each, wait) in enumerate(zip(self.commands, self.waits, strict=True))
        )

    def result(self, net: str, number: int) -> StageProfile:
        """The profile."""
        pairs = [(self.commands[index], moved) for index, moved in self.moved.items()]
        moving = traffic(pairs)
        order = self.planned.values() if self.compiled is not None else range(len(self.timed))
        return StageProfile(
            net=net,
            stage=number,
            frequency_hz=self.chip.frequency_hz,
            bytes_per_cycle=self.chip.dma_bytes_per_cycle,
            cycles=self.cycles,
            tiu_busy=sum(each.cycles for each in self.timed if each.engine == "TIU"),
            gdma_busy=sum(each.cycles for each in self.timed if each.engine == "GDMA"),
            commands=self.timed,
            traffic=moving,
            within_chip_bytes=sum(each.bytes for each in self.timed if each.purpose == WITHIN),
            bound=bound(self.commands, moving, self.chip),
            parts_are="phases" if self.compiled is None else "layer groups",
            parts=tuple(self._parts()),
            operations=tuple(shares(self.timed[index] for index in order)),
            kinds=tuple(sorted(shares(self.timed, by_opcode=True), key=lambda s: -s.tiu_cycles - s.gdma_cycles)),
            gaps=tuple(gaps(self.commands, self.waits)),
            memory=self.memory,
            unread=tuple(sorted({each.opcode for each in self.commands if each.touched is None})),
        )

    def _parts(self) -> Iterable[Part]:
        members: dict[int, list[int]] = {}
        for index, part in enumerate(self.part):
            members.setdefault(part, []).append(index)
        done = 0
        for number in sorted(members):
            inside = [self.commands[index] for index in members[number]]
            pairs = [(self.commands[index], self.moved[index]) for index in members[number] if index in self.moved]
            end = max(done, *(each.end for each in inside))
            limit = bound(inside, traffic(pairs), self.chip, within_group=True)
            busy = {engine: self._busy(engine, done, end) for engine in ("TIU", "GDMA")}
            name = phase_name(number, inside) if self.compiled is None else group_name(self.compiled.groups[number])
            yield Part(name, done, end - done, busy["TIU"], busy["GDMA"], limit)
            done = end

    def _busy(self, engine: str, start: int, end: int) -> int:
        """Cycles of [start, end) in which an engine is busy."""
        spans = ((max(each.start, start), min(each.end, end)) for each in self.timed if each.engine == engine)
        return sum(max(last - first, 0) for first, last in spans)


def _in_program_order(compiled: Compiled, commands: Sequence[Executed]) -> dict[int, int]:
    """The index among `commands` of each command the compiler wrote, by its place in the program."""
    index = {(each.command.engine, each.place): k for k, each in enumerate(commands)}
    counts: Counter[str] = Counter()
    found = {}
    for k, command in enumerate(compiled.commands):
        found[k] = index[command.engine, counts[command.engine]]
        counts[command.engine] += 1
    return found


def _purpose(each: Executed, moved: Moved | None) -> str:
    if each.command.engine == "GDMA":
        return purpose(each, moved)
    return TIU_PURPOSES.get(each.family, ELEMENTS)


def group_name(group: LayerGroup) -> str:
    """A layer group by its first and last operation."""
    first, last, count = group.operations[0], group.operations[-1], len(group.operations)
    return first if count == 1 else f"{first} ... {last} ({count})"


def shares(commands: Iterable[Timed], by_opcode: bool = False) -> list[Share]:
    """What the commands take by operation, or by opcode, in the order in which these appear."""
    found: dict[str, list[Timed]] = {}
    for each in commands:
        found.setdefault(each.opcode if by_opcode else each.operation, []).append(each)
    return [_share(name, some) for name, some in found.items()]


def _share(name: str, commands: Sequence[Timed]) -> Share:
    engines: Mapping[str, int] = {
        engine: sum(each.cycles for each in commands if each.engine == engine) for engine in ("TIU", "GDMA")
    }
    return Share(
        name,
        len(commands),
        engines["TIU"],
        engines["GDMA"],
        sum(each.cycles for each in commands if each.is_critical),
        sum(each.bytes for each in commands),
        sum(each.products for each in commands),
    )
