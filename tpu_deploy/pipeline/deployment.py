"""`tpu_deploy.deploy`: an ONNX model to a verified bmodel, and everything learned on the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen.bmodel import Bmodel, KernelModule
from tpu_deploy.codegen.compile import MemoryUse
from tpu_deploy.codegen.timing import Estimate
from tpu_deploy.errors import BadInput, CheckFailed
from tpu_deploy.ir.network import Network
from tpu_deploy.pipeline import stages
from tpu_deploy.pipeline.checks import Check, Verification
from tpu_deploy.pipeline.options import METHOD, PRECISIONS, SILENT, Progress, choice, writable_file, writable_folder
from tpu_deploy.pipeline.samples import Data
from tpu_deploy.pipeline.schedules import LEVELS
from tpu_deploy.pipeline.source import InputShapes, Model, Source
from tpu_deploy.pipeline.stages import Build, Request
from tpu_deploy.pipeline.tuned_tables import CHOICES, passes_of
from tpu_deploy.quant import QuantizationPlan
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.reports.profile import Profile

if TYPE_CHECKING:
    import pandas

    from tpu_deploy.calibration import Preprocessing
    from tpu_deploy.pipeline.reasons import Reasons
    from tpu_deploy.runtime.reference import Reference


@dataclass(frozen=True)
class Deployment:
    """A bmodel on disk and how it came about.

    `network` is the TPU network. `verification` is None when it was skipped. Sizes are in bytes; `timing.cycles` is an
    estimate, `profile` says where they go. `reasons` explain the accuracy; they are None without a report.
    """

    path: Path
    bmodel: Bmodel
    table: CalibrationTable
    plan: QuantizationPlan
    network: Network
    verification: Verification | None
    memory: MemoryUse
    timing: Estimate
    profile: Profile
    reasons: Reasons | None = None

    @cached_property
    def reference(self) -> Reference:
        """The integer arithmetic of the bmodel: `reference.run(feeds)` gives the very bits."""
        from tpu_deploy.runtime.reference import Reference

        return Reference(self.network)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The rows of the verification table; empty when verification was skipped."""
        return tuple(self.verification.checks) if self.verification is not None else ()

    @property
    def similarity(self) -> pandas.DataFrame:
        """How near each tensor is to the float network's, a row a tensor. Raises ValueError without verification."""
        from tpu_deploy.reports.layers import table

        if self.verification is None:
            raise ValueError("the deployment was not verified; deploy with verify=True")
        return table(self.verification.layers)


class AccuracyError(CheckFailed):
    """An accuracy gate failed; the bmodel is written all the same: `deployment` has it."""

    def __init__(self, message: str, deployment: Deployment) -> None:
        super().__init__(message)
        self.deployment = deployment


def deploy(
    model: Model,
    chip: str = "bm1684x",
    precision: str = "int8",
    calibration: CalibrationTable | str | os.PathLike[str] | None = None,
    data: Data | None = None,
    output: str | os.PathLike[str] = "m.bmodel",
    *,
    qtable: QuantizeTable | str | os.PathLike[str] | None = None,
    method: str = METHOD,
    passes: Sequence[str] | None = None,
    without: Sequence[str] = (),
    symmetric: bool = False,
    samples: int | None = None,
    batch_size: int = 1,
    preprocessing: Preprocessing | None = None,
    inputs: Data | None = None,
    input_shapes: InputShapes | None = None,
    verify: bool = True,
    report: str | os.PathLike[str] | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    quantized_io: bool = False,
    optimize: int = 1,
    cache: bool = True,
    kernel_module: str | os.PathLike[str] | None = None,
    gate: float | None = None,
    progress: Progress = SILENT,
) -> Deployment:
    """The bmodel of `model` for `chip`, written to `output` and verified stage by stage.

    Operations are computed in `precision` (int8, f16, bf16 or f32), those that `qtable` (a table or its path) names in
    another. INT8 operations need ranges: from `calibration` (a table or its path), or from a pass over `data` as in
    `calibrate`, whose options `method`, `passes`, `without`, `symmetric`, `samples`, `batch_size` and `preprocessing`
    are. `inputs` is what verification
    runs on (default: the first samples of `data` or those kept with the table, else seeded noise). `input_shapes` fills
    dynamic dimensions and may override a fixed batch. `quantized_io` makes inputs and outputs 8-bit, where INT8
    operations read or make them. The higher the level `optimize` (0 to 3), the longer a fast schedule is searched for;
    with `cache` found ones are kept in the user's cache folder. `kernel_module` is the vendor's firmware file, to be
    embedded. `gate` is the least cosine of the worst output instead of the precision's own.

    Raises BadInput for anything unusable and UnsupportedOperators naming all nodes that cannot be compiled, before
    anything is written; AccuracyError, after writing, when a gate fails; ExactnessError, before writing, when two
    executions differ.
    """
    precision = choice("--precision", precision, PRECISIONS)
    given = [each for each in (calibration, data) if each is not None]
    if len(given) == 2 or (not given and precision == "int8"):
        raise BadInput("give either a calibration table or calibration data (--calibration or --data)")
    if optimize not in LEVELS:
        raise BadInput(f"--optimize {optimize}: is no level; give one of {', '.join(map(str, LEVELS))}")
    if gate is not None and not -1 <= gate <= 1:
        raise BadInput(f"--gate {gate}: a cosine lies between -1 and 1")
    request = Request(
        source=Source.of(model),
        chip=chip_named(chip).name,
        precision=precision,
        output=writable_file(output, "-o", model, calibration, data, qtable, inputs, kernel_module),
        qtable=QuantizeTable.read(qtable) if isinstance(qtable, str | os.PathLike) else qtable,
        calibration=Path(calibration) if isinstance(calibration, str | os.PathLike) else calibration,
        data=data,
        method=choice("--method", method, CHOICES),
        passes=passes_of(method, passes, without, symmetric),
        samples=samples,
        batch_size=batch_size,
        preprocessing=preprocessing,
        inputs=inputs,
        input_shapes=input_shapes,
        verify=verify,
        report=None if report is None else writable_folder(report, "--report"),
        dump_ir=None if dump_ir is None else writable_folder(dump_ir, "--dump-ir"),
        quantized_io=quantized_io,
        optimize=optimize,
        cache=cache,
        kernel_module=None if kernel_module is None else read_kernel_module(Path(kernel_module)),
        gate=gate,
        progress=progress,
    )
    return _finished(stages.run(request))


def read_kernel_module(path: Path) -> KernelModule:
    """The vendor's firmware module in a file. Raises BadInput when it is no shared library."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"--kernel-module {path}: cannot be read ({error.strerror or error})") from error
    if content[:4] != b"\x7fELF":
        raise BadInput(f"--kernel-module {path}: is no shared library; give libbm1684x_kernel_module.so")
    return KernelModule(path.name, content)


def _finished(build: Build) -> Deployment:
    """The deployment of a build. Raises AccuracyError when one of its gates failed."""
    assert build.request.output is not None
    made = Deployment(
        path=build.request.output,
        bmodel=build.compiled.bmodel,
        table=build.table,
        plan=build.plan,
        network=build.tpu,
        verification=build.verification,
        memory=build.compiled.memory,
        timing=build.timing,
        profile=build.profile,
        reasons=build.reasons,
    )
    failed = build.verification.failed("accuracy") if build.verification is not None else []
    if failed:
        raise AccuracyError(_accuracy_message(build, failed[0]), made)
    return made


def _accuracy_message(build: Build, check: Check) -> str:
    label = build.request.source.label
    is_integer = "INT8" in build.plan.operations.values()
    cure = "another --method, more samples" if is_integer else "a wider --precision, for some operations by --qtable"
    return (
        f"{label}: {check.stage} against {check.compared_with}: {check.figure}; the first to break is {check.blame}; "
        f"{build.request.output} is written; try {cure}, or --gate"
    )
