"""A small report's record, as `deploy --report` writes it: only what a guard reads."""

from __future__ import annotations

import copy
from typing import Any


def row(name: str, sqnr_db: float = 30.0, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "operation": "Conv",
        "dtype": "int8",
        "precision": "INT8",
        "cosine": 0.999,
        "sqnr_db": sqnr_db,
        "saturated": 0.0,
        "born_relative_l2": 0.01,
        **changes,
    }


def record(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record of a network whose tensors are those of `rows` (default: a, b and c in a chain)."""
    layers = list(rows) or [row("a"), row("b"), row("c")]
    found = {
        "schema": 3,
        "model": {"name": "net", "file": "net.onnx", "hash": "sha256:0"},
        "chip": "bm1684x",
        "precision": "int8",
        "bmodel": {"file": "net.bmodel", "sha256": "ab" * 32, "bytes": 1000},
        "verification": {"inputs": "8 samples", "is_noise": False, "batches": 8, "checks": []},
        "layers": layers,
        "thresholds": {each["name"]: {"threshold": 2.0, "dtype": each["dtype"]} for each in layers},
        "commands": {"TIU": {"total": 100, "opcodes": {}}, "GDMA": {"total": 200, "opcodes": {}}},
        "memory": {"coefficients": 4096, "context": 8192, "local_peak": 100000},
        "timing": {"cycles": 10000},
    }
    return copy.deepcopy({**found, **changes})
