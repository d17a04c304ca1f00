"""Verdicts of a verification as plain data: what was compared with what, and how near it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpu_deploy.calibration.feeds import Feed
    from tpu_deploy.reports.findings import Finding
    from tpu_deploy.reports.layers import Layer

Verdict = Literal["ok", "failed", "absent", "unjudged"]

GATES = {"f32": 0.9999, "f16": 0.999, "bf16": 0.99, "int8": 0.95}
"""The least cosine of the worst output and batch, by the coarsest precision in what is judged."""


@dataclass(frozen=True)
class Check:
    """One row of the verification table: what was judged, against what, the verdict and the figure it rests on."""

    stage: str
    compared_with: str
    verdict: Verdict
    figure: str
    kind: Literal["accuracy", "exactness"]
    blame: str = ""


@dataclass
class Verification:
    """What the chain found so far on `feeds`, which `inputs` tells of in words."""

    inputs: str
    feeds: Sequence[Feed] = ()
    is_noise: bool = False
    checks: list[Check] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def failed(self, kind: str) -> list[Check]:
        """The failed checks of a kind."""
        return [check for check in self.checks if check.verdict == "failed" and check.kind == kind]
