"""A session whose outputs are a model's tensors of interest, left in the layout they were computed in.

onnxruntime computes convolutions in a blocked channel layout and inserts a reordering copy before each output. Ranges
and histograms do not care about order, so those copies are cut out of the optimized graph: they cost more than all
reductions together. The first feed is run both ways: that tells how many channels a block has, and any difference in
value falls back to plain outputs.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from tpu_deploy.calibration.network import Network, first_line
from tpu_deploy.calibration.samples import Feed
from tpu_deploy.errors import BadInput

Array = npt.NDArray[Any]

BLOCKED_DOMAIN, BLOCKS = "com.microsoft.nchwc", (16, 8)
"""Channels come in blocks of 8 or 16, so a multiple of 16 is not padded. Source: onnxruntime, MlasNchwcGetBlockSize."""

LARGEST_OPTIMIZED = 1 << 30
"""Bytes up to which a model is optimized through a temporary file; above, reading it back costs more than it saves."""

REAL_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        error
        for error in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)


@dataclass(frozen=True)
class Activations:
    """A single-threaded session whose outputs, in order, are the values of `tensors`, and their `example` on one feed.

    The channels of the tensors in `blocks` come in blocks of so many, where the shape says otherwise: (batch, channels
    / block, positions, block); the example has them in plain order. Without tensors there is no session. `is_optimized`
    says that `model`, its serialized form, is to be run as it is.
    """

    session: onnxruntime.InferenceSession | None
    tensors: tuple[str, ...]
    example: Sequence[Array]
    model: bytes
    is_optimized: bool
    blocks: Mapping[str, int] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Array]:
        """The example by tensor."""
        return dict(zip(self.tensors, self.example, strict=True))

    @property
    def nbytes(self) -> int:
        """The size of the example."""
        return sum(array.nbytes for array in self.example)

    def session_of(self, threads: int) -> onnxruntime.InferenceSession | None:
        """The session, or one like it on more threads."""
        if self.session is None or threads == 1:
            return self.session
        return _session(self.model, threads, optimize=not self.is_optimized)


def observe(network: Network, tensors: Sequence[str], first: Feed) -> Activations:
    """What computes those of `tensors` that are computed and real numbers, checked on the feed `first`.

    Cost: two sessions and two runs. Raises BadInput when none are, nor inputs that are real; or onnxruntime refuses the
    model or the feed.
    """
    inputs = [name for name in tensors if name in first and first[name].dtype.kind == "f"]
    tensors = [name for name in tensors if name not in first]
    if not tensors:
        if not inputs:
            raise BadInput("none of the tensors to calibrate holds real numbers; there is no range to find")
        return Activations(None, (), (), b"", False)
    _set_outputs(network.proto, tensors)
    model = _serialized(network.proto)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "optimized.onnx") if len(model) < LARGEST_OPTIMIZED else None
        plain = _session(model, 1, save_to=saved)
        real = tuple(value.name for value in plain.get_outputs() if value.type in REAL_TYPES)
        if len(real) < len(tensors):
            del plain
            return observe(network, [*inputs, *real], first)
        example = _run(plain, first)
        found = _without_reordering(onnx.load(saved)) if saved and saved.exists() else None
    if found is not None:
        blocked, indices = found
        equivalent = _equivalent(blocked, first, example, indices)
        if equivalent is not None:
            session, block = equivalent
            blocks = {tensors[index]: block for index in indices}
            return Activations(session, tuple(tensors), example, blocked, True, blocks)
    return Activations(plain, tuple(tensors), example, model, False)


def _set_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    del proto.graph.output[:]
    for name in names:
        proto.graph.output.add(name=name)


def _serialized(proto: onnx.ModelProto) -> bytes:
    try:
        return bytes(proto.SerializeToString())
    except Exception as error:  # protobuf names no public type for "larger than 2 GB"
        raise BadInput(f"the model cannot be serialized for onnxruntime ({first_line(error)})") from error


def _session(
    model: bytes, threads: int, *, optimize: bool = True, save_to: Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise BadInput(f"onnxruntime refuses the model: {first_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, feed: Feed) -> list[Array]:
    try:
        return list(session.run(None, dict(feed)))
    except RUNTIME_ERRORS as error:
        raise BadInput(f"onnxruntime cannot run the model on the first sample: {first_line(error)}") from error


def _without_reordering(proto: onnx.ModelProto) -> tuple[bytes, list[int]] | None:
    """The optimized model with blocked values in place of reordered outputs, and which outputs these are.

    None when there is nothing to gain.
    """
    graph = proto.graph
    blocked: dict[str, str] = {}
    for node in graph.node:
        if node.domain == BLOCKED_DOMAIN and node.op_type == "ReorderOutput":
            channels = next(attribute.i for attribute in node.attribute if attribute.name == "channels")
            if channels % max(BLOCKS) == 0 and node.input[0] not in blocked.values():
                blocked[node.output[0]] = node.input[0]
    indices = [index for index, value in enumerate(graph.output) if value.name in blocked]
    if not indices:
        return None
    names = [blocked.get(value.name, value.name) for value in graph.output]
    _set_outputs(proto, names)
    read = {name for node in graph.node for name in node.input}.union(names)
    for node in [node for node in graph.node if node.op_type == "ReorderOutput" and node.output[0] not in read]:
        graph.node.remove(node)
    return _serialized(proto), indices


def _equivalent(
    model: bytes, feed: Feed, expected: Sequence[Array], blocked: Sequence[int]
) -> tuple[onnxruntime.InferenceSession, int] | None:
    """A session of `model`, and the size of a block with which its outputs `blocked` are the `expected` ones.

    None when there is no such size, or another output differs in any bit.
    """
    try:
        session = _session(model, 1, optimize=False)
        values = _run(session, feed)
    except BadInput:
        return None
    pairs = list(zip(values, expected, strict=True))
    if not all(np.array_equal(*pair) for index, pair in enumerate(pairs) if index not in set(blocked)):
        return None
    for block in BLOCKS:
        if all(np.array_equal(in_plain_order(pairs[index][0], block), pairs[index][1]) for index in blocked):
            return session, block
    return None


def in_plain_order(values: Array, block: int) -> Array:
    """A tensor whose channels come in blocks, in the order its shape (batch, channels, ...) says."""
    batch, channels = values.shape[:2]
    groups = values.reshape(batch, channels // block, -1, block)
    return groups.transpose(0, 1, 3, 2).reshape(values.shape)
