"""Image files to input arrays: decode, resize, pixel format, (x - mean) * scale, channel order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tpu_deploy.calibration.feeds import Array, InputSpec
from tpu_deploy.errors import BadInput

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

PixelFormat = Literal["rgb", "bgr", "gray"]
ChannelOrder = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: `(pixel - mean) * scale` of 8-bit pixels, as TPU-MLIR's model_transform does it.

    `mean` and `scale` hold a number for each channel of `pixel_format`, or one for all. `pixel_format` None is rgb, or
    gray for a model with one channel. `resize` (height, width) defaults to the model's; a larger one is cropped about
    the centre. With `keep_aspect` the image is scaled to fit and centred, with pixels of `pad` around it.
    """

    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    resize: tuple[int, int] | None = None
    pixel_format: PixelFormat | None = None
    channel_order: ChannelOrder = "nchw"
    keep_aspect: bool = False
    pad: int = 0


@dataclass(frozen=True)
class ImageInput:
    """A preprocessing made definite for one model input."""

    spec: InputSpec
    size: tuple[int, int]
    crop: tuple[int, int]
    pixel_format: PixelFormat
    mean: Array
    scale: Array
    preprocessing: Preprocessing

    @classmethod
    def of(cls, preprocessing: Preprocessing, inputs: Mapping[str, InputSpec]) -> "ImageInput":
        """What images need to feed the model's only input. Raises BadInput when they cannot."""
        if len(inputs) != 1:
            raise BadInput(f"images feed models with one input; this one has {', '.join(inputs)}: give .npz files")
        spec = next(iter(inputs.values()))
        if len(spec.shape) != 4:
            raise BadInput(f"images feed inputs of 4 dimensions; {spec.name!r} is {spec.described}: give .npz files")
        first = preprocessing.channel_order == "nchw"
        channels, wanted = (spec.shape[1], spec.shape[2:]) if first else (spec.shape[3], spec.shape[1:3])
        pixel_format = preprocessing.pixel_format or ("gray" if channels == 1 else "rgb")
        planes = 1 if pixel_format == "gray" else 3
        if channels not in (None, planes):
            raise BadInput(
                f"pixel format {pixel_format} gives {planes} channels, but {spec.name!r} is {spec.described}: "
                "choose another pixel format or channel order"
            )
        sizes = preprocessing.resize or wanted
        height, width = sizes
        if height is None or width is None:
            raise BadInput(f"{spec.name!r} is {spec.described}: say how large images shall be with resize")
        crop = wanted[0] or height, wanted[1] or width
        if crop[0] > height or crop[1] > width:
            raise BadInput(f"resize {height},{width} is smaller than the input {spec.name!r} of {spec.described}")
        mean, scale = (_per_channel(values, planes) for values in (preprocessing.mean, preprocessing.scale))
        if not scale.all():
            raise BadInput("a scale of 0 makes every image the same; give the factor of each channel")
        return cls(spec, (height, width), crop, pixel_format, mean, scale, preprocessing)

    def load(self, path: Path) -> Array:
        """The image as an array of shape (1, C, H, W) or (1, H, W, C). Raises BadInput when it is unreadable."""
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("L" if self.pixel_format == "gray" else "RGB")
                pixels = np.asarray(self._resized(image))
        except FileNotFoundError:
            raise BadInput(f"{path}: no such image; check the list or the folder") from None
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInput(f"{path}: is not a readable image ({error}); remove or replace it") from error
        pixels = pixels.reshape(*self.size, -1)
        top, left = (self.size[0] - self.crop[0]) // 2, (self.size[1] - self.crop[1]) // 2
        pixels = pixels[top : top + self.crop[0], left : left + self.crop[1]]
        if self.pixel_format == "bgr":
            pixels = pixels[..., ::-1]
        planes = pixels.transpose(2, 0, 1)
        if self.spec.dtype.kind != "f" and not self.mean.any() and (self.scale == 1).all():
            values = np.ascontiguousarray(planes)
        else:
            values = (planes.astype(np.float32) - self.mean) * self.scale
        return (values if self.preprocessing.channel_order == "nchw" else values.transpose(1, 2, 0))[np.newaxis]

    def _resized(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        if not self.preprocessing.keep_aspect:
            return image.resize((width, height), Image.Resampling.BILINEAR)
        ratio = min(width / image.width, height / image.height)
        inner = max(1, int(image.width * ratio)), max(1, int(image.height * ratio))
        pad = self.preprocessing.pad
        canvas = Image.new(image.mode, (width, height), pad if image.mode == "L" else (pad, pad, pad))
        corner = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), corner)
        return canvas


def _per_channel(values: tuple[float, ...], channels: int) -> Array:
    """One value for each channel, of shape (channels, 1, 1)."""
    if len(values) not in (1, channels):
        raise BadInput(f"mean and scale need 1 or {channels} numbers, not {len(values)}")
    if not np.isfinite(values).all():
        raise BadInput(f"mean and scale need finite numbers, not {', '.join(map(str, values))}")
    return np.broadcast_to(np.asarray(values, np.float32), (channels,)).reshape(channels, 1, 1)
