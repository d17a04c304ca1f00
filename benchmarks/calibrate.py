"""Time, memory and stability of calibration, against plain onnxruntime inference of the same samples.

    python benchmarks/calibrate.py MODEL.onnx DATA.npz --mean 123.675,116.28,103.53 --scale 0.01712,0.01751,0.01743

DATA is an .npz or .npy whose array holds 8-bit pictures (N, H, W, C), or samples (N, ...) as the model takes them. The
samples are preprocessed before anything is timed. A round times, in turn, plain inference (a session made before, a
sample at a time, the same number of threads) and the whole calibration, from the model's bytes to the written
statistics and tables of all methods. Peak memory is of a process of its own that reads prepared samples from a file.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import onnxruntime

from tpu_deploy.calibration import CalibrationTable, Statistics, collect_statistics, open_samples
from tpu_deploy.calibration.histogram import BINS
from tpu_deploy.calibration.network import Network
from tpu_deploy.calibration.thresholds import METHODS, Magnitudes, SquaredError, Threshold, thresholds

Samples = npt.NDArray[np.float32]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def preprocessed(arguments: argparse.Namespace, count: int) -> Samples:
    """The first `count` samples, (count, C, H, W) when they are pictures."""
    loaded = np.load(arguments.data)
    array = loaded[arguments.array or loaded.files[0]] if arguments.data.suffix == ".npz" else loaded
    array = np.resize(array, (count, *array.shape[1:])) if len(array) < count else array[:count]
    if array.dtype != np.uint8:
        return array.astype(np.float32)
    scaled = (array.astype(np.float32) - np.float32(arguments.mean)) * np.float32(arguments.scale)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def calibrate(model: bytes, samples: Samples, folder: Path, threads: int) -> Statistics:
    """One whole calibration: statistics and the tables of all methods, written."""
    statistics = collect_statistics(model, samples, threads=threads)
    statistics.save(folder / "statistics.npz")
    for method in METHODS:
        CalibrationTable.of(statistics, method).write(folder / f"{method}.table")
    return statistics


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of `work`."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare_speed(model: bytes, samples: Samples, threads: int, rounds: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def infer() -> None:
        for sample in samples:
            session.run(None, {name: sample[None]})

    plain, ours, setup = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):
            plain.append(seconds(infer))
            ours.append(seconds(lambda: calibrate(model, samples, Path(folder), threads)))
            setup.append(seconds(lambda: collect_statistics(model, samples[:1], threads=threads)))
    for what, kind in (("wall", 0), ("processor", 1)):
        base, all_, once = (median(entry[kind] for entry in times[1:]) for times in (plain, ours, setup))
        ratios = [b[kind] / a[kind] for a, b in zip(plain[1:], ours[1:], strict=True)]
        print(
            f"{what:9}  inference {base:.3f} s  calibration {all_:.3f} s (of which set-up {once:.3f} s)  "
            f"ratio {median(ratios):.2f} (best {min(ratios):.2f})"
        )


def compare_memory(arguments: argparse.Namespace, counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "samples.npy")
        np.save(data, preprocessed(arguments, max(counts)))
        for count in counts:
            command = [sys.executable, __file__, str(arguments.model), str(data), "--child", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{count:4} samples: peak memory {done.stdout.strip()} MB")


def child(arguments: argparse.Namespace) -> None:
    """Calibrates in this process and prints its peak memory in MB."""
    inputs = Network.load(arguments.model).inputs()
    samples = open_samples(arguments.data, inputs, limit=arguments.child)
    statistics = collect_statistics(arguments.model, samples, threads=arguments.threads)
    for method in METHODS:
        thresholds(statistics, method)
    print(peak_memory())


def peak_memory() -> int:
    """The largest resident size of this process in MB.

    From Linux' own record where there is one: getrusage there also counts the process this one was started from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def compare_sampling(model: bytes, samples: Samples, others: Samples) -> None:
    full = collect_statistics(model, samples, values_per_tensor=0)
    print("threshold changes against full histograms of the same samples: mean, largest")
    for what, statistics in (
        ("sampled as by default", collect_statistics(model, samples)),
        ("other samples, full", collect_statistics(model, others, values_per_tensor=0)),
    ):
        for method in METHODS:
            expected, found = (vector(thresholds(each, method)) for each in (full, statistics))
            change = np.abs(found / expected - 1)
            print(f"  {what:22} {method:10} {change.mean():8.3%} {change.max():8.3%}", end="")
            if method == "mse":
                width = np.ldexp(1.0 / BINS, full.exponent)
                error = SquaredError.of(Magnitudes.of(full, width))
                limit = full.magnitude
                ours, best = (error.at((np.minimum(each, limit) / width)[:, None]) for each in (found, expected))
                increase = ours / np.maximum(best, 1e-30) - 1
                print(f"   squared error {increase.mean():+.3%} {increase.max():+.3%}", end="")
            print()


def vector(table: dict[str, Threshold]) -> npt.NDArray[np.float64]:
    return np.array([entry.threshold for entry in table.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--array", help="name of the array in an .npz (default: the first)")
    parser.add_argument("--mean", type=numbers, default=[0.0])
    parser.add_argument("--scale", type=numbers, default=[1.0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    model, samples = arguments.model.read_bytes(), preprocessed(arguments, 2 * arguments.samples)
    samples, others = samples[: arguments.samples], samples[arguments.samples :]
    compare_speed(model, samples, arguments.threads, arguments.rounds)
    compare_memory(arguments, [25, 100, 400])
    compare_sampling(model, samples, others)


if __name__ == "__main__":
    main()
