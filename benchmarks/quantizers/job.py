"""What the scripts of this folder share: samples from one file, a tool that quantizes, outputs to another file.

    python with_TOOL.py MODEL.onnx SAMPLES.npz SETTING OUTPUTS.npz

Each runs in an interpreter and a process of its own, because the tools need versions that exclude each other, and
because the peak of a process's memory is told only once. SAMPLES.npz holds, for each input of the model, the arrays
`calibration.NAME` and `test.NAME` of shape (samples, *shape of the input). OUTPUTS.npz gets `output.0`, `output.1`, ...
of shape (test samples, *shape of the output) in the model's order, `seconds`, `cpu_seconds` and `peak` (bytes) of the
quantization without imports, and `version`. Scripts for other tools may run on Python 3.10; this file needs nothing but
numpy.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feed = dict[str, Array]
"""One sample: the array of each input."""


@dataclass(frozen=True)
class Quantized:
    """A quantized network: the outputs, in the model's order, of one sample; `threads` may call it at once."""

    run: Callable[[Feed], Sequence[Array]]
    version: str
    threads: int = 1


Quantize = Callable[[Path, "list[Feed]", str, Path], Quantized]
"""Model, calibration samples, setting and a folder to work in to a quantized network."""


def save_samples(path: Path, calibration: Sequence[Feed], test: Sequence[Feed]) -> None:
    """Writes SAMPLES.npz; all samples must have the shapes of the first."""
    splits = {"calibration": calibration, "test": test}
    arrays = {
        f"{split}.{name}": np.stack([f[name] for f in feeds]) for split, feeds in splits.items() for name in feeds[0]
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _samples(path: str, split: str) -> list[Feed]:
    with np.load(path) as file:
        arrays = {name.split(".", 1)[1]: file[name] for name in file.files if name.split(".", 1)[0] == split}
    return [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]


def cpu_seconds() -> float:
    """Processor time that this process and those it started have taken."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak() -> int:
    """The most memory, in bytes, that this process or one it started has held, on Linux.

    What `getrusage` says of a process itself would begin with the peak of the one that started it.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return max(int(status["VmHWM"].split()[0]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


def serve(quantize: Quantize) -> None:
    """Does the job that the command line states."""
    model, samples, setting, target = sys.argv[1:]
    feeds = _samples(samples, "calibration")
    with tempfile.TemporaryDirectory() as folder:
        start, start_cpu = time.perf_counter(), cpu_seconds()
        quantized = quantize(Path(model).resolve(), feeds, setting, Path(folder))
        figures = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": cpu_seconds() - start_cpu,
            "peak": peak(),
            "version": quantized.version,
        }
        with ThreadPoolExecutor(quantized.threads) as pool:
            outputs = list(pool.map(quantized.run, _samples(samples, "test")))
    arrays = {f"output.{number}": np.stack(rows) for number, rows in enumerate(zip(*outputs, strict=True))}
    np.savez(target, **arrays, **figures)  # type: ignore[arg-type]
