"""When an engine stands idle, which command it waits for and why; and the chain of commands that sets the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpu_deploy.codegen.isa import Engine
from tpu_deploy.reports.executed import Executed, by_engine, reason


@dataclass(frozen=True)
class Gap:
    """Cycles [start, start + cycles) in which an engine does nothing.

    `waiting` is the index of the command that cannot start, `before` that of the other engine's command it waits for;
    both are None when the queue is empty. `reason` is "data" that `before` makes, "room" that it still uses, "order"
    where they share no byte, "done" when nothing is left to do.
    """

    engine: str
    start: int
    cycles: int
    waiting: int | None
    before: int | None
    reason: str


def awaited(commands: Sequence[Executed]) -> list[int | None]:
    """The index of the command each command waits for; None where it waits for none."""
    index = {(c.group, c.command.engine, c.number): k for k, c in enumerate(commands) if "cmd_id" in c.command.fields}
    other: dict[Engine, Engine] = {"TIU": "GDMA", "GDMA": "TIU"}
    return [index.get((c.group, other[c.command.engine], c.waits_for)) if c.waits_for else None for c in commands]


def gaps(commands: Sequence[Executed], waits: Sequence[int | None]) -> list[Gap]:
    """All idle cycles of both engines, the longest first."""
    index = {id(each): k for k, each in enumerate(commands)}
    end = max((each.end for each in commands), default=0)
    found: list[Gap] = []
    for engine, queue in by_engine(commands):
        time = 0
        for each in queue:
            if each.start > time:
                before = waits[index[id(each)]]
                why = "order" if before is None else reason(each, commands[before])
                found.append(Gap(engine, time, each.start - time, index[id(each)], before, why))
            time = each.end
        if end > time:
            found.append(Gap(engine, time, end - time, None, None, "done"))
    return sorted(found, key=lambda gap: (-gap.cycles, gap.start, gap.engine))


def critical(commands: Sequence[Executed], waits: Sequence[int | None]) -> list[bool]:
    """Whether each command lies on the chain that sets the time: each starts when the one before it ends.

    Where both engines were waited for, the chain goes through the command's own.
    """
    marked = [False] * len(commands)
    previous, border = _previous(commands), _borders(commands)
    current: int | None = max(range(len(commands)), key=lambda k: commands[k].end, default=None)
    while current is not None:
        marked[current] = True
        each = commands[current]
        causes = (previous[current], waits[current], border[each.group])
        current = next((k for k in causes if k is not None and commands[k].end == each.start), None)
    return marked


def _previous(commands: Sequence[Executed]) -> list[int | None]:
    """The command before each in its queue."""
    found: list[int | None] = [None] * len(commands)
    last: dict[tuple[int, str], int] = {}
    for index in sorted(range(len(commands)), key=lambda k: commands[k].place):
        queue = commands[index].group, commands[index].command.engine
        found[index] = last.get(queue)
        last[queue] = index
    return found


def _borders(commands: Sequence[Executed]) -> dict[int, int | None]:
    """For each command group the command that ends last of those before it."""
    found: dict[int, int | None] = {}
    latest: int | None = None
    for group in sorted({each.group for each in commands}):
        found[group] = latest
        inside = (k for k, each in enumerate(commands) if each.group == group)
        latest = max(inside, key=lambda k: commands[k].end)
    return found
