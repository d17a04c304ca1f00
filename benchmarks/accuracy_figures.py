"""How near a quantized network comes to the float one, and to what is right, on the same test samples."""

import math
from dataclasses import dataclass

import numpy as np
from accuracy_tasks import Array, Task


@dataclass(frozen=True)
class Value:
    """A figure and its standard error over the test samples, where it has one."""

    mean: float
    error: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.error is None else f"{self.mean:.2f} ± {self.error:.2f}"


@dataclass(frozen=True)
class Figures:
    """Agreement with float in %, score, its change from float, and SQNR in dB.

    There is no agreement where predictions are no classes, no score where the task has none.
    """

    agreement: Value | None
    score: Value | None
    change: Value | None
    sqnr: float


@dataclass(frozen=True)
class Answers:
    """What a network makes of all test samples: each output, the predictions, and their score.

    `samples` are the scores of the samples, None where the score is not their mean.
    """

    outputs: list[Array]
    predictions: Array
    score: float | None
    samples: Array | None = None

    def scored(self) -> Value | None:
        """The score with its standard error."""
        if self.score is None:
            return None
        return Value(self.score) if self.samples is None else mean(self.samples)


def answers(task: Task, outputs: list[Array]) -> Answers:
    """Scores outputs of shape (samples, *shape for batch 1)."""
    rows = zip(*outputs, strict=True)
    predictions = np.concatenate([task.reduce(list(row)) for row in rows])
    if task.score is None:
        return Answers(outputs, predictions, None)
    labels = task.labels()
    score = float(task.score(predictions, labels))
    if not len(predictions) == len(labels) == len(outputs[0]):
        return Answers(outputs, predictions, score)
    each = np.array([task.score(predictions[k : k + 1], labels[k : k + 1]) for k in range(len(labels))])
    return Answers(outputs, predictions, score, each if math.isclose(each.mean(), score) else None)


def mean(samples: Array) -> Value:
    """The mean over samples, with its standard error."""
    error = samples.std(ddof=1) / math.sqrt(len(samples)) if len(samples) > 1 else None
    return Value(float(samples.mean()), None if error is None else float(error))


def compare(found: Answers, floats: Answers) -> Figures:
    """The figures of a quantized network beside the float one."""
    agreement = None
    if np.issubdtype(floats.predictions.dtype, np.integer):
        same = found.predictions == floats.predictions
        agreement = mean(100.0 * same.reshape(len(same), -1).all(1))
    change = None
    if found.samples is not None and floats.samples is not None:
        change = mean(found.samples - floats.samples)
    elif found.score is not None and floats.score is not None:
        change = Value(found.score - floats.score)
    return Figures(agreement, found.scored(), change, pooled_sqnr(floats.outputs, found.outputs))


def pooled_sqnr(wanted: list[Array], found: list[Array]) -> float:
    """Total signal over total noise of all samples in dB; of several outputs the lowest."""
    ratios = []
    for exact, ours in zip(wanted, found, strict=True):
        signal = np.square(exact, dtype=np.float64).sum()
        noise = np.square(exact.astype(np.float64) - ours).sum()
        ratios.append(10 * math.log10(max(signal, 1e-30) / max(noise, signal * 1e-12, 1e-30)))
    return min(ratios)
