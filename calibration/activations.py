"""A session whose outputs are a model's tensors of interest, left in the layout they were computed in.

onnxruntime computes convolutions in a blocked channel layout and inserts a reordering copy before each output. Ranges
and histograms do not care about order, so those copies are cut out of the optimized graph: they cost more than all
reductions together. The first feed is run both ways, and any difference falls back to plain outputs.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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

BLOCKED_DOMAIN, LARGEST_BLOCK = "com.microsoft.nchwc", 16
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

    Without tensors there is no session. `is_optimized` says that `model`, its serialized form, is to be run as it is.
    """

    session: onnxruntime.InferenceSession | None
    tensors: tuple[str, ...]
    example: Sequence[Array]
    model: bytes
    is_optimized: bool

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


def observe(network: Network, tensors: Sequence[str], first: Feed, *, any_order: bool) -> Activations:
    """What computes those of `tensors` that are computed and real numbers, checked on the feed `first`.

    With `any_order` the elements of an output may come in any order. Cost: two sessions and two runs.
    Raises BadInput when none are, nor inputs that are real; or onnxruntime refuses the model or the feed.
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
        saved = Path(folder, "optimized.onnx") if any_order and len(model) < LARGEST_OPTIMIZED else None
        plain = _session(model, 1, save_to=saved)
        real = tuple(value.name for value in plain.get_outputs() if value.type in REAL_TYPES)
        if len(real) < len(tensors):
            del plain
            return observe(network, [*inputs, *real], first, any_order=any_order)
        example = _run(plain, first)
        blocked = _without_reordering(onnx.load(saved)) if saved and saved.exists() else None
    session = _equivalent(blocked, first, example) if blocked is not None else None
    if blocked is not None and session is not None:
        return Activations(session, tuple(tensors), example, blocked, True)
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


def _without_reordering(proto: onnx.ModelProto) -> bytes | None:
    """The optimized model with blocked values in place of reordered outputs; None when there is nothing to gain."""
    graph = proto.graph
    blocked: dict[str, str] = {}
    for node in graph.node:
        if node.domain == BLOCKED_DOMAIN and node.op_type == "ReorderOutput":
            channels = next(attribute.i for attribute in node.attribute if attribute.name == "channels")
            if channels % LARGEST_BLOCK == 0 and node.input[0] not in blocked.values():
                blocked[node.output[0]] = node.input[0]
    names = [blocked.get(value.name, value.name) for value in graph.output]
    if names == [value.name for value in graph.output]:
        return None
    _set_outputs(proto, names)
    read = {name for node in graph.node for name in node.input}.union(names)
    for node in [node for node in graph.node if node.op_type == "ReorderOutput" and node.output[0] not in read]:
        graph.node.remove(node)
    return _serialized(proto)


def _equivalent(model: bytes, feed: Feed, expected: Sequence[Array]) -> onnxruntime.InferenceSession | None:
    """A session of `model` if each output has the size, minimum and maximum of the `expected` one."""
    try:
        session = _session(model, 1, optimize=False)
        values = _run(session, feed)
    except BadInput:
        return None
    same = all(
        ours.size == theirs.size and np.array_equal(_range(ours), _range(theirs), equal_nan=True)
        for ours, theirs in zip(values, expected, strict=True)
    )
    return session if same else None


def _range(values: Array) -> tuple[Any, Any]:
    return (values.min(), values.max()) if values.size else (0, 0)
