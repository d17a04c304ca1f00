"""`tpu-deploy evaluate`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer

from tpu_deploy.cli import options

if TYPE_CHECKING:
    from tpu_deploy.pipeline.evaluation import Evaluation
    from tpu_deploy.reports.metrics import Score


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="MODEL.onnx or FILE.bmodel (on the simulator).", show_default=False)
    ],
    data: Annotated[
        str, typer.Option(metavar="DATA", help="A folder of images, of .npz or .npy files, a list of them, or a batch.")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="topk, top5, agreement, psnr, sqnr or my_module:score, called with ({output: array}, label) of each "
            "sample; repeatable.  [default: what can be told]",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A .csv of file,class or an .npy or .npz of labels.  [default: in DATA, or a folder for each class]",
        ),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Evaluate the ONNX model in INT8, as its bmodel computes.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="int8, f16, bf16 or f32.  [default: int8 with a table, else the float model]")
    ] = None,
    qtable: Annotated[
        str | None, typer.Option(metavar="FILE", help="A quantize table: operations with a precision of their own.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL.onnx", help="The float model.  [default: MODEL where it is ONNX]")
    ] = None,
    samples: options.Samples = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Threads.  [default: one a core]")] = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    resize: options.Resize = None,
    pixel_format: options.PixelFormat = None,
    channel_order: options.ChannelOrder = None,
    keep_aspect: options.KeepAspect = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how good a model's answers are over a data set, beside the float model's."""
    import tpu_deploy
    from tpu_deploy.cli.progress import Terminal

    with Terminal("evaluated") as progress:
        found = tpu_deploy.evaluate(
            model,
            data,
            metric or (),
            calibration=calibration,
            precision=precision,
            qtable=qtable,
            against=against,
            labels=labels,
            samples=samples,
            preprocessing=options.preprocessing(mean, scale, resize, pixel_format, channel_order, keep_aspect),
            input_shapes=options.input_shapes(input_shape),
            workers=workers,
            progress=progress,
        )
    print(json.dumps(found.to_json(), indent=2) if as_json else _text(found))


def _text(found: Evaluation) -> str:
    from tpu_deploy.reports.text import columns

    rows = [
        (r.score.metric, _figure(r.score), _figure(r.float_score), _figure(r.change, signed=True))
        for r in found.results
    ]
    width = 4 if any(r.float_score for r in found.results) else 2
    headings = ("metric", found.arithmetic, "float model", "change")[:width]
    told = f"{found.model}: {found.samples} samples of {found.data}, {found.images_per_second:.1f} images/s"
    return "\n".join([told, columns([row[:width] for row in rows], headings)])


def _figure(score: Score | None, signed: bool = False) -> str:
    """A figure with its standard error: `90.8 ± 1.7 %`."""
    if score is None:
        return ""
    factor = 100.0 if score.unit == "%" else 1.0
    digits = 1 if score.unit else 4
    error = "" if math.isnan(score.error) else f" ± {factor * score.error:.{digits}f}"
    unit = "points" if signed and score.unit == "%" else score.unit
    return f"{factor * score.value:{'+' if signed else ''}.{digits}f}{error} {unit}".rstrip()
