"""Quantizes to symmetric INT8 with TPU-MLIR's commands, which lie beside this interpreter, as `SETTINGS` says.

The outputs are those of its interpreter of the quantized network, which computes in integers what its bmodel computes.
Seconds include the start of three processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tpu_mlir  # noqa: F401, its import lets pymlir be found
from job import Feed, Quantized, serve

# isort: split
import pymlir

SETTINGS = {
    "kl (default)": ("--cali_method", "kl"),
    "max": ("--cali_method", "max"),
    "mse": ("--cali_method", "mse"),
    "percentile9999": ("--cali_method", "percentile9999"),
    "search_threshold": ("--search", "search_threshold", "--quantize_table", "qtable"),
}


def run(folder: Path, command: str, *arguments: str) -> None:
    """Runs one of TPU-MLIR's commands. Exits with the last line that a failing one printed."""
    commands = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([commands / command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")


def quantize(model: Path, feeds: list[Feed], setting: str, folder: Path) -> Quantized:
    (folder / "samples").mkdir()
    for number, feed in enumerate(feeds):
        np.savez(folder / "samples" / f"{number:06}.npz", **feed)  # type: ignore[arg-type]
    shapes = "[" + ",".join("[" + ",".join(map(str, array.shape)) + "]" for array in feeds[0].values()) + "]"
    given = ("--model_name", "model", "--model_def", str(model), "--input_shapes", shapes)
    run(folder, "model_transform.py", *given, "--mlir", "model.mlir")
    samples = ("--dataset", "samples", "--input_num", str(len(feeds)))
    run(folder, "run_calibration.py", "model.mlir", *samples, *SETTINGS[setting], "-o", "table")
    quantization = ("--quantize", "INT8", "--calibration_table", "table", "--processor", "bm1684x")
    run(folder, "model_deploy.py", "--mlir", "model.mlir", *quantization, "--model", "model.bmodel", "--debug")
    (quantized,) = folder.glob("*_int8_sym_tpu.mlir")
    os.chdir(folder)
    pymlir.set_mem_mode("value_mem")
    module = pymlir.module()
    module.load(quantized.name)

    def outputs(feed: Feed) -> list[np.ndarray]:
        for name, array in feed.items():
            module.set_tensor(name, array, array.shape)
        module.invoke()
        return [np.array(module.get_tensor(name)) for name in module.output_names]

    return Quantized(outputs, version("tpu_mlir"))


if __name__ == "__main__":
    serve(quantize)
