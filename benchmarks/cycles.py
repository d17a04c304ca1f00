"""Estimated cycles of INT8 bmodels beside what no plan can go below, and how long compiling them takes.

    python benchmarks/cycles.py [MODEL.onnx ...] [--input-shape NAME=1,3,224,224] [--quantized-io] [--keep FOLDER]

Without models it takes the generated ones of `networks.py`. Ranges come from a few samples of seeded noise: cycles do
not depend on them. The estimate is `tpu_deploy.codegen.timing`, whose command costs tests/referee/test_timing.py holds
against the vendor's own cost functions where `tpu-deploy chip-model install` has fetched them.

The bounds: all products at the full rate of the convolution unit, and coefficients, inputs and outputs moved once at
the full rate of the DMA engine. `deploy` is the time from the model to the file without calibration and verification.
"""

import argparse
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from networks import NETWORKS

import tpu_deploy
from tpu_deploy.chips import Chip, chip
from tpu_deploy.cli.options import input_shapes
from tpu_deploy.codegen.bmodel import Stage
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.pipeline.source import InputShapes, Source, canonical_network, input_specs
from tpu_deploy.runtime.chip_model_install import available

SAMPLES = 4
COLUMNS = ("cycles", "TIU busy", "DMA busy", "DMA bytes", "products bound", "traffic bound", "bmodel bytes", "deploy s")


def noise(network: Network) -> list[dict[str, npt.NDArray[Any]]]:
    random = np.random.default_rng(0)
    shapes = {name: [1 if size is None else size for size in spec.shape] for name, spec in input_specs(network).items()}
    return [{name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}] * SAMPLES


def products(network: Network) -> int:
    """Multiplications of convolutions and matrix products."""
    total = 0
    for op in network.operations:
        if op.name in ("tpu.Conv2D", "tpu.MatMul"):
            right = shape_of(op.operands[1])
            total += prod(shape_of(op.results[0])) * (prod(right[1:]) if op.name == "tpu.Conv2D" else right[0])
    return total


def traffic(stage: Stage) -> int:
    """Bytes that must cross to or from global memory: coefficients, inputs, outputs."""
    tensors = sum(prod(t.shape) * np.dtype(t.dtype).itemsize for t in (*stage.inputs, *stage.outputs))
    return tensors + (len(stage.coefficients.data) if stage.coefficients else 0)


def measure(path: Path, shapes: InputShapes | None, target: Chip, quantized_io: bool, output: Path) -> list[str]:
    network = canonical_network(Source.of(path), shapes)
    table = tpu_deploy.calibrate(path, noise(network), input_shapes=shapes)
    start = time.perf_counter()
    built = tpu_deploy.deploy(
        path,
        target.name,
        calibration=table,
        output=output,
        input_shapes=shapes,
        verify=False,
        quantized_io=quantized_io,
    )
    seconds = time.perf_counter() - start
    stage, timing = built.bmodel.nets[0].stages[0], built.timing
    figures = [
        timing.cycles,
        timing.tiu_busy,
        timing.gdma_busy,
        sum(timing.dma_bytes.values()),
        products(built.network) // target.macs_per_cycle_i8,
        int(traffic(stage) / target.dma_bytes_per_cycle),
        output.stat().st_size,
    ]
    return [*(f"{figure:,}" for figure in figures), f"{seconds:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--input-shape", action="append")
    parser.add_argument("--batch", type=int, default=1, help="of the generated networks")
    parser.add_argument("--chip", default="bm1684x")
    parser.add_argument("--quantized-io", action="store_true", help="8-bit inputs and outputs")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where bmodels (and generated models) stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        models = list(given.models)
        for name in () if models else NETWORKS:
            models.append(folder / f"{name}.onnx")
            onnx.save(NETWORKS[name](given.batch), models[-1])
        print(" ".join([f"{'model':24}", *(f"{column:>14}" for column in COLUMNS)]))
        for path in models:
            output = folder / f"{path.stem}.bmodel"
            row = measure(path, input_shapes(given.input_shape), chip(given.chip), given.quantized_io, output)
            print(" ".join([f"{path.stem:24}", *(f"{figure:>14}" for figure in row)]), flush=True)
    if available():
        print("The vendor's cost functions are installed: tests/referee/test_timing.py holds ours against them.")


if __name__ == "__main__":
    main()
