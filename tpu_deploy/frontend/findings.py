"""What a network holds that cannot be compiled: structured findings, and the error that carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpu_deploy.errors import BadInput


@dataclass(frozen=True)
class Finding:
    """One node that cannot be compiled: its ONNX name and operator, its first output, why, and what to do about it."""

    node: str
    op_type: str
    tensor: str
    reason: str
    suggestion: str

    @property
    def place(self) -> str:
        """How a person finds the node: its name, or what it produces when it has none."""
        return self.node or f"the node producing {self.tensor}"


class UnsupportedOperators(BadInput):
    """A model has nodes that cannot be compiled: `findings` lists all of them, the message names each in one line."""

    def __init__(self, model: str, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        groups: dict[tuple[str, str, str], list[str]] = {}
        for f in findings:
            groups.setdefault((f.op_type, f.reason, f.suggestion), []).append(f.place)
        told = [
            f"{op_type} at {', '.join(places)}: {reason}" + (f" ({suggestion})" if suggestion else "")
            for (op_type, reason, suggestion), places in groups.items()
        ]
        count = f"{len(findings)} unsupported operator{'s' if len(findings) > 1 else ''}"
        super().__init__(f"{model}: {count}: " + "; ".join(told))


class Unsupported(Exception):
    """Raised by a converter for a node it cannot express; the importer makes it a `Finding`."""

    def __init__(self, reason: str, suggestion: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.suggestion = suggestion
