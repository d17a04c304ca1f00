"""The section of a profile for any page, and a page of its own: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from tpu_deploy.reports.local_memory import CLASSES, LocalBlock
from tpu_deploy.reports.profile import ELEMENTS, TIU_PURPOSES, Profile, StageProfile
from tpu_deploy.reports.profile_text import cause, percent, times
from tpu_deploy.reports.text import size
from tpu_deploy.reports.traffic import CLASSES as TRAFFIC
from tpu_deploy.reports.traffic import FILLS, WITHIN

MOST_BARS = 100_000
"""How many commands, and how many blocks, a page draws: beyond, neighbours of an engine are drawn as one."""

ROWS = 12
"""Rows of a table that are shown before it is unfolded."""

PURPOSES = (*dict.fromkeys(TIU_PURPOSES.values()), ELEMENTS, *TRAFFIC, WITHIN, FILLS)
KINDS = CLASSES


def render(profile: Profile) -> str:
    """A page that holds the profile and nothing else."""
    template = _environment().from_string(_text("profile_page.html"))
    return str(template.render(profile=profile, section=section(profile)))


def section(profile: Profile) -> Any:
    """The section of the profile as markup, to be put into a page once: style, timeline, tables, script."""
    from markupsafe import Markup

    environment = _environment()
    share = max(MOST_BARS // max(len(profile.stages), 1), 1)
    stages = [
        {"profile": stage, "data": Markup(script_data(data(stage, share))), "unfold": ROWS} for stage in profile.stages
    ]
    longest = max(range(len(stages)), key=lambda k: profile.stages[k].cycles, default=0)
    template = environment.from_string(_text("profile_section.html"))
    drawing = Markup(_text("profile_timeline.html"))
    return Markup(template.render(stages=stages, longest=longest, drawing=drawing, cause=cause))


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"size": size, "count": lambda value: f"{value:,}", "times": times}
    environment.globals |= {"percent": percent}
    return environment


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


def script_data(plain: dict[str, Any]) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(plain, separators=(",", ":")).replace("<", "\\u003c")


def data(stage: StageProfile, most: int = MOST_BARS) -> dict[str, Any]:
    """What the drawing needs of a stage: names once, numbers as columns (see `column`)."""
    names = Names()
    queues = {engine: list(_of(stage, engine)) for engine in ("TIU", "GDMA")}
    together = -(-max(map(len, queues.values()), default=0) // most) or 1
    return {
        "cycles": stage.cycles,
        "capacity": stage.memory.capacity,
        "frequency": stage.frequency_hz,
        "together": together,
        "queues": {engine: _queue(stage, queue, names, together) for engine, queue in queues.items()},
        "blocks": _blocks(_largest(stage.memory.blocks, most), names),
        "parts_are": stage.parts_are.removeprefix("layer "),
        "parts": [[part.name, part.start, part.cycles] for part in stage.parts],
        "purposes": PURPOSES,
        "kinds": KINDS,
        "names": names.found,
    }


def _queue(stage: StageProfile, queue: Sequence[int], names: Names, together: int) -> dict[str, Any]:
    place: dict[int, int] = {}
    for engine in ("TIU", "GDMA"):
        place |= {index: k for k, index in enumerate(_of(stage, engine))}
    runs = [[stage.commands[k] for k in queue[start : start + together]] for start in range(0, len(queue), together)]
    most = [max(run, key=lambda command: command.cycles) for run in runs]
    waits = [1 + place[each.waits_for] // together if each.waits_for >= 0 else 0 for each in most]
    return {
        "length": len(runs),
        "start": column(run[0].start for run in runs),
        "cycles": column(run[-1].end - run[0].start for run in runs),
        "bytes": column(sum(each.bytes for each in run) for run in runs),
        "critical": column(any(each.is_critical for each in run) for run in runs),
        "number": column(each.number for each in most),
        "waits": column(waits),
        "opcode": column(names.of(each.opcode) for each in most),
        "shape": column(names.of(each.shape) for each in most),
        "operation": column(names.of(each.operation) for each in most),
        "purpose": column(PURPOSES.index(each.purpose) for each in most),
    }


def _of(stage: StageProfile, engine: str) -> Iterable[int]:
    return (k for k, command in enumerate(stage.commands) if command.engine == engine)


def _largest(blocks: Sequence[LocalBlock], most: int) -> Sequence[LocalBlock]:
    """The blocks that take most room for the longest time."""
    if len(blocks) <= most:
        return blocks
    area = sorted(range(len(blocks)), key=lambda k: -_area(blocks[k]))
    return [blocks[k] for k in sorted(area[:most])]


def _area(block: LocalBlock) -> int:
    return (block.end - block.offset) * (block.until - block.since)


def _blocks(blocks: Sequence[LocalBlock], names: Names) -> dict[str, Any]:
    return {
        "length": len(blocks),
        "offset": column(block.offset for block in blocks),
        "size": column(block.end - block.offset for block in blocks),
        "since": column(block.since for block in blocks),
        "cycles": column(block.until - block.since for block in blocks),
        "name": column(names.of(block.name) for block in blocks),
        "kind": column(KINDS.index(block.kind) for block in blocks),
    }


class Names:
    """Texts, each kept once, by number."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._numbers: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The number of a text."""
        if name not in self._numbers:
            self._numbers[name] = len(self.found)
            self.found.append(name)
        return self._numbers[name]


def column(values: Iterable[int]) -> str:
    """Whole numbers as base64: each as its difference from the one before, the sign in the lowest bit, in bytes of
    seven bits of which all but the last have the highest bit set."""
    content = bytearray()
    before = 0
    for value in values:
        number = int(value)
        step, before = number - before, number
        code = step << 1 if step >= 0 else (-step << 1) - 1
        while code > 127:
            content.append(code & 127 | 128)
            code >>= 7
        content.append(code)
    return base64.b64encode(content).decode()
