"""onnxruntime as the float judge: the user's own model, and the canonical TOP network exported back to ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from tpu_deploy.calibration import Feed
from tpu_deploy.errors import CheckFailed
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.pipeline.source import Source

Array = npt.NDArray[Any]

HELD_BYTES = 1 << 28
"""Bytes of values that are held at once; more than that are computed in several runs."""


def session_of(model: Path | onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """An onnxruntime session of a model, as the float judge runs it; its threads (0: one a core) sleep between."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _with_outputs(model: Path | onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.load(model) if isinstance(model, Path) else model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


class OriginalModel:
    """The user's ONNX model as it is, run at any batch size."""

    def __init__(self, source: Source, values: Iterable[str] | None = None) -> None:
        """With `values` the model's own tensors of these names are computed in place of its outputs."""
        self._label = source.label
        try:
            self._session = session_of(source.given if values is None else _with_outputs(source.given, values))
        except Exception as error:  # onnxruntime raises classes of its own making, one for each status code
            raise CheckFailed(f"{self._label}: onnxruntime cannot load the model ({_first_line(error)})") from error
        self.names = [value.name for value in self._session.get_outputs()]

    def run(self, feed: Feed) -> dict[str, Array]:
        """Outputs by name for a feed of any batch; a batch the model fixes otherwise is cut into or filled up."""
        fixed = {value.shape[0] for value in self._session.get_inputs() if value.shape}
        rows = {array.shape[0] for array in feed.values() if array.ndim}
        try:
            if len(fixed) != 1 or len(rows) != 1 or not isinstance(size := fixed.pop(), int) or size in rows:
                return dict(zip(self.names, self._session.run(None, dict(feed)), strict=True))
            return self._run_in_parts(feed, rows.pop(), size)
        except Exception as error:
            raise CheckFailed(f"{self._label}: onnxruntime cannot run the model ({_first_line(error)})") from error

    def _run_in_parts(self, feed: Feed, rows: int, size: int) -> dict[str, Array]:
        parts = []
        for start in range(0, rows, size):
            index = np.minimum(np.arange(start, start + size), rows - 1)
            parts.append(self._session.run(None, {name: array[index] for name, array in feed.items()}))
        joined = [np.concatenate(arrays)[:rows] for arrays in zip(*parts, strict=True)]
        return dict(zip(self.names, joined, strict=True))


class FloatNetwork:
    """A canonical TOP network on onnxruntime: any of its values."""

    def __init__(self, network: Network, threads: int = 0) -> None:
        self._bytes = {name_of(v): 4 * int(np.prod(shape_of(v), dtype=np.int64)) for v in network.values()}
        self._inputs = {name_of(value) for value in network.inputs}
        self.outputs = {n: name_of(v) for n, v in zip(network.output_names, network.outputs, strict=True)}
        computed = [name for name in self._bytes if name not in self._inputs]
        self._session = session_of(export_onnx(network, computed), threads) if computed else None

    def values(self, feed: Feed) -> FloatValues:
        """All values of the network for one feed, computed when asked for."""
        return FloatValues(self._session, feed, {n: b for n, b in self._bytes.items() if n not in self._inputs})


class FloatValues:
    """Values by name; those asked for together should be near each other in the network."""

    def __init__(self, session: onnxruntime.InferenceSession | None, feed: Feed, sizes: Mapping[str, int]) -> None:
        self._session = session
        self._feed = feed
        self._parts: list[list[str]] = [[]]
        held = 0
        for name, size in sizes.items():
            if held + size > HELD_BYTES and self._parts[-1]:
                self._parts.append([])
                held = 0
            self._parts[-1].append(name)
            held += size
        self._part_of = {name: part for part in self._parts for name in part}
        self._held: dict[str, Array] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._feed or name in self._part_of

    def __getitem__(self, name: str) -> Array:
        if name in self._feed:
            return self._feed[name]
        if name not in self._held:
            part = self._part_of[name]
            assert self._session is not None
            self._held.clear()
            self._held = dict(zip(part, self._session.run(part, dict(self._feed)), strict=True))
        return self._held[name]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
