"""Names for what a bmodel does not name: phases of its run, and operations by the coefficients they use."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

from tpu_deploy.codegen.bmodel import Stage
from tpu_deploy.reports.executed import Executed
from tpu_deploy.reports.local_memory import Tracer
from tpu_deploy.reports.traffic import COEFFICIENTS, INPUTS, INTERMEDIATES, Moved


def phases(commands: Sequence[Executed], tracer: Tracer) -> list[int]:
    """The number of the phase of each command: between two phases local memory holds nothing that is read later.

    What a compiler cuts into layer groups shows as phases, unless it loads for one group while another runs.
    """
    firsts = {each.group: each.start for each in reversed(commands)}.values()
    borders = {0, *firsts}
    end = 0
    for held in sorted(tracer.held, key=lambda h: h.since):
        if held.since >= end > 0:
            borders.add(held.since)
        end = max(end, held.until)
    order = sorted(borders)
    return [bisect_right(order, each.start) - 1 for each in commands]


def phase_name(number: int, commands: Sequence[Executed]) -> str:
    """A phase by its number and what it mostly computes: "phase 2: 16 CONV, 17 RQ_DQ.rq_int, 4 AR.adds"."""
    counts = Counter(each.opcode for each in commands if each.command.engine == "TIU")
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
    told = ", ".join(f"{count} {opcode}" for opcode, count in most) or "transfers only"
    return f"phase {number + 1}: {told}"


_KIND = "tpu."
"""What the names begin with that TPU-MLIR gives to all weights of one kind of operation."""


class _Coefficients:
    """What the file calls parts of its coefficients: by operation, or only by kind ("tpu.Conv2D.weight")."""

    def __init__(self, stage: Stage) -> None:
        held = stage.coefficients
        self._base = held.address if held is not None else 0
        self._locations = sorted(held.locations, key=lambda each: each.offset) if held is not None else []
        self._offsets = [each.offset for each in self._locations]

    def name(self, address: int) -> str:
        """The location an address lies in, with its offset where its name is that of a kind; else the bare offset."""
        offset = address - self._base
        number = bisect_right(self._offsets, offset) - 1
        if number < 0 or self._locations[number].name == COEFFICIENTS:
            return f"coefficients+{offset:#x}"
        found = self._locations[number]
        return f"{found.name}+{found.offset:#x}" if found.name.startswith(_KIND) else found.name


def operations(stage: Stage, commands: Sequence[Executed], tracer: Tracer, moved: Mapping[int, Moved]) -> list[str]:
    """What each command works for: the coefficients it loads or uses, else its kind.

    Coefficients stay what they are while they are only moved about. A store counts with what computed its data, a load
    of a tensor with its first reader.
    """
    coefficients = _Coefficients(stage)
    names = [""] * len(commands)
    is_coefficient = [False] * len(commands)
    for index, each in enumerate(commands):
        what, sources = moved.get(index), tracer.sources[index]
        used = [source for source in sources if is_coefficient[source]]
        if what is not None and what.read == COEFFICIENTS and each.reads:
            names[index], is_coefficient[index] = coefficients.name(each.reads[0].place.offset), True
        elif used:
            names[index], is_coefficient[index] = names[used[0]], len(used) == len(sources)
        elif each.command.engine == "TIU":
            names[index] = nameless(each)
        elif what is not None and what.written and sources:
            names[index] = names[sources[0]]
    for index in range(len(commands) - 1, -1, -1):
        for source in tracer.sources[index]:
            what = moved.get(source)
            if what is not None and what.read in (INPUTS, INTERMEDIATES) and not what.written:
                names[source] = names[index]
    return [name or nameless(each) for name, each in zip(names, commands, strict=True)]


def nameless(each: Executed) -> str:
    """What a command works for that uses no coefficients."""
    return f"{each.opcode}, no coefficients"
