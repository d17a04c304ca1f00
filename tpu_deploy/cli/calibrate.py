"""`tpu-deploy calibrate`: a table from samples, from earlier statistics, or from the shards of several runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tpu_deploy.cli import options
from tpu_deploy.errors import BadInput

if TYPE_CHECKING:
    from tpu_deploy.calibration import CalibrationTable


def calibrate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="MODEL.onnx", help="The ONNX model; with --merge the parts.", show_default=False),
    ],
    output: Annotated[str, typer.Option("-o", "--output", metavar="TABLE", help="Where the table goes.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="A folder of images, of .npz or .npy files, a list of them, or one batch."),
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="In place of --data: the statistics saved beside an earlier table."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Take the I-th of N parts of the samples; write a part, not a table."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join the parts PART PART ... of all shards to the table of one run.")
    ] = False,
    samples: options.Samples = None,
    method: options.Method = "mse",
    passes: options.Passes = None,
    without: options.Without = None,
    symmetric: options.Symmetric = False,
    batch_size: options.BatchSize = 1,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    resize: options.Resize = None,
    pixel_format: options.PixelFormat = None,
    channel_order: options.ChannelOrder = None,
    keep_aspect: options.KeepAspect = False,
    tpu_mlir_names: Annotated[
        bool, typer.Option("--tpu-mlir-names", help="Write tensor names as TPU-MLIR does: NAME_OpType.")
    ] = False,
) -> None:
    """Find the range of every tensor on sample data; write a calibration table."""
    import tpu_deploy
    from tpu_deploy.cli.progress import Terminal

    _check(files, data, statistics, shard, merge, tpu_mlir_names)
    images = options.preprocessing(mean, scale, resize, pixel_format, channel_order, keep_aspect)
    shapes = options.input_shapes(input_shape)
    if merge:
        _tell(tpu_deploy.merge_shards(files, method=method, output=output), output)
        return
    with Terminal() as progress:
        if shard is None or data is None:
            table = tpu_deploy.calibrate(
                files[0],
                data,
                method=method,
                passes=options.names(passes),
                without=options.names(without) or (),
                symmetric=symmetric,
                samples=samples,
                batch_size=batch_size,
                preprocessing=images,
                input_shapes=shapes,
                statistics=statistics,
                output=output,
                tpu_mlir_names=tpu_mlir_names,
                progress=progress,
            )
            _tell(table, output)
            return
        part = tpu_deploy.calibrate_shard(
            files[0],
            data,
            shard,
            samples=samples,
            batch_size=batch_size,
            preprocessing=images,
            input_shapes=shapes,
            output=output,
            progress=progress,
        )
    print(f"{output}: shard {part.shard}, {part.statistics.samples} samples; join all with --merge")


def _tell(table: CalibrationTable, output: str) -> None:
    from tpu_deploy.pipeline.tables import statistics_path

    print(f"{output}: {len(table)} tensors, method {table.method}, {table.samples} samples")
    print(f"{statistics_path(output)}: the statistics, for other methods without another pass (--statistics)")
    for line in table.advice.lines() if table.advice is not None else ():
        print(line)


def _check(
    files: list[str], data: str | None, statistics: str | None, shard: str | None, merge: bool, tpu_mlir_names: bool
) -> None:
    """Raises BadInput for options that exclude each other."""
    if merge and (data is not None or statistics is not None or shard is not None):
        raise BadInput("--merge: takes the parts alone, without --data, --statistics or --shard")
    if merge and tpu_mlir_names:
        raise BadInput("--merge: writes ONNX names; make the table again from its statistics with --tpu-mlir-names")
    if not merge and len(files) > 1:
        raise BadInput(f"{files[1]}: is one file too many; give one model, or --merge to join parts")
    if shard is not None and data is None:
        raise BadInput("--shard: splits samples; give them with --data")
    if shard is not None and tpu_mlir_names:
        raise BadInput("--shard: writes a part, not a table; --tpu-mlir-names is for tables")
