"""What products of the float network give, before their ReLU, on chosen rows of all samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network
from tpu_deploy.pipeline.float_model import session_of
from tpu_deploy.pipeline.tuning_rows import Rows, batch_of

Float32Array = npt.NDArray[np.float32]

HELD_BYTES = 1 << 26
"""Bytes of wanted results that are held at once: those of more products are computed in several runs."""


class FloatTargets:
    """Wanted results by operation name, asked for in the order of the network, once each."""

    def __init__(self, network: Network, feeds: Sequence[Feed], rows: Mapping[str, Rows]) -> None:
        self._feeds = feeds
        self._rows = rows
        self._model = export_onnx(network)
        self._parts = self._divided(len(feeds) * batch_of(network))
        self._held: dict[str, list[Float32Array]] = {}

    def _divided(self, images: int) -> list[list[str]]:
        """The operations, in runs of neighbours whose results are held together."""
        parts: list[list[str]] = [[]]
        held = 0
        for name, rows in self._rows.items():
            size = 4 * images * rows.per_image * rows.channels
            if parts[-1] and held + size > HELD_BYTES:
                parts.append([])
                held = 0
            parts[-1].append(name)
            held += size
        return parts

    def take(self, name: str) -> list[Float32Array]:
        """For each feed the wanted results (outputs of a group, rows, groups) of operation `name`."""
        if name not in self._held:
            self._held = self._compute(next(part for part in self._parts if name in part))
        return self._held.pop(name)

    def _compute(self, names: Sequence[str]) -> dict[str, list[Float32Array]]:
        tensors = self._before_relu(names)
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors)
        session = session_of(model)
        found: dict[str, list[Float32Array]] = {name: [] for name in names}
        for batch, feed in enumerate(self._feeds):
            results: list[npt.NDArray[Any]] = session.run(tensors, dict(feed))
            for name, result in zip(names, results, strict=True):
                found[name].append(self._rows[name].wanted(batch, result))
        return found

    def _before_relu(self, names: Sequence[str]) -> list[str]:
        """The tensors that hold the results of these operations before their ReLU."""
        makers = {tensor: node for node in self._model.graph.node for tensor in node.output}
        return [makers[name].input[0] if self._rows[name].ends_in_relu else name for name in names]
