"""The pipeline of `deploy`, as a list to be read aloud: each stage takes the build one step further."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tpu_deploy import calibration
from tpu_deploy.calibration.spread import SpreadSamples
from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.codegen.bmodel import KernelModule, disassembly, serialize
from tpu_deploy.codegen.compile import Compiled
from tpu_deploy.codegen.timing import Estimate, estimate
from tpu_deploy.errors import BadInput, CheckFailed
from tpu_deploy.files import replacing
from tpu_deploy.ir import text as ir_text
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.canonicalize import canonicalize
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.checks import GATES, Check, Verification
from tpu_deploy.pipeline.options import METHOD, SILENT, Progress, made_folder
from tpu_deploy.pipeline.plans import AUTO, plan_of
from tpu_deploy.pipeline.precisions import is_integer, scheme_of
from tpu_deploy.pipeline.samples import (
    BATCHES,
    Data,
    VerificationInputs,
    from_calibration,
    given_inputs,
    held_back,
    kept,
    noise,
    samples_path,
)
from tpu_deploy.pipeline.schedules import compiled
from tpu_deploy.pipeline.source import InputShapes, Source, check_batch, check_operations, input_specs, settled_shapes
from tpu_deploy.pipeline.tables import advised, check_table, collect, read_table
from tpu_deploy.pipeline.tuned_tables import tuned
from tpu_deploy.quant import QuantizationPlan, Scheme
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.reports.profile import Profile, profile

if TYPE_CHECKING:
    from tpu_deploy.calibration import Feed, Preprocessing
    from tpu_deploy.pipeline.reasons import Reasons
    from tpu_deploy.pipeline.tuning_recipe import Pass


@dataclass(frozen=True)
class Request:
    """What is to be deployed, and how: the checked arguments of `deploy`.

    Without an `output` no bmodel is written. `inputs` are raw where `preprocess_inputs` says so; `batches` is how many
    of them verification takes at most.
    """

    source: Source
    chip: str
    precision: str
    output: Path | None
    qtable: QuantizeTable | None = None
    calibration: CalibrationTable | Path | None = None
    data: Data | None = None
    method: str = METHOD
    passes: Sequence[Pass] | None = None
    samples: int | None = None
    batch_size: int = 1
    preprocessing: Preprocessing | None = None
    inputs: Data | None = None
    preprocess_inputs: bool = False
    batches: int = BATCHES
    input_shapes: InputShapes | None = None
    verify: bool = True
    report: Path | None = None
    dump_ir: Path | None = None
    quantized_io: bool = False
    optimize: int = 1
    cache: bool = True
    kernel_module: KernelModule | None = None
    gate: float | None = None
    progress: Progress = field(default=SILENT, compare=False)


@dataclass
class Build:
    """A deployment under way: what each stage leaves for the next."""

    request: Request
    top: Network = field(init=False)
    scheme: Scheme = field(init=False)
    table: CalibrationTable = field(default_factory=lambda: CalibrationTable({}))
    plan: QuantizationPlan = field(init=False)
    tpu: Network = field(init=False)
    compiled: Compiled = field(init=False)
    content: bytes = field(init=False)
    timing: Estimate = field(init=False)
    profile: Profile = field(init=False)
    verification: Verification | None = None
    reasons: Reasons | None = None
    first_samples: Sequence[Feed] = ()
    sample_source: str = ""

    @property
    def gate(self) -> float:
        """The least cosine between outputs of the float network and of the compiled one."""
        if self.request.gate is not None:
            return self.request.gate
        used = {precision.lower() for precision in self.plan.operations.values()}
        return min(GATES[precision] for precision in used | {self.request.precision})

    @property
    def precision(self) -> str:
        """What the network is called in: "INT8", or "INT8, mixed" where a quantize table has a say."""
        return self.request.precision.upper() + (", mixed" if self.request.qtable is not None else "")


Stage = Callable[[Build], None]


def import_model(build: Build) -> None:
    """Import the ONNX model."""
    if build.request.calibration is not None:
        _ = build.request.source.hashing
    check_batch(build.request.batch_size)
    shapes = settled_shapes(build.request.source, build.request.input_shapes, 1, build.request.progress)
    build.top = build.request.source.network(shapes, build.request.chip)
    _dump(build, "1_top", build.top)


def make_canonical(build: Build) -> None:
    """Fold and fuse until TOP is canonical."""
    canonicalize(build.top)
    check_operations(build.request.source, build.top, build.request.chip)
    _dump(build, "2_top_canonical", build.top)


def choose_precisions(build: Build) -> None:
    """Choose the precision of each operation."""
    request = build.request
    if request.data is not None and request.method == AUTO and request.precision != "int8":
        raise BadInput(f"--method auto: tunes INT8; leave out --precision {request.precision}, or the method")
    build.scheme = scheme_of(request.precision, request.qtable, request.source, build.top)
    if is_integer(build.top, build.scheme) and request.calibration is None and request.data is None:
        raise BadInput("INT8 operations need ranges: give a calibration table or data (--calibration or --data)")


def find_ranges(build: Build) -> None:
    """Find the range of each tensor."""
    request = build.request
    if isinstance(request.calibration, CalibrationTable):
        build.table = request.calibration
        check_table(build.table, request.source, build.top, build.scheme)
        build.first_samples = list(build.table.first_samples)
        build.sample_source = "the first calibration samples"
    elif request.calibration is not None:
        build.table = read_table(request.calibration, request.source, build.top, build.scheme)
        path = samples_path(request.calibration)
        build.first_samples = kept(path, input_specs(build.top))
        build.sample_source = f"the first calibration samples ({path.name})"
    elif request.data is not None:
        specs = input_specs(build.top)
        opened = calibration.open_samples(request.data, specs, request.preprocessing, request.samples)
        opened, build.first_samples = held_back(opened, specs, request.batches)
        build.sample_source = f"the calibration data ({opened.source})"
        if request.method == AUTO:
            build.table = tuned(
                build.top, request.source, opened, request.chip, request.passes, request.batch_size, request.progress
            )
        elif is_integer(build.top, build.scheme):
            spread = SpreadSamples(opened.count)
            statistics = collect(build.top, request.source, opened, request.batch_size, request.progress, spread=spread)
            table = CalibrationTable.of(statistics, request.method)
            build.table = advised(table, statistics, request.source, spread)
        for suspected in build.table.advice.suspicions if build.table.advice else ():
            request.progress.note(f"suspected: {suspected.message}")


def plan_types(build: Build) -> None:
    """Plan types."""
    build.plan = plan_of(build.top, build.table, build.scheme)
    if build.request.dump_ir is not None:
        folder = made_folder(build.request.dump_ir, "--dump-ir")
        build.plan.save(folder / "3_quantization.json")
        QuantizeTable.of(build.plan).write(folder / "3_quantization.qtable")


def lower(build: Build) -> None:
    """Lower to the arithmetic of the chip."""
    request = build.request
    build.tpu = lower_to_tpu(build.top, build.plan, request.chip, request.quantized_io)
    _dump(build, "4_tpu", build.tpu)


def generate_commands(build: Build) -> None:
    """Generate commands."""
    request = build.request
    build.compiled = compiled(
        build.tpu,
        request.chip,
        optimize=request.optimize,
        cache=request.cache,
        kernel_module=request.kernel_module,
    )
    build.content = serialize(build.compiled.bmodel)
    _dump_text(build, "5_commands.txt", lambda: disassembly(build.compiled.bmodel))


def estimate_time(build: Build) -> None:
    """Estimate cycles."""
    build.timing = estimate(build.compiled.bmodel)
    build.profile = profile(build.compiled.bmodel, build.compiled, build.timing)


def verify(build: Build) -> None:
    """Verify every stage."""
    if not build.request.verify:
        return
    from tpu_deploy.pipeline.verification import verify as verify_chain
    from tpu_deploy.runtime.reference import Reference

    inputs = _verification_inputs(build)
    build.verification = found = verify_chain(
        build.request.source,
        build.top,
        Reference(build.tpu),
        build.content,
        inputs,
        build.gate,
        build.precision,
        build.request.progress,
    )
    wrong = found.failed("exactness")
    if wrong:
        raise ExactnessError(build, wrong[0])


class ExactnessError(CheckFailed):
    """Two executions of the same arithmetic differ, a fault of the compiler: no bmodel is written."""

    def __init__(self, build: Build, check: Check) -> None:
        assert build.verification is not None
        self.verification = build.verification
        super().__init__(
            f"{build.request.source.label}: {check.stage} failed against {check.compared_with}: {check.blame}; "
            "no bmodel is written, this is a fault of the compiler: please report it with the model"
        )


def _verification_inputs(build: Build) -> VerificationInputs:
    request = build.request
    if request.inputs is not None:
        preprocessing = request.preprocessing if request.preprocess_inputs else None
        return given_inputs(build.top, request.inputs, request.batches, preprocessing)
    if build.first_samples:
        return from_calibration(build.first_samples, input_specs(build.top), build.sample_source)
    return noise(build.top, build.table)


def write_bmodel(build: Build) -> None:
    """Write the bmodel."""
    if build.request.output is not None:
        with replacing(build.request.output) as stream:
            stream.write(build.content)


def write_report(build: Build) -> None:
    """Write the report."""
    if build.request.report is not None:
        from tpu_deploy.pipeline.reporting import write_report as write_files

        write_files(build)


STAGES: tuple[Stage, ...] = (
    import_model,
    make_canonical,
    choose_precisions,
    find_ranges,
    plan_types,
    lower,
    generate_commands,
    estimate_time,
    verify,
    write_bmodel,
    write_report,
)
"""In this order; the first line of each stage's docstring is what a user reads while it runs."""


def run(request: Request) -> Build:
    """The finished build. Raises what the first stage that cannot go on raises."""
    build = Build(request)
    for stage in STAGES:
        request.progress.stage((stage.__doc__ or "").splitlines()[0].rstrip("."))
        stage(build)
    return build


def _dump(build: Build, name: str, network: Network) -> None:
    if build.request.dump_ir is not None:
        ir_text.save(network, made_folder(build.request.dump_ir, "--dump-ir") / f"{name}.mlir")


def _dump_text(build: Build, name: str, lines: Callable[[], Iterable[str]]) -> None:
    if build.request.dump_ir is not None:
        with replacing(made_folder(build.request.dump_ir, "--dump-ir") / name) as stream:
            stream.writelines(f"{line}\n".encode() for line in lines())
