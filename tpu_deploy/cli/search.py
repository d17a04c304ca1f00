"""`tpu-deploy search`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tpu_deploy.cli import options

if TYPE_CHECKING:
    from tpu_deploy.pipeline.search import Search


def search(
    model: options.Model,
    data: Annotated[
        str, typer.Option(metavar="DATA", help="A folder of images, of .npz or .npy files, a list of them, or a batch.")
    ],
    target: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="similarity>=0.99 (worst output and sample) or sqnr>=20 (worst output)."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="In place of --target: topk, agreement, psnr or my_module:score."),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(metavar="0.5%", help="How much worse the metric may be; in % of the float model's, or points."),
    ] = None,
    less_is_better: Annotated[bool, typer.Option("--less-is-better", help="The metric is an error.")] = False,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Labels for the metric, as for `evaluate`.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="OUT.qtable", help="The quantize table.  [default: ./MODEL.qtable]"),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="The calibration table.  [default: made of three quarters of DATA]"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of float operations: f16, bf16 or f32.  [default: f16, others where it fails]"),
    ] = None,
    chip: options.Chip = "bm1684x",
    samples: options.Samples = None,
    method: options.Method = "mse",
    tpu_mlir_names: Annotated[bool, typer.Option("--tpu-mlir-names", help="Name operations as TPU-MLIR does.")] = False,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    resize: options.Resize = None,
    pixel_format: options.PixelFormat = None,
    channel_order: options.ChannelOrder = None,
    keep_aspect: options.KeepAspect = False,
) -> None:
    """Find the cheapest mixture of INT8 and float operations that reaches a target."""
    import tpu_deploy
    from tpu_deploy.cli.progress import Terminal
    from tpu_deploy.pipeline.search import TargetMissed

    try:
        with Terminal() as progress:
            found = tpu_deploy.search(
                model,
                data,
                target,
                metric=metric,
                drop=drop,
                less_is_better=less_is_better,
                labels=labels,
                output=output,
                calibration=calibration,
                method=method,
                precision=precision,
                chip=chip,
                samples=samples,
                preprocessing=options.preprocessing(mean, scale, resize, pixel_format, channel_order, keep_aspect),
                input_shapes=options.input_shapes(input_shape),
                tpu_mlir_names=tpu_mlir_names,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("what was measured is kept: the same command goes on from there", file=sys.stderr)
        raise
    except TargetMissed as missed:
        print(_text(model, missed.search))
        raise
    print(_text(model, found))


def _text(model: str, found: Search) -> str:
    chosen = found.chosen
    given = "TABLE" if found.calibration is None else str(found.calibration)
    return "\n".join(
        [
            f"{found.path}: {chosen.float_operations} of {len(found.plan.operations)} operations in float, "
            f"{chosen.float_results} INT8 products with float sums; {chosen.cycles:,} cycles estimated",
            f"target {found.target.words}: {'reached' if found.is_reached else 'missed'}, "
            f"on {found.samples} samples of {found.source}",
            _table(found),
            f"tpu-deploy deploy {model} --calibration {given} --qtable {found.path} -o OUT.bmodel",
        ]
    )


def _table(found: Search) -> str:
    """The front, and below it the network in INT8, or as it was tuned, where that is not on it."""
    from tpu_deploy.reports.text import columns, cosine, decibels

    usual = found.integer
    points = [*found.front, *([] if usual in found.front else [usual])]
    rows = [
        (
            "->" if each.chosen else "",
            f"{each.cycles:,}",
            f"{100 * (each.cycles / usual.cycles - 1):+.1f} %",
            cosine(each.similarity),
            decibels(each.sqnr_db),
            "" if each.metric is None else found.target.told(each.figures),
            f"{each.float_operations}",
            f"{each.float_results}",
            each.label,
        )
        for each in points
    ]
    start = "to auto" if found.plan.trials else "to INT8"
    heads = ("", "cycles", start, "similarity", "SQNR", "metric", "float", "float sums", "precisions")
    shown = [k for k in range(len(heads)) if heads[k] != "metric" or usual.metric is not None]
    cells = [[row[k] for k in shown] for row in rows]
    return columns(cells, [heads[k] for k in shown], frozenset(range(1, len(shown) - 1)))
