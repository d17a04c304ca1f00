"""Where the cycles go: by engine, by kind of command, and by the tensor a command works for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tpu_deploy.codegen.commands import PlannedCommand
from tpu_deploy.codegen.timing import Estimate


def summary(estimate: Estimate) -> dict[str, Any]:
    """Estimated cycles and milliseconds, how long each engine is busy, bytes moved, cycles by kind of command."""
    return {
        "cycles": estimate.cycles,
        "milliseconds": estimate.milliseconds,
        "frequency_hz": estimate.frequency_hz,
        "tiu_busy": estimate.tiu_busy,
        "gdma_busy": estimate.gdma_busy,
        "dma_bytes": estimate.dma_bytes,
        "by_opcode": estimate.cycles_by_opcode,
        "estimated_opcodes": estimate.estimated_opcodes,
    }


def by_tensor(estimate: Estimate, commands: Sequence[PlannedCommand]) -> list[dict[str, Any]]:
    """Cycles each engine is busy for each tensor, in the order of the network.

    `commands` are those behind the bmodel, in program order; engines overlap, so their cycles do not add up to time.
    """
    origins = {
        engine: [command.origin for command in commands if command.engine == engine] for engine in ("TIU", "GDMA")
    }
    cycles = {command.origin: {"TIU": 0, "GDMA": 0} for command in commands}
    position = {"TIU": 0, "GDMA": 0}
    for row in estimate.rows():
        cycles[origins[row.engine][position[row.engine]]][row.engine] += row.cycles
        position[row.engine] += 1
    return [{"name": n, "tiu_cycles": each["TIU"], "gdma_cycles": each["GDMA"]} for n, each in cycles.items()]
