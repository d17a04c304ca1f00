"""`tpu-deploy demo`: the packaged network and images through calibrate, deploy, run and report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tpu_deploy.demo as packaged
from tpu_deploy.errors import BadInput, CheckFailed
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.calibrate import calibrate
from tpu_deploy.pipeline.deployment import Deployment, deploy
from tpu_deploy.pipeline.float_model import OriginalModel
from tpu_deploy.pipeline.options import SILENT, Progress, made_folder, writable_folder
from tpu_deploy.pipeline.source import Source, canonical_network
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.session import load

Array = npt.NDArray[Any]

FOLDER = "tpu-deploy-demo"

BATCH = 100
"""Images the reference interpreter takes at once to measure accuracy."""

SIMULATED = 8
"""Images that also run on the bmodel itself."""


@dataclass(frozen=True)
class Demonstration:
    """What was made, and the accuracies on the packaged test images (shares from 0 to 1)."""

    deployment: Deployment
    table: Path
    report: Path
    images: int
    float_accuracy: float
    int8_accuracy: float
    agreement: float
    simulated: int


def demonstrate(output: str | os.PathLike[str] | None = None, progress: Progress = SILENT) -> Demonstration:
    """Calibrates, deploys, runs and reports on the packaged network; the files go to a new folder.

    `output` defaults to `tpu-deploy-demo` in the current folder, or the next such name that is free. Raises BadInput
    when it holds files already or cannot be written.
    """
    folder = _folder(output)
    model, name = packaged.demo_model_path(), packaged.INPUT_NAME
    images, labels = packaged.test_images()
    shapes = {name: (1, *images.shape[1:])}
    table_path = folder / "fashion_mnist.table"
    table = calibrate(model, packaged.calibration_samples(), input_shapes=shapes, output=table_path, progress=progress)
    built = deploy(
        model,
        calibration=table,
        inputs=[{name: images[k : k + 1]} for k in range(SIMULATED)],
        input_shapes=shapes,
        output=folder / "fashion_mnist.bmodel",
        report=folder / "report",
        progress=progress,
    )
    progress.stage("Measure accuracy")
    float_logits = OriginalModel(Source.of(model)).run({name: images})[packaged.OUTPUT_NAME]
    int8_logits = np.concatenate(list(_by_reference(built, images)))
    progress.stage("Run the bmodel on the simulator")
    _check_bmodel(built, images[:SIMULATED], int8_logits)
    guesses, wanted = int8_logits.argmax(1), float_logits.argmax(1)
    return Demonstration(
        deployment=built,
        table=table_path,
        report=folder / "report" / "index.html",
        images=len(images),
        float_accuracy=float(np.mean(wanted == labels)),
        int8_accuracy=float(np.mean(guesses == labels)),
        agreement=float(np.mean(guesses == wanted)),
        simulated=SIMULATED,
    )


def _folder(output: str | os.PathLike[str] | None) -> Path:
    """A new or empty folder."""
    if output is None:
        numbered = (Path(FOLDER if number == 1 else f"{FOLDER}-{number}") for number in range(1, 1 << 16))
        return made_folder(next(path for path in numbered if not path.exists()), "--output")
    folder = writable_folder(output, "--output")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"--output {folder}: holds files already; give a new folder")
    return made_folder(folder, "--output")


def _by_reference(built: Deployment, images: Array) -> Iterator[Array]:
    """The INT8 network's outputs, in batches: the same arithmetic lowered for more images at once."""
    shape = (BATCH, *images.shape[1:])
    network = canonical_network(Source.of(packaged.demo_model_path()), {packaged.INPUT_NAME: shape})
    reference = Reference(lower_to_tpu(network, built.plan))
    for start in range(0, len(images), BATCH):
        yield reference.run({packaged.INPUT_NAME: images[start : start + BATCH]})[packaged.OUTPUT_NAME]


def _check_bmodel(built: Deployment, images: Array, expected: Array) -> None:
    """Raises CheckFailed unless the bmodel on disk gives the very bits of the reference."""
    session = load(built.path)
    for number, image in enumerate(images):
        logits = session.run({packaged.INPUT_NAME: image[np.newaxis]})[packaged.OUTPUT_NAME]
        if not np.array_equal(logits[0], expected[number]):
            raise CheckFailed(f"{built.path}: image {number} differs between simulator and reference")
