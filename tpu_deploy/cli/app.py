"""The commands, each one call of the Python API."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tpu_deploy.cli import options
from tpu_deploy.cli.calibrate import calibrate
from tpu_deploy.cli.check import check
from tpu_deploy.cli.evaluate import evaluate
from tpu_deploy.cli.profile import profile
from tpu_deploy.cli.report import report as report_command
from tpu_deploy.cli.search import search
from tpu_deploy.errors import CheckFailed

USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What a wrong command line raises."""

Abort = typer.Abort

app = typer.Typer(
    name="tpu-deploy",
    help="From a trained ONNX network to a verified .bmodel for Sophgo TPUs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
chip_model = typer.Typer(help="The vendor's chip model, an optional outside judge.")
app.add_typer(chip_model, name="chip-model")


def execute(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code. Raises what it raises."""
    command = typer.main.get_command(app)
    code = command.main(args=list(arguments), prog_name="tpu-deploy", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        from tpu_deploy import __version__

        print(f"tpu-deploy {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """From a trained ONNX network to a verified .bmodel for Sophgo TPUs."""


app.command()(calibrate)


@app.command()
def deploy(
    model: options.Model,
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT.bmodel", help="Where the bmodel goes.")],
    chip: options.Chip = "bm1684x",
    precision: Annotated[
        str, typer.Option(help="int8, f16, bf16 or f32; float networks need no calibration.")
    ] = "int8",
    qtable: Annotated[
        str | None, typer.Option(metavar="FILE", help="A quantize table: operations with a precision of their own.")
    ] = None,
    calibration: Annotated[str | None, typer.Option(metavar="TABLE", help="The calibration table.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="In place of --calibration: calibrate on these samples first.")
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="SAMPLE.npz", help="What to verify on.  [default: samples of DATA or kept with TABLE, else noise]"
        ),
    ] = None,
    input_shape: options.InputShape = None,
    report: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write report.json, layers.csv and index.html there.")
    ] = None,
    dump_ir: Annotated[str | None, typer.Option(metavar="DIR", help="Write the text of every stage there.")] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the verification.")] = False,
    gate: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE",
            help="Least cosine of the worst output.  [default: int8 0.95, bf16 0.99, f16 0.999, f32 0.9999]",
        ),
    ] = None,
    quantized_io: Annotated[
        bool, typer.Option("--quantized-io", help="8-bit inputs and outputs; their scales stand in the bmodel.")
    ] = False,
    optimize: Annotated[
        int, typer.Option(metavar="0|1|2|3", help="How long to search for a fast schedule: not at all to minutes.")
    ] = 1,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Search again; neither read nor keep found schedules.")
    ] = False,
    kernel_module: Annotated[
        str | None, typer.Option(metavar="FILE", help="Embed the vendor's firmware module, which some devices want.")
    ] = None,
    samples: options.Samples = None,
    method: options.Method = "mse",
    passes: options.Passes = None,
    without: options.Without = None,
    symmetric: options.Symmetric = False,
    batch_size: options.BatchSize = 1,
    mean: options.Mean = None,
    scale: options.Scale = None,
    resize: options.Resize = None,
    pixel_format: options.PixelFormat = None,
    channel_order: options.ChannelOrder = None,
    keep_aspect: options.KeepAspect = False,
) -> None:
    """Compile a model to a bmodel and verify every stage."""
    import tpu_deploy
    from tpu_deploy.cli import output as results
    from tpu_deploy.cli.progress import Terminal
    from tpu_deploy.pipeline.deployment import AccuracyError
    from tpu_deploy.pipeline.stages import ExactnessError

    try:
        with Terminal() as progress:
            built = tpu_deploy.deploy(
                model,
                chip,
                precision,
                calibration,
                data,
                output,
                qtable=qtable,
                method=method,
                passes=options.names(passes),
                without=options.names(without) or (),
                symmetric=symmetric,
                samples=samples,
                batch_size=batch_size,
                preprocessing=options.preprocessing(mean, scale, resize, pixel_format, channel_order, keep_aspect),
                inputs=inputs,
                input_shapes=options.input_shapes(input_shape),
                verify=not no_verify,
                report=report,
                dump_ir=dump_ir,
                quantized_io=quantized_io,
                optimize=optimize,
                cache=not no_cache,
                kernel_module=kernel_module,
                gate=gate,
                progress=progress,
            )
    except AccuracyError as failed:
        print(results.deployment(failed.deployment, report))
        raise
    except ExactnessError as failed:
        print(results.verification(failed.verification))
        raise
    print(results.deployment(built, report))


@app.command()
def run(
    bmodel: options.Bmodel,
    inputs: Annotated[str, typer.Option(metavar="IN.npz", help="The inputs by name.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT.npz", help="Where the outputs go.")],
    on: Annotated[str, typer.Option(help="simulator or chip-model.")] = "simulator",
    raw: Annotated[bool, typer.Option("--raw", help="Write quantized outputs as the integers stored.")] = False,
    net: Annotated[str | None, typer.Option(help="The net, where there are several.")] = None,
    stage: Annotated[int, typer.Option(help="The stage of the net.")] = 0,
) -> None:
    """Run a bmodel on inputs from an .npz file; write its outputs to another."""
    import tpu_deploy
    from tpu_deploy.cli import arrays
    from tpu_deploy.pipeline.options import writable_file

    target = writable_file(output, "-o", bmodel, inputs)
    with tpu_deploy.load(bmodel, on=on, net=net, stage=stage) as session:
        results = session.run(arrays.read(inputs), dequantize=not raw)
    arrays.write(target, results)
    for name, array in results.items():
        print(f"{name}: {array.dtype} {'x'.join(map(str, array.shape))}")


@app.command()
def info(
    bmodel: options.Bmodel,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a bmodel holds: nets, tensors, memory, commands, estimated cycles, checksum."""
    from tpu_deploy.cli import output as results
    from tpu_deploy.codegen.bmodel import read_bmodel, verify_coefficients

    model = read_bmodel(bmodel)
    described = results.described(model)
    print(json.dumps(described, indent=2) if as_json else results.info(bmodel, described))
    verify_coefficients(model)


@app.command()
def disassemble(bmodel: options.Bmodel) -> None:
    """Print every command of a bmodel, a line each."""
    from tpu_deploy.codegen.bmodel import disassembly, read_bmodel

    for line in disassembly(read_bmodel(bmodel, verify=True)):
        sys.stdout.write(line + "\n")


app.command()(profile)
app.command("report")(report_command)
app.command()(check)
app.command()(evaluate)
app.command()(search)


@app.command()
def inspect(
    model: options.Model,
    chip: options.Chip = "bm1684x",
    input_shape: options.InputShape = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every node of a model that cannot be compiled, before any heavy work."""
    import tpu_deploy
    from tpu_deploy.cli import output as results

    found = tpu_deploy.inspect(model, chip, options.input_shapes(input_shape))
    print(json.dumps(results.inspected(found), indent=2) if as_json else results.inspection(found))
    if not found.is_supported:
        count = len(found.findings)
        raise CheckFailed(f"{model}: {count} node{'s' if count > 1 else ''} cannot be compiled for {found.chip}")


@app.command()
def demo(
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="DIR", help="Where files go.  [default: ./tpu-deploy-demo]")
    ] = None,
) -> None:
    """Take a packaged network and real images all the way: calibrate, deploy, run, report. No network needed."""
    from tpu_deploy.cli import output as results
    from tpu_deploy.cli.progress import Terminal
    from tpu_deploy.pipeline.demonstration import demonstrate

    with Terminal() as progress:
        found = demonstrate(output, progress)
    print(results.demonstration(found))


@chip_model.command()
def install(
    wheel: Annotated[
        str | None, typer.Option(metavar="FILE.whl", help="A copy of the wheel, in place of downloading it.")
    ] = None,
) -> None:
    """Fetch the vendor's runtime, chip model and tpuc-opt from their public wheel (312 MB) into the user's cache."""
    from pathlib import Path

    from tpu_deploy.runtime import chip_model_install

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    print(chip_model_install.install(wheel=None if wheel is None else Path(wheel), progress=tell))
