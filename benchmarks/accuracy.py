"""Accuracy of a classifier in INT8 beside float32, for every method and `auto`, on pictures and labels of an .npz.

    python benchmarks/accuracy.py MODEL.onnx --calibration CALIB.npz --test TEST.npz --mean 124 --scale 0.017
    python benchmarks/accuracy.py                       # the packaged demo network and images

Pictures are uint8 (N, H, W, C) or (N, C, H, W), named by --calibration-array and --test-array (`x`); they become
`(pixel - mean) * scale`. Labels are integers (N,) or, where several classes count, (N, K) filled up with -1, named by
--labels (`y`). The integer reference computes what the chip does, bit for bit. Printed are the share of right answers,
the share of answers equal to the float network's with its standard error, and the ratio of signal to noise of the
outputs in dB, pooled and as the mean over the samples.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

import tpu_deploy
import tpu_deploy.demo as packaged
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.source import Source, canonical_network
from tpu_deploy.pipeline.tables import statistics_path
from tpu_deploy.pipeline.tuned_tables import AUTO, CHOICES, plan_path
from tpu_deploy.quant import QuantizationPlan, make_plan
from tpu_deploy.runtime.reference import Reference

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Task:
    """A model, its calibration and test inputs (N, ...) float32, and the classes that count as right, (N, K)."""

    model: Path
    calibration: Array
    test: Array
    labels: Array


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def inputs(path: Path, array: str, mean: list[float], scale: list[float]) -> Array:
    pictures = np.load(path)[array]
    if pictures.ndim == 4 and pictures.shape[1] not in (1, 3):
        pictures = pictures.transpose(0, 3, 1, 2)
    shape = (1, -1, *[1] * (pictures.ndim - 2))
    constants = (np.array(each, np.float32).reshape(shape) for each in (mean, scale))
    return np.ascontiguousarray((pictures.astype(np.float32) - next(constants)) * next(constants))


def task_of(given: argparse.Namespace) -> Task:
    if given.model is None:
        test, labels = packaged.test_images()
        calibration = np.concatenate([feed[packaged.INPUT_NAME] for feed in packaged.calibration_samples()])
        return Task(packaged.demo_model_path(), calibration, test, labels.reshape(-1, 1))
    calibration = inputs(given.calibration, given.calibration_array, given.mean, given.scale)[: given.samples]
    test = inputs(given.test, given.test_array, given.mean, given.scale)
    return Task(given.model, calibration, test, np.load(given.test)[given.labels].reshape(len(test), -1))


def float_outputs(task: Task) -> Array:
    session = onnxruntime.InferenceSession(str(task.model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: task.test[k : k + 1]})[0] for k in range(len(task.test))])


def integer_outputs(reference: Reference, name: str, test: Array, batch: int) -> Array:
    """What the reference makes of all test inputs, in batches of the one its network was made for."""
    found = []
    for start in range(0, len(test), batch):
        part = test[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
        outputs = reference.run({name: filled})
        found.append(next(iter(outputs.values()))[: len(part)])
    return np.concatenate(found)


def signal_to_noise(wanted: Array, found: Array) -> tuple[float, float]:
    """In dB: total signal over total noise, and the mean over the samples."""
    axes = tuple(range(1, wanted.ndim))
    signal = np.square(wanted, dtype=np.float64).sum(axes)
    noise = np.maximum(np.square(wanted - found, dtype=np.float64).sum(axes), 1e-30)
    return float(10 * np.log10(signal.sum() / noise.sum())), float(np.mean(10 * np.log10(signal / noise)))


def right(outputs: Array, labels: Array) -> Array:
    """Which samples' largest output is one of their classes."""
    answers = outputs.reshape(len(outputs), -1).argmax(1)
    return np.asarray((labels == answers[:, None]).any(1))


def report(method: str, found: Array, floats: Array, labels: Array) -> None:
    same = found.reshape(len(found), -1).argmax(1) == floats.reshape(len(floats), -1).argmax(1)
    share, error = same.mean(), float(np.sqrt(same.mean() * (1 - same.mean()) / len(same)))
    pooled, mean = signal_to_noise(floats, found)
    print(
        f"{method:12} {right(found, labels).mean():8.2%} right, {share:8.2%} ± {error:.2%} as float, "
        f"{pooled:5.1f} dB pooled, {mean:5.1f} dB a sample",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--calibration", type=Path, metavar="CALIB.npz")
    parser.add_argument("--calibration-array", default="x")
    parser.add_argument("--test", type=Path, metavar="TEST.npz")
    parser.add_argument("--test-array", default="x")
    parser.add_argument("--labels", default="y")
    parser.add_argument("--mean", type=numbers, default=[0.0])
    parser.add_argument("--scale", type=numbers, default=[1.0])
    parser.add_argument("--samples", type=int, default=100, help="calibration samples")
    parser.add_argument("--methods", nargs="+", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--batch", type=int, default=8, help="samples the reference takes at once")
    given = parser.parse_args()
    if given.model is not None and (given.calibration is None or given.test is None):
        parser.error("a model needs --calibration and --test")
    task = task_of(given)
    floats = float_outputs(task)
    name = onnxruntime.InferenceSession(task.model).get_inputs()[0].name
    network = canonical_network(Source.of(task.model), {name: (given.batch, *task.test.shape[1:])})
    print(f"{task.model.name}: {len(task.test)} samples, float {right(floats, task.labels).mean():.2%}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        feeds = ({name: sample[None]} for sample in task.calibration)
        tpu_deploy.calibrate(task.model, feeds, output=path)
        for method in given.methods:
            if method == AUTO:
                tuning = ({name: sample[None]} for sample in task.calibration)
                tpu_deploy.calibrate(task.model, tuning, method=AUTO, output=path)
                plan = QuantizationPlan.load(plan_path(path))
            else:
                table = tpu_deploy.calibrate(task.model, statistics=statistics_path(path), method=method)
                plan = make_plan(network, table)
            reference = Reference(lower_to_tpu(network, plan))
            report(method, integer_outputs(reference, name, task.test, given.batch), floats, task.labels)


if __name__ == "__main__":
    main()
