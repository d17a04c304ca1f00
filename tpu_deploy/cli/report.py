"""`tpu-deploy report`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpu_deploy.cli import options
from tpu_deploy.errors import BadInput


def report(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL.onnx]", help="The ONNX model.")] = None,
    difference: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", metavar="BEFORE AFTER", help="Compare two reports (report.json or folders) instead."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="DIR", help="The folder the files go to.")
    ] = None,
    calibration: Annotated[str | None, typer.Option(metavar="TABLE", help="The calibration table.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Samples to report on; without --calibration to calibrate on, too."),
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(metavar="SAMPLES.npz", help="In place of --data: samples as the network takes them.")
    ] = None,
    batches: Annotated[int, typer.Option(metavar="N", help="Report on the first N batches.")] = 8,
    chip: options.Chip = "bm1684x",
    precision: Annotated[str, typer.Option(help="int8, f16, bf16 or f32.")] = "int8",
    qtable: Annotated[
        str | None, typer.Option(metavar="QTABLE", help="Operations in another precision, in TPU-MLIR's format.")
    ] = None,
    input_shape: options.InputShape = None,
    gate: Annotated[float | None, typer.Option(metavar="COSINE", help="Least cosine of the worst output.")] = None,
    samples: options.Samples = None,
    method: options.Method = "mse",
    batch_size: options.BatchSize = 1,
    mean: options.Mean = None,
    scale: options.Scale = None,
    resize: options.Resize = None,
    pixel_format: options.PixelFormat = None,
    channel_order: options.ChannelOrder = None,
    keep_aspect: options.KeepAspect = False,
) -> None:
    """Explain a model on the chip without deploying it, or compare two reports."""
    if difference is not None:
        if model is not None:
            raise BadInput("--diff compares two reports; leave the model out")
        _diff(*difference, output)
        return
    if model is None or output is None:
        raise BadInput("give a model and -o DIR for its report, or two reports with --diff")
    import tpu_deploy
    from tpu_deploy.cli import output as results
    from tpu_deploy.cli.progress import Terminal

    with Terminal() as progress:
        made = tpu_deploy.report(
            model,
            output,
            calibration,
            data,
            inputs,
            chip=chip,
            precision=precision,
            qtable=qtable,
            method=method,
            samples=samples,
            batch_size=batch_size,
            batches=batches,
            preprocessing=options.preprocessing(mean, scale, resize, pixel_format, channel_order, keep_aspect),
            input_shapes=options.input_shapes(input_shape),
            gate=gate,
            progress=progress,
        )
    print(results.report(made))


def _diff(before: str, after: str, output: str | None) -> None:
    import tpu_deploy
    from tpu_deploy.reports import difference_text

    print(difference_text.terminal(tpu_deploy.diff(before, after, output)))
    if output is not None:
        print(f"\n{output}/difference.html: the same, layer by layer")
