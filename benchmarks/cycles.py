"""Estimated cycles of INT8 bmodels beside what no plan can go below, and beside TPU-MLIR's where it is installed.

    python benchmarks/cycles.py [MODEL.onnx ...] [--input-shape NAME=1,3,224,224] [--quantized-io] [--optimize 0|1|2|3]
                                [--tpu-mlir BIN] [--keep FOLDER]

Without models it takes the generated ones of `networks.py`, some in several batches and with 8-bit inputs and outputs.
Ranges come from a few samples of seeded noise: cycles do not depend on them. The estimate is
`tpu_deploy.codegen.timing`, whose command costs tests/referee/test_timing.py holds against the vendor's own cost
functions where `tpu-deploy chip-model install` has fetched them.

`bound` is the larger of all products at the full rate of the convolution unit, and coefficients, inputs and outputs
moved once at the full rate of the DMA engine. `local` is the peak of local memory over what is alive at once. `deploy`
is the time from the model to the file without calibration, verification and schedules found before.

BIN is the folder of TPU-MLIR's commands (model_transform.py, run_calibration.py, model_deploy.py). It compiles the same
models with its default options; its bmodels are timed by the same estimate. Below the table stand the geometric mean of
the ratios and the largest.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from networks import NETWORKS

import tpu_deploy
from tpu_deploy.cli.options import input_shapes
from tpu_deploy.codegen.bmodel import read_bmodel
from tpu_deploy.codegen.timing import estimate
from tpu_deploy.pipeline.source import InputShapes, Source, canonical_network, input_specs

SAMPLES = 4
BATCHES = {"resnet50": (1, 4, 16), "mobilenetv2": (1, 4), "smallcnn": (1,)}
"""The batches of the generated networks; with batch 1 they are also measured with 8-bit inputs and outputs."""
COLUMNS = ("cycles", "TIU busy", "DMA busy", "bound", "x bound", "local", "deploy s")
PEER_COLUMNS = ("TPU-MLIR", "ratio", "deploy s")

Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A model to be measured."""

    name: str
    path: Path
    shapes: InputShapes | None
    quantized_io: bool


def generated(folder: Path) -> Iterator[Case]:
    """The cases that are measured when no model is given, their models written to the folder."""
    for name, batches in BATCHES.items():
        for batch in batches:
            path = folder / f"{name}_batch{batch}.onnx"
            onnx.save(NETWORKS[name](batch), path)
            label = name if batch == 1 else f"{name}, batch {batch}"
            yield Case(label, path, None, False)
            if batch == 1:
                yield Case(f"{label}, 8-bit i/o", path, None, True)


def noise(case: Case) -> list[Feeds]:
    """Samples of seeded noise."""
    specs = input_specs(canonical_network(Source.of(case.path), case.shapes))
    random = np.random.default_rng(0)
    shapes = {name: [1 if size is None else size for size in spec.shape] for name, spec in specs.items()}
    return [{name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}] * SAMPLES


def measure(case: Case, samples: list[Feeds], optimize: int, output: Path) -> tuple[int, list[str]]:
    """Our cycles, and a row of figures."""
    table = tpu_deploy.calibrate(case.path, samples, input_shapes=case.shapes)
    start = time.perf_counter()
    built = tpu_deploy.deploy(
        case.path,
        calibration=table,
        output=output,
        input_shapes=case.shapes,
        verify=False,
        quantized_io=case.quantized_io,
        optimize=optimize,
        cache=False,
    )
    seconds = time.perf_counter() - start
    timing, memory = built.timing, built.memory
    bound = sum(stage.bound.cycles for stage in built.profile.stages)
    figures = [f"{figure:,}" for figure in (timing.cycles, timing.tiu_busy, timing.gdma_busy, bound)]
    ratios = [timing.cycles / bound, memory.local_peak / memory.local_lower_bound, seconds]
    return timing.cycles, [*figures, *(f"{ratio:.2f}" for ratio in ratios)]


def measure_peer(case: Case, samples: list[Feeds], commands: Path, folder: Path) -> tuple[int, float]:
    """TPU-MLIR's cycles, and the seconds its model_deploy takes."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "samples"
    data.mkdir(exist_ok=True)
    np.savez(data / "0.npz", **samples[0])  # type: ignore[arg-type]
    shapes = "[" + ",".join("[" + ",".join(map(str, array.shape)) + "]" for array in samples[0].values()) + "]"

    def run(command: str, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["PATH"] = f"{commands.resolve()}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            [commands.resolve() / command, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{case.name}: {command} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")

    model = ("--model_name", "model", "--model_def", str(case.path.resolve()))
    run("model_transform.py", *model, "--input_shapes", shapes, "--mlir", "model.mlir")
    run("run_calibration.py", "model.mlir", "--dataset", "samples", "--input_num", "1", "-o", "table")
    quantization = ("--quantize", "INT8", "--calibration_table", "table", "--processor", "bm1684x")
    types = ("--quant_input", "--quant_output") if case.quantized_io else ()
    start = time.perf_counter()
    run("model_deploy.py", "--mlir", "model.mlir", *quantization, "--model", "model.bmodel", *types)
    seconds = time.perf_counter() - start
    return estimate(read_bmodel(folder / "model.bmodel")).cycles, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--input-shape", action="append")
    parser.add_argument("--quantized-io", action="store_true", help="8-bit inputs and outputs of the models given")
    parser.add_argument("--optimize", type=int, default=1, choices=(0, 1, 2, 3), help="how long to search")
    parser.add_argument("--tpu-mlir", type=Path, metavar="BIN", help="the folder of TPU-MLIR's commands")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where bmodels (and generated models) stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        shapes = input_shapes(given.input_shape)
        models = [Case(path.stem, path, shapes, given.quantized_io) for path in given.models]
        columns = COLUMNS + (PEER_COLUMNS if given.tpu_mlir else ())
        print(" ".join([f"{'model':24}", *(f"{column:>11}" for column in columns)]))
        ratios = []
        for number, case in enumerate(models or generated(folder)):
            samples = noise(case)
            cycles, row = measure(case, samples, given.optimize, folder / f"{number}_{case.path.stem}.bmodel")
            if given.tpu_mlir:
                theirs, seconds = measure_peer(case, samples, given.tpu_mlir, folder / f"{number}_tpu_mlir")
                ratios.append(cycles / theirs)
                row += [f"{theirs:,}", f"{ratios[-1]:.3f}", f"{seconds:.2f}"]
            print(" ".join([f"{case.name:24}", *(f"{figure:>11}" for figure in row)]), flush=True)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"ratio: geometric mean {mean:.3f}, largest {max(ratios):.3f}")


if __name__ == "__main__":
    main()
