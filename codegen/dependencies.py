"""Which command of the other engine each command must wait for, computed from the local memory they touch.

Global memory is touched by the DMA engine alone, which keeps its order; so only local memory matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.commands import PlannedCommand

GRANULE = 64
"""Bytes of local memory that are tracked as one."""


def dependencies(commands: Sequence[PlannedCommand], chip: Chip) -> list[tuple[int, int]]:
    """(identifier, identifier waited for) of each command, in order; 0 waits for nothing.

    Identifiers count from 1 in each engine. A command waits for the last earlier command of the other engine that wrote
    what it reads or writes, or read what it writes.
    """
    size = chip.lane_bytes // GRANULE
    wrote = {e: np.zeros(size, np.int64) for e in ("TIU", "GDMA")}
    touched = {e: np.zeros(size, np.int64) for e in ("TIU", "GDMA")}
    count = {"TIU": 0, "GDMA": 0}
    waited = {"TIU": 0, "GDMA": 0}
    found = []
    for command in commands:
        other = "GDMA" if command.engine == "TIU" else "TIU"
        count[command.engine] += 1
        number = count[command.engine]
        wait = waited[command.engine]
        reads = [slice(r.start // GRANULE, -(-r.stop // GRANULE)) for r in command.reads]
        writes = [slice(r.start // GRANULE, -(-r.stop // GRANULE)) for r in command.writes]
        for part in reads:
            wait = max(wait, int(wrote[other][part].max()))
        for part in writes:
            wait = max(wait, int(touched[other][part].max()))
        for part in (*reads, *writes):
            touched[command.engine][part] = number
        for part in writes:
            wrote[command.engine][part] = number
        waited[command.engine] = wait
        found.append((number, wait))
    return found
