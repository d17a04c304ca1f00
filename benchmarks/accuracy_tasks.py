"""What accuracy is measured on: models with calibration samples, labelled test samples and a score."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import tpu_deploy.demo as packaged

Array = npt.NDArray[Any]
Feed = dict[str, Array]
"""The array of each input of the model; its first axis is the batch."""

Score = Callable[[Array, Array], float]
"""Predictions and labels to a number."""


class Task(Protocol):
    """A model and what tells how good it is; a task file's `TASKS` maps names to such objects."""

    @property
    def model_path(self) -> str:
        """The ONNX file."""

    @property
    def metric_name(self) -> str:
        """What the score is called, with its unit."""

    @property
    def score(self) -> Score | None:
        """How good predictions are; where it is the mean over samples it is told with a standard error."""

    def calibration(self, count: int | None) -> Sequence[Feed]:
        """The first `count` (None: all) calibration samples, each a feed of batch 1. None of them is a test sample."""

    def test(self, batch: int) -> Iterable[Feed]:
        """The test samples in feeds of so many; all feeds of batch 1 have the same shapes."""

    def labels(self) -> Array:
        """What is right for each test sample, samples along the first axis."""

    def reduce(self, outputs: Sequence[Array]) -> Array:
        """The predictions in the model's outputs for a feed, samples along the first axis; integers are classes."""


class DemoTask:
    """The packaged demo network on its images."""

    model_path = str(packaged.demo_model_path())
    metric_name = "top-1 %"

    def calibration(self, count: int | None) -> Sequence[Feed]:
        return list(packaged.calibration_samples())[:count]

    def test(self, batch: int) -> Iterable[Feed]:
        images, _ = packaged.test_images()
        return ({packaged.INPUT_NAME: images[start : start + batch]} for start in range(0, len(images), batch))

    def labels(self) -> Array:
        return packaged.test_images()[1]

    def reduce(self, outputs: Sequence[Array]) -> Array:
        classes: Array = outputs[0].argmax(-1)
        return classes

    def score(self, predictions: Array, labels: Array) -> float:
        return 100 * float(np.mean(predictions == labels))


DEMO: dict[str, Task] = {"demo": DemoTask()}


def read_tasks(path: Path) -> Mapping[str, Task]:
    """`TASKS` of a Python file, which may import what lies beside it."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or specification is None or specification.loader is None:
        sys.exit(f"--tasks {path}: is no Python file")
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    tasks: Mapping[str, Task] = module.TASKS
    return tasks
