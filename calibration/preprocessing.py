"""Mistakes of preprocessing, suspected where samples contradict what the model's first layers were trained on.

A trained network remembers its inputs: batch normalization keeps mean and variance of what its convolution answered,
and where that is folded away, bias and weights still show size and mean of the inputs. Only pictures are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from tpu_deploy.calibration.activations import RUNTIME_ERRORS
from tpu_deploy.calibration.advice import Suspicion
from tpu_deploy.calibration.feeds import Feed

Array = npt.NDArray[Any]

PASSED = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Pad", "Sub", "Transpose"})
"""What may stand between the input and the first convolution."""

LOOKED_AT = 16
"""Samples that the first convolution is run on."""

DEVIATIONS = 10 ** (1 / 2)
"""How many times its training deviation a normalized response may have, up or down: pictures vary less than that."""

LARGEST_RESPONSE, SMALLEST_RESPONSE = 10.0, 0.02
"""Of a convolution whose normalization is folded: its deviation in biases. That of sound models was 0.2 to 2."""

SHIFT = 2.0
"""Deviations by which the mean response may differ from training, root mean square over the channels."""

MEAN_ERRORS, MEAN_DEVIATIONS = 6.0, 2.4
"""From how many standard errors, and deviations of the input, on its mean contradicts the biases of a convolution."""

LEAST_ALIKE, UNLIKER = 0.5, 0.75
"""How alike third neighbours must be, and how much less unlike than nearer ones, to be of one channel."""

CERTAINTY = 3.5
"""Standard errors by which another order of colours must make the network more certain."""


@dataclass(frozen=True)
class FirstConvolution:
    """What reads the input: a model of it alone, its weights and bias, and mean and variance it had in training.

    `trained` is None where no batch normalization follows.
    """

    model: onnx.ModelProto
    weights: Array
    bias: Array | None
    trained: tuple[Array, Array] | None


@dataclass(frozen=True)
class Pictures:
    """Samples of a model's only input, each (rows, channels, height, width) with 1 or 3 channels."""

    name: str
    arrays: tuple[Array, ...]

    @classmethod
    def of(cls, feeds: Sequence[Feed]) -> Pictures | None:
        """The pictures that the feeds are; None when they are something else."""
        if not feeds or len(feeds[0]) != 1:
            return None
        name = next(iter(feeds[0]))
        arrays = tuple(feed[name] for feed in feeds)
        fits = all(
            a.ndim == 4 and a.shape[1] in (1, 3) and min(a.shape[2:]) > 3 and a.dtype.kind == "f" for a in arrays
        )
        return cls(name, arrays) if fits else None

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.arrays[0].shape[1])

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(float(a.min()) for a in self.arrays), max(float(a.max()) for a in self.arrays)

    def by_channel(self) -> Array:
        """(channels, values of all pictures)."""
        return np.concatenate([a.transpose(1, 0, 2, 3).reshape(self.channels, -1) for a in self.arrays], axis=1)


def suspicions(model: onnx.ModelProto, feeds: Sequence[Feed]) -> tuple[Suspicion, ...]:
    """The mistake that the samples `feeds` of a model look like; none where nothing contradicts, or weights lie apart.

    Whoever is wrong about the layout or the size of values is told that alone. Cost: runs of the first convolution,
    and for colour pictures of the whole model, on a few samples.
    """
    pictures = Pictures.of(feeds)
    if pictures is None or any(uses_external_data(tensor) for tensor in model.graph.initializer):
        return ()
    found = _layout(pictures)
    if found is None:
        first = first_convolution(model, pictures.name)
        response = None if first is None else _response(first, pictures)
        found = _scale(first, response, pictures) or _mean(first, response, pictures) or _colours(model, pictures)
    return () if found is None else (found,)


def first_convolution(model: onnx.ModelProto, name: str) -> FirstConvolution | None:
    """The convolution that reads input `name`, at most after element-wise arithmetic; None when there is none."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    reached = {name}
    for node in model.graph.node:
        if not node.input or node.input[0] not in reached:
            continue
        if node.op_type in PASSED:
            reached.add(node.output[0])
        elif node.op_type == "Conv" and all(each in constants for each in node.input[1:]):
            arrays = [numpy_helper.to_array(constants[each]).astype(np.float64) for each in node.input[1:]]
            readers = [each for each in model.graph.node if each.input and each.input[0] == node.output[0]]
            normal = [each for each in readers if each.op_type == "BatchNormalization"]
            trained = None
            if normal and all(each in constants for each in normal[0].input[3:5]):
                mean, variance = (numpy_helper.to_array(constants[each]) for each in normal[0].input[3:5])
                trained = mean.astype(np.float64), variance.astype(np.float64)
            part = _part(model, node.output[0])
            return FirstConvolution(part, arrays[0], arrays[1] if len(arrays) > 1 else None, trained)
    return None


def _part(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The model of what `output` depends on, and nothing else."""
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "first"
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.input.extend(value for value in model.graph.input if value.name in needed)
    part.graph.output.add(name=output)
    return part


@dataclass(frozen=True)
class Response:
    """What the first convolution answers to the sample in the middle: `mean` and `deviation` of each channel."""

    mean: Array
    deviation: Array


def _response(first: FirstConvolution, pictures: Pictures) -> Response | None:
    """The answers to a few samples, of which one that is unlike the others counts no more; None when it cannot run."""
    try:
        run = Runner(first.model, pictures.name)
        answers = [run(array) for array in pictures.arrays[:: -(-len(pictures.arrays) // LOOKED_AT)]]
    except RUNTIME_ERRORS:
        return None
    samples = [a.transpose(1, 0, 2, 3).reshape(a.shape[1], -1).astype(np.float64) for a in answers]
    mean = np.median([each.mean(axis=1) for each in samples], axis=0)
    squares = np.median([np.square(each - mean[:, None]).mean(axis=1) for each in samples], axis=0)
    return Response(mean, np.sqrt(squares))


class Runner:
    """The first output of a model for an array of its only input; a batch the model fixes is filled up."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._name = name
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        batch = self._session.get_inputs()[0].shape[0]
        self._batch = batch if isinstance(batch, int) else 0

    def __call__(self, array: Array) -> Array:
        """The output for the rows of `array`."""
        rows = len(array)
        if self._batch > rows:
            array = np.concatenate([array] + [array[-1:]] * (self._batch - rows))
        found: Array = self._session.run(None, {self._name: array})[0]
        return found[:rows]


def _layout(pictures: Pictures) -> Suspicion | None:
    """Channels last in an array of channels first: the third neighbour is more alike than the next one."""
    if pictures.channels != 3:
        return None
    products, powers = np.zeros(3), 0.0
    for array in pictures.arrays:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        rows = rows - rows.mean(axis=1, keepdims=True)
        products += [float((rows[:, :-lag] * rows[:, lag:]).mean()) for lag in (1, 2, 3)]
        powers += float(np.square(rows).mean())
    next_one, second, third = products / max(powers, 1e-30)
    if third < LEAST_ALIKE or 1 - third > UNLIKER * (1 - max(next_one, second)):
        return None
    return Suspicion(
        "layout",
        f"every third value of a row is alike ({third:.2f}, neighbours {next_one:.2f}), as if the channels came last: "
        "transpose the samples from (height, width, channel) to (channel, height, width)",
    )


def _scale(first: FirstConvolution | None, response: Response | None, pictures: Pictures) -> Suspicion | None:
    """Values far too large or too small for the first convolution."""
    if first is None or response is None:
        return None
    deviation = response.deviation
    if first.trained is not None:
        variance = first.trained[1]
        sound = variance > 1e-6 * np.median(variance)
        if not sound.any():
            return None
        times = math.exp(float(np.median(np.log(np.maximum(deviation[sound], 1e-30) / np.sqrt(variance[sound])))))
        told = f"the first convolution varies {times:.2g} times as much as in training"
        too_large, too_small = times > DEVIATIONS, times < 1 / DEVIATIONS
    elif first.bias is not None and np.any(first.bias):
        times = float(np.median(deviation) / np.sqrt(np.square(first.bias).mean()))
        told = f"the first convolution varies by {times:.2g} times its biases (usual is 0.2 to 2)"
        too_large, too_small = times > LARGEST_RESPONSE, times < SMALLEST_RESPONSE
    else:
        return None
    low, high = pictures.range
    if too_large:
        raw = low >= 0 and 128 < high <= 255
        remedy = "these are raw pixels: give --mean and --scale" if raw else "check --scale"
        return Suspicion("scale", f"inputs from {low:.3g} to {high:.3g} are too large: {told}; {remedy}")
    if too_small:
        remedy = "check --scale: is it applied twice, or are 0 to 1 given in place of normalized values?"
        return Suspicion("scale", f"inputs from {low:.3g} to {high:.3g} are too small: {told}; {remedy}")
    return None


def _mean(first: FirstConvolution | None, response: Response | None, pictures: Pictures) -> Suspicion | None:
    """Values of about the right size around another mean than in training."""
    low, high = pictures.range
    told = f"inputs lie between {low:.3g} and {high:.3g}"
    if first is not None and response is not None and _contradicts(first, response, pictures):
        return Suspicion("mean", f"{told}, around another mean than in training; check --mean")
    one_sided = 0 <= low < 0.05 * high and 1.05 < high < 100
    if one_sided and pictures.channels == 3 and len(pictures.arrays) > 3:
        return Suspicion("mean", f"{told}: never negative, but neither 0 to 1 nor 0 to 255; is --mean missing?")
    return None


def _contradicts(first: FirstConvolution, response: Response, pictures: Pictures) -> bool:
    """Whether the mean of the inputs is not that of training."""
    if first.trained is not None:
        mean, variance = first.trained
        sound = variance > 1e-6 * np.median(variance)
        shift = (response.mean - mean)[sound] / np.sqrt(variance[sound])
        return bool(sound.any() and math.sqrt(float(np.square(shift).mean())) > SHIFT)
    channels = pictures.channels
    if first.bias is None or first.weights.shape[1] != channels or len(first.bias) < 3 * (channels + 1):
        return False
    gains = np.column_stack([first.weights.sum(axis=(2, 3)), np.ones(len(first.bias))])
    solution, _, rank, _ = np.linalg.lstsq(gains, first.bias, rcond=None)
    if rank < channels + 1:
        return False
    rest = first.bias - gains @ solution
    noise = float(rest @ rest) / (len(first.bias) - channels - 1)
    errors = np.sqrt(noise * np.diag(np.linalg.inv(gains.T @ gains)))[:channels]
    values = pictures.by_channel()
    apart = np.abs(values.mean(axis=1) + solution[:channels])
    deviations = apart / np.maximum(values.std(axis=1), 1e-30)
    return bool((apart > MEAN_ERRORS * errors).all() and (deviations > MEAN_DEVIATIONS).all())


def _colours(model: onnx.ModelProto, pictures: Pictures) -> Suspicion | None:
    """Red and blue exchanged: a classifier is surer of its answers the other way round, sample by sample."""
    if pictures.channels != 3 or _is_gray(pictures):
        return None
    gains: list[float] = []
    try:
        run = Runner(model, pictures.name)
        for array in pictures.arrays:
            answers = [run(np.ascontiguousarray(each)) for each in (array, array[:, ::-1])]
            if answers[0].ndim != 2 or answers[0].shape[1] < 3:
                return None
            gains += (_certainty(answers[1]) - _certainty(answers[0])).tolist()
            if len(gains) in (LOOKED_AT, 2 * LOOKED_AT) and _errors_from_zero(gains) < 1:
                return None
    except RUNTIME_ERRORS:
        return None
    if len(gains) < LOOKED_AT or _errors_from_zero(gains) < CERTAINTY:
        return None
    return Suspicion(
        "colour order",
        f"the network is surer of its answers with red and blue exchanged ({_errors_from_zero(gains):.1f} standard "
        f"errors, {len(gains)} samples): check --pixel-format",
    )


def _is_gray(pictures: Pictures) -> bool:
    """Whether red and blue are the same but for mean and size."""
    red, _, blue = pictures.by_channel()[:, ::7].astype(np.float64)
    spread = red.std(), blue.std()
    return not min(spread) > 0 or float(np.corrcoef(red, blue)[0, 1]) > 0.995


def _certainty(answers: Array) -> Array:
    """How far the largest score stands out, in deviations of all, (rows,); the same for scores and their softmax."""
    scores = answers.astype(np.float64)
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        scores = np.log(np.maximum(scores, 1e-12))
    spread: Array = (scores.max(axis=1) - scores.mean(axis=1)) / np.maximum(scores.std(axis=1), 1e-30)
    return spread


def _errors_from_zero(values: Sequence[float]) -> float:
    """The mean in standard errors."""
    return float(np.mean(values)) / max(float(np.std(values, ddof=1)) / math.sqrt(len(values)), 1e-30)
