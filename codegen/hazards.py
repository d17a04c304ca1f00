"""Whether two queues of commands can run side by side: identifiers, deadlocks, races, memory never written.

Judged from decoded commands alone. The engines share nothing but local memory (static memory is written by neither),
and each of them finishes its commands in order, so only a command of one engine and one of the other can race.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.findings import Finding, conflict, finding, name_of
from tpu_deploy.codegen.isa import Command, Engine
from tpu_deploy.codegen.isa.addresses import LANE_BYTES, LANES
from tpu_deploy.codegen.regions import Access, Accesses, Block, accesses, operands_of, overlap
from tpu_deploy.codegen.tiu_operands import UnsupportedCommandError

LIMIT = 20
"""How many findings a check reports at most; the first ones are the ones to mend."""

_NOTHING = Accesses((), ())


def check_hazards(tiu: Sequence[Command], gdma: Sequence[Command], limit: int = LIMIT) -> list[Finding]:
    """What makes the two queues of one command group unsafe to run: broken identifiers, a deadlock, races.

    A race is a command of each engine touching the same byte, one writing it, with neither bound to wait for the other.
    """
    broken = [*islice(_identifiers(tiu), limit), *islice(_identifiers(gdma), limit)] or _deadlock(tiu, gdma)
    return broken or list(islice(_races(tiu, gdma), limit))


def _identifiers(queue: Sequence[Command]) -> Iterator[Finding]:
    for number, command in enumerate(queue, 1):
        found = command.fields.get("cmd_id")
        if found != number:
            yield finding("identifiers", command, f"has cmd_id {found} as command number {number}")


def execution_order(tiu: Sequence[Command], gdma: Sequence[Command]) -> Iterator[Command]:
    """All commands in an order that keeps both queues and all dependencies; ends early where both engines wait."""
    queues: dict[Engine, Sequence[Command]] = {"GDMA": gdma, "TIU": tiu}
    done: dict[Engine, int] = {"GDMA": 0, "TIU": 0}
    pairs: tuple[tuple[Engine, Engine], ...] = (("GDMA", "TIU"), ("TIU", "GDMA"))
    moved = True
    while moved:
        moved = False
        for engine, other in pairs:
            queue = queues[engine]
            while done[engine] < len(queue) and queue[done[engine]].fields.get("cmd_id_dep", 0) <= done[other]:
                yield queue[done[engine]]
                done[engine] += 1
                moved = True


def _deadlock(tiu: Sequence[Command], gdma: Sequence[Command]) -> list[Finding]:
    run = {"TIU": 0, "GDMA": 0}
    for command in execution_order(tiu, gdma):
        run[command.engine] += 1
    waiting = [queue[run[engine]] for engine, queue in (("TIU", tiu), ("GDMA", gdma)) if run[engine] < len(queue)]
    if not waiting:
        return []
    others = {"TIU": ("GDMA", gdma), "GDMA": ("TIU", tiu)}
    parts = []
    for command in waiting:
        other, queue = others[command.engine]
        wanted = command.fields["cmd_id_dep"]
        absent = "" if wanted <= len(queue) else ", which does not exist"
        parts.append(f"{name_of(command)} waits for {other} {wanted}{absent}")
    return [Finding("deadlock", tuple(map(name_of, waiting)), f"deadlock: {' while '.join(parts)}")]


def local_accesses(command: Command) -> Accesses:
    """What the command touches in local memory; nothing where its operands cannot be read."""
    try:
        found = accesses(operands_of(command))
    except UnsupportedCommandError:
        return _NOTHING
    reads, writes = (
        tuple(access for access in side if access.place.memory == "local") for side in (found.reads, found.writes)
    )
    return Accesses(reads, writes)


def _races(tiu: Sequence[Command], gdma: Sequence[Command]) -> Iterator[Finding]:
    """Each TIU command against the GDMA commands that neither precede nor follow it."""
    waits = list(accumulate((command.fields.get("cmd_id_dep", 0) for command in tiu), max))
    held = list(accumulate((command.fields.get("cmd_id_dep", 0) for command in gdma), max))
    moved = [local_accesses(command) for command in gdma]
    for number, (command, known) in enumerate(zip(tiu, waits, strict=True), 1):
        # GDMA commands 1..known are over; those that wait for this command or a later one have not begun
        beyond = bisect_left(held, number)
        if known >= beyond:
            continue
        touched = local_accesses(command)
        for other in range(known, beyond):
            race = _race(touched, moved[other])
            if race is not None:
                what = "race: nothing makes one wait for the other"
                yield conflict("race", (command, race[0]), (gdma[other], race[1]), what)


def _race(ours: Accesses, theirs: Accesses) -> tuple[Access, Access] | None:
    return overlap(ours.writes, (*theirs.writes, *theirs.reads)) or overlap(ours.reads, theirs.writes)


def check_initialized(
    groups: Sequence[tuple[Sequence[Command], Sequence[Command]]], limit: int = LIMIT
) -> list[Finding]:
    """Commands that read bytes of local memory nothing has written before, over all groups (TIU, GDMA) of a stage."""
    return list(islice(_uninitialized(groups), limit))


def _uninitialized(groups: Sequence[tuple[Sequence[Command], Sequence[Command]]]) -> Iterator[Finding]:
    written = np.zeros(LANES * LANE_BYTES, np.bool_)
    for tiu, gdma in groups:
        for command in execution_order(tiu, gdma):
            touched = local_accesses(command)
            for access in touched.reads:
                if not all(_bytes(written, block).all() for block in access.blocks):
                    what = f"reads memory nothing has written: {access.role} at {access.place.describe()}"
                    yield finding("uninitialized", command, what)
            for access in touched.writes:
                for block in access.blocks:
                    _bytes(written, block)[...] = True


def _bytes(memory: npt.NDArray[np.bool_], block: Block) -> npt.NDArray[np.bool_]:
    """The flags of the bytes of a block, lanes first."""
    first = (block.lanes & -block.lanes).bit_length() - 1
    counts = [block.lanes.bit_count(), *(count for count, _ in block.loops), block.run]
    strides = [LANE_BYTES, *(stride for _, stride in block.loops), 1]
    return np.ndarray(counts, np.bool_, memory, first * LANE_BYTES + block.start, strides)
