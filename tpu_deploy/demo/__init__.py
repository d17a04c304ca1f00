"""The packaged network and images behind `tpu-deploy demo`: a small Fashion-MNIST classifier and real photographs.

`fashion_mnist.onnx` takes `image`, float32 (N, 1, 28, 28), and returns `logits`, float32 (N, 10). `fashion_mnist.npz`
holds the uint8 images: the first 128 training images to calibrate on and the first 50 test images of each class to
measure on. Where both come from and under which licence is written in NOTICE.md beside this file.
"""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INPUT_NAME = "image"
OUTPUT_NAME = "logits"

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The class of each logit. Source: README of https://github.com/zalandoresearch/fashion-mnist, section Labels."""

MEAN = 0.286
"""Mean of all training pixels after division by 255."""

STANDARD_DEVIATION = 0.353
"""Standard deviation of all training pixels after division by 255."""

FLOAT_ACCURACY = 0.95
"""Share of the 500 packaged test images that onnxruntime classifies rightly with the float network."""

FLOAT_ACCURACY_ALL = 0.9351
"""The same share of all 10,000 test images of Fashion-MNIST."""


def demo_model_path() -> Path:
    """Path of the packaged ONNX network (opset 13, batch normalization unfused, dynamic batch dimension `N`)."""
    return _packaged("fashion_mnist.onnx")


def calibration_samples() -> Iterator[dict[str, NDArray[np.float32]]]:
    """The 128 calibration images as feeds `{"image": float32 (1, 1, 28, 28)}`, none of them a test image."""
    for pixels in _arrays("calibration")[0]:
        yield {INPUT_NAME: normalise(pixels[np.newaxis])}


def test_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 500 labelled test images: float32 (500, 1, 28, 28), normalised, and their classes, int64 (500,)."""
    pixels, labels = _arrays("test", "labels")
    return normalise(pixels), labels.astype(np.int64)


test_images.__test__ = False  # type: ignore[attr-defined]  # a name pytest would otherwise collect


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network takes for uint8 `pixels` (N, 28, 28): float32 (N, 1, 28, 28), (pixels / 255 - mean) / std."""
    scaled = pixels.astype(np.float32)[:, np.newaxis] / np.float32(255)
    return (scaled - np.float32(MEAN)) / np.float32(STANDARD_DEVIATION)


def _packaged(name: str) -> Path:
    return Path(str(resources.files(__name__) / name))


def _arrays(*names: str) -> list[NDArray[np.uint8]]:
    with np.load(_packaged("fashion_mnist.npz")) as archive:
        return [archive[name] for name in names]
