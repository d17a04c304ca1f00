"""A profile as text for a terminal: what `deploy` ends with, and the longer tables of `profile`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple

from tpu_deploy.reports.idle import Gap
from tpu_deploy.reports.profile import Part, Profile, Share, StageProfile, Timed
from tpu_deploy.reports.text import columns, size

MANY = 12
"""How many groups a table shows at most; of more only the worst ones."""

WORST = 10

REASONS = {
    "data": "the data of {}",
    "room": "room that {} uses",
    "order": "{}, with which it shares no byte",
}
"""What a command waits for, by the reason of a gap; {} stands for the other command."""


def overview(profile: Profile) -> str:
    """Cycles, engines, bound, traffic, local memory and groups of every stage."""
    return "\n\n".join("\n".join(_overview(stage, len(profile.stages) > 1)) for stage in profile.stages)


def whole(profile: Profile, top: int) -> str:
    """The overview and, of each stage, the `top` kinds of instructions, operations and gaps that take longest."""
    return "\n\n".join("\n".join([*_overview(stage, True), *_details(stage, top)]) for stage in profile.stages)


def percent(part: float, of: float) -> str:
    """A share: "62.8 %"; "-" of nothing."""
    return f"{100 * part / of:.1f} %" if of else "-"


def times(ratio: float) -> str:
    """A multiple: "1.04 ×"; "-" where there is none."""
    return "-" if math.isnan(ratio) else f"{ratio:.2f} ×"


def _overview(stage: StageProfile, named: bool) -> Iterator[str]:
    if named:
        yield f"net {stage.net}, stage {stage.stage}"
    yield columns(list(_figures(stage)), right=frozenset({1}))
    yield ""
    yield _traffic(stage)
    yield ""
    yield _parts(stage)
    if stage.unread:
        yield f"not known: what {', '.join(stage.unread)} read and write"


def _figures(stage: StageProfile) -> Iterator[tuple[str, str, str]]:
    bound, memory = stage.bound, stage.memory
    yield "cycles", f"{stage.cycles:,}", f"{stage.milliseconds:.3f} ms at {stage.frequency_hz / 1e9:g} GHz, estimated"
    yield "TIU busy", f"{stage.tiu_busy:,}", percent(stage.tiu_busy, stage.cycles)
    yield "GDMA busy", f"{stage.gdma_busy:,}", percent(stage.gdma_busy, stage.cycles)
    yield "products", f"{bound.arithmetic:,}", f"{bound.products:,} multiplications at the chip's full rate"
    yield (
        "traffic",
        f"{bound.traffic:,}",
        f"{size(bound.bytes)} that must move, {stage.bytes_per_cycle:g} bytes a cycle",
    )
    yield "bound", f"{bound.cycles:,}", f"by {bound.binds}; the cycles are {times(stage.distance)} the bound"
    least = f"of {size(memory.capacity)} a lane; {size(memory.lower_bound)} in use at once at most"
    ratio = times(memory.peak / memory.lower_bound if memory.lower_bound else math.nan)
    yield "local memory", size(memory.peak), f"{least} ({ratio})"


def _traffic(stage: StageProfile) -> str:
    rows = [(row.name, size(row.read), size(row.written)) for row in stage.traffic if row.read or row.written]
    if stage.within_chip_bytes:
        rows.append(("within the chip", size(stage.within_chip_bytes), ""))
    return columns(rows, ("traffic", "read", "written"), frozenset({1, 2}))


def _parts(stage: StageProfile) -> str:
    parts = list(stage.parts)
    what = stage.parts_are.removesuffix("s")
    shown = parts if len(parts) <= MANY else worst(parts)
    rows = [_part(part, stage) for part in shown]
    heads = (what, "cycles", "share", "TIU", "GDMA", "products", "moves", "bound", "by", "cycles / bound")
    table = columns(rows, heads, frozenset(range(1, 8)) | {9})
    if len(shown) == len(parts):
        return table
    left = sum(part.cycles for part in parts) - sum(part.cycles for part in shown)
    return f"{table}\n{len(parts) - len(shown)} other {stage.parts_are}: {left:,} cycles, {percent(left, stage.cycles)}"


def worst(parts: Sequence[Part]) -> list[Part]:
    """The parts that lose most against their bounds, the worst first."""
    return sorted(parts, key=lambda part: (part.bound.cycles - part.cycles, part.start))[:WORST]


def _part(part: Part, stage: StageProfile) -> tuple[str, ...]:
    bound = part.bound
    return (
        part.name,
        f"{part.cycles:,}",
        percent(part.cycles, stage.cycles),
        percent(part.tiu_busy, part.cycles),
        percent(part.gdma_busy, part.cycles),
        f"{bound.products:,}",
        size(bound.bytes),
        f"{bound.cycles:,}",
        bound.binds,
        times(bound.distance(part.cycles)),
    )


def _details(stage: StageProfile, top: int) -> Iterator[str]:
    yield ""
    yield _shares(stage.kinds, "instruction", stage, top)
    yield ""
    longest = sorted(stage.operations, key=lambda share: (-share.critical, -share.tiu_cycles - share.gdma_cycles))
    yield _shares(longest, "operation", stage, top)
    if stage.gaps:
        yield ""
        yield _gaps(stage, top)


def _shares(shares: Sequence[Share], what: str, stage: StageProfile, top: int) -> str:
    rows = [
        (
            share.name,
            f"{share.commands:,}",
            f"{share.tiu_cycles:,}",
            f"{share.gdma_cycles:,}",
            percent(share.critical, stage.cycles),
            size(share.bytes),
        )
        for share in (*shares[:top], *_others(shares[top:]))
    ]
    heads = (what, "commands", "TIU cycles", "GDMA cycles", "sets the time", "bytes")
    return columns(rows, heads, frozenset({1, 2, 3, 4, 5}))


def _others(shares: Sequence[Share]) -> Iterator[Share]:
    """All of them as one, if there are any."""
    if shares:
        columns = zip(*(astuple(share)[1:] for share in shares), strict=True)
        yield Share(f"{len(shares)} others", *map(sum, columns))


def _gaps(stage: StageProfile, top: int) -> str:
    rows = [(gap.engine, f"{gap.start:,}", f"{gap.cycles:,}", cause(stage, gap)) for gap in stage.gaps[:top]]
    return columns(rows, ("idle", "from cycle", "cycles", "because"), frozenset({1, 2}))


def cause(stage: StageProfile, gap: Gap) -> str:
    """Why an engine stands idle, in words."""
    if gap.waiting is None:
        return "it has nothing left to do"
    waiting = stage.commands[gap.waiting]
    told = f"{waiting.opcode} {waiting.number}{_purpose(waiting)}"
    if gap.before is None:
        return f"{told} starts with its command group"
    before = stage.commands[gap.before]
    other = f"{before.engine} {before.number}, {before.opcode}{_purpose(before)}"
    return f"{told} waits for {REASONS[gap.reason].format(other)}"


def _purpose(command: Timed) -> str:
    """The operation a command works for, unless that says no more than the command."""
    return "" if command.operation.startswith(f"{command.opcode},") else f" ({command.operation})"
