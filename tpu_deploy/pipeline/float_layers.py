"""Single layers of the float network on onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tpu_deploy.frontend import export_onnx
from tpu_deploy.frontend.export import IR_VERSION, OPSET
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.pipeline.float_model import session_of

Array = npt.NDArray[Any]


class FloatLayers:
    """The layers of a canonical TOP network on onnxruntime, each from the operands it is given."""

    def __init__(self, network: Network, threads: int = 0) -> None:
        self._threads = threads
        self._shapes = {name_of(value): shape_of(value) for value in network.values()}
        computed = [name for name in self._shapes if name not in {name_of(value) for value in network.inputs}]
        self._model = export_onnx(network, computed)
        self._makers = {name: node for node in self._model.graph.node for name in node.output}
        self._weights = {each.name: each for each in self._model.graph.initializer}
        self._sessions: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}

    def run(self, tensor: str, operands: Mapping[str, Array]) -> Array:
        """The float layer's result from real `operands` by the names of their tensors."""
        key = (tensor, *sorted(operands))
        if key not in self._sessions:
            self._sessions[key] = session_of(self._extract(tensor, list(operands)), self._threads)
        found: Array = self._sessions[key].run(None, dict(operands))[0]
        return found

    def _extract(self, tensor: str, operands: Sequence[str]) -> onnx.ModelProto:
        """The nodes that lead from `operands` to `tensor`, as a model."""
        nodes, weights, front = {}, {}, [tensor]
        while front:
            name = front.pop()
            if name in self._weights:
                weights[name] = self._weights[name]
            elif name and name not in operands:
                node = self._makers[name]
                if id(node) not in nodes:
                    nodes[id(node)] = node
                    front += node.input
        inside = [node for node in self._model.graph.node if id(node) in nodes]
        return one_result(inside, {name: self._shapes[name] for name in operands}, tensor, list(weights.values()))


def one_result(
    nodes: Sequence[onnx.NodeProto], operands: Mapping[str, Sequence[int]], result: str,
    weights: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:  # fmt: skip
    """A model of `nodes` from float32 `operands` (name to shape) to `result`."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in operands.items()]
    outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "layer", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
