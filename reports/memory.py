"""Where the bytes go: coefficients, intermediate tensors, local memory, the file."""

from __future__ import annotations

from typing import Any

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.compile import MemoryUse


def summary(memory: MemoryUse, chip: Chip, file_bytes: int) -> dict[str, Any]:
    """Bytes of device memory (coefficients, context), of a lane's local memory at its peak, and of the bmodel."""
    return {
        "file": file_bytes,
        "coefficients": memory.coefficients,
        "context": memory.context,
        "context_lower_bound": memory.context_lower_bound,
        "device": memory.coefficients + memory.context,
        "local_peak": memory.local_peak,
        "local_capacity": chip.lane_bytes,
    }
