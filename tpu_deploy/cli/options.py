"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tpu_deploy.errors import BadInput

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing

Model = Annotated[str, typer.Argument(metavar="MODEL.onnx", help="The ONNX model.", show_default=False)]
Bmodel = Annotated[str, typer.Argument(metavar="FILE.bmodel", help="The bmodel.", show_default=False)]
Chip = Annotated[str, typer.Option(help="The chip.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1,3,224,224",
        help="Shape of an input: fills dynamic dimensions, may override the batch; repeatable.",
    ),
]
Samples = Annotated[int | None, typer.Option(metavar="N", help="Use the first N samples.  [default: all]")]
Method = Annotated[
    str, typer.Option(help="Method of thresholds: max, percentile, kl, mse or aciq; auto tunes types and weights.")
]
Passes = Annotated[
    str | None, typer.Option(metavar="A,B", help="With --method auto: the passes to try.  [default: all]")
]
Without = Annotated[str | None, typer.Option(metavar="A,B", help="With --method auto: passes to leave out.")]
Symmetric = Annotated[bool, typer.Option("--symmetric", help="With --method auto: no zero points, as TPU-MLIR.")]
BatchSize = Annotated[int, typer.Option(metavar="N", help="Samples run at once, where the model's batch is dynamic.")]
Mean = Annotated[str | None, typer.Option(metavar="R,G,B", help="Images: subtracted from each channel, in 0..255.")]
Scale = Annotated[str | None, typer.Option(metavar="R,G,B", help="Images: multiplied with each channel after that.")]
Resize = Annotated[
    str | None, typer.Option(metavar="H,W", help="Images: resized to this, then cropped to the input's size.")
]
PixelFormat = Annotated[str | None, typer.Option(help="Images: rgb, bgr or gray.")]
ChannelOrder = Annotated[str | None, typer.Option(help="Images: nchw or nhwc.")]
KeepAspect = Annotated[bool, typer.Option("--keep-aspect", help="Images: keep their aspect, pad what is left.")]


def input_shapes(given: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """The shapes by input name; None when none are given. Raises BadInput for anything but NAME=SIZES."""
    if not given:
        return None
    shapes = {}
    for each in given:
        name, _, sizes = each.rpartition("=")
        if not name:
            raise BadInput(f"--input-shape {each}: is not NAME=SIZES; write for example image=1,3,224,224")
        shapes[name] = tuple(int(size) for size in _numbers("--input-shape", sizes, int))
    return shapes


def preprocessing(
    mean: str | None,
    scale: str | None,
    resize: str | None,
    pixel_format: str | None,
    channel_order: str | None,
    keep_aspect: bool,
) -> Preprocessing | None:
    """What the options for images say; None when none is given. Raises BadInput."""
    if not keep_aspect and all(each is None for each in (mean, scale, resize, pixel_format, channel_order)):
        return None
    from tpu_deploy.calibration import Preprocessing
    from tpu_deploy.pipeline.options import choice

    size = None if resize is None else _numbers("--resize", resize, int)
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise BadInput(f"--resize {resize}: is not H,W; write for example 256,256")
    return Preprocessing(
        mean=(0.0,) if mean is None else _numbers("--mean", mean, float),
        scale=(1.0,) if scale is None else _numbers("--scale", scale, float),
        resize=None if size is None else (int(size[0]), int(size[1])),
        pixel_format=None if pixel_format is None else choice("--pixel-format", pixel_format, ("rgb", "bgr", "gray")),  # type: ignore[arg-type]
        channel_order="nchw" if channel_order is None else choice("--channel-order", channel_order, ("nchw", "nhwc")),  # type: ignore[arg-type]
        keep_aspect=keep_aspect,
    )


def _numbers(option: str, text: str, kind: type[float]) -> tuple[float, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise BadInput(f"{option} {text}: is not a list of {what} separated by commas") from None


def names(text: str | None) -> list[str] | None:
    """The names in "a,b"; None where nothing was given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
