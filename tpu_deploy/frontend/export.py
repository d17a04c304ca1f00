"""TOP back to ONNX: what calibration and the float judge run."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, helper
from xdsl.ir import SSAValue

from tpu_deploy.frontend import activation, conv, elementwise, matmul, norm, pool, shape, softmax
from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.registry import EXPORTERS
from tpu_deploy.frontend.tensors import Array
from tpu_deploy.ir.network import Network, name_of, shape_of

FAMILIES = (activation, conv, elementwise, matmul, norm, pool, shape, softmax)
"""The modules whose exporters fill the registry."""

OPSET = 20
"""The first with Gelu."""

IR_VERSION = 9


def export_onnx(network: Network, outputs: Sequence[str] | None = None) -> onnx.ModelProto:
    """An ONNX model of a TOP network: every value under its own name, static shapes, weights as raw initializers.

    Its outputs are the network's under their ONNX names, or with `outputs` the values of these names, each once.
    Raises KeyError for an output that is no value of the network.
    """
    exporting = Exporting(network)
    for op in network.operations:
        exported = ExportedOperation(op, exporting)
        EXPORTERS[op.name](exported)
        exported.finish()
    made = exporting.finish(outputs)
    inputs = [_tensor(name_of(v), shape_of(v)) for v in network.inputs]
    graph = helper.make_graph(exporting.nodes, network.name, inputs, made, exporting.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class Exporting:
    """The state of one export: nodes and initializers so far, and the names in use."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._values = {name_of(v): v for v in network.values()}
        self._names = set(self._values) | set(network.output_names)
        self._weights: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def free_name(self, wanted: str) -> str:
        """`wanted`, or a variation that no tensor has."""
        name, count = wanted, 1
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def name(self, value: SSAValue) -> str:
        """The ONNX name of a value; a weight becomes an initializer when it is first asked for."""
        array = self.network.weight(value)
        own = name_of(value)
        if array is None:
            return own
        if own not in self._weights:
            self._weights[own] = self.free_name(own)
            self._add(self._weights[own], array)
        return self._weights[own]

    def constant(self, array: Array) -> str:
        """The name of an initializer with the content of `array`, one for equal arrays."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.free_name("constant")
            self._add(self._constants[key], array)
        return self._constants[key]

    def _add(self, name: str, array: Array) -> None:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.initializers.append(TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=array.tobytes()))

    def finish(self, wanted: Sequence[str] | None) -> list[onnx.ValueInfoProto]:
        """The graph's outputs; an output whose value has another name is an Identity of it."""
        ends = dict(zip(self.network.output_names, self.network.outputs, strict=True))
        for name, value in ends.items():
            if name not in self._values and (wanted is None or name in wanted):
                self.nodes.append(helper.make_node("Identity", [name_of(value)], [name]))
        known = ends | self._values
        chosen = self.network.output_names if wanted is None else wanted
        return [_tensor(name, shape_of(known[name])) for name in dict.fromkeys(chosen)]


def _tensor(name: str, sizes: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))
