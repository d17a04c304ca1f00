"""ONNX to TOP: the walk over the nodes, with what is constant folded on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import activation, conv, elementwise, matmul, norm, pool, resize, shape, softmax
from tpu_deploy.frontend.constants import Constants
from tpu_deploy.frontend.findings import Finding, Unsupported, UnsupportedOperators
from tpu_deploy.frontend.input_shapes import InputShape, resolve_input_shapes
from tpu_deploy.frontend.model_file import DEFAULT_DOMAINS, ModelFile, read_model
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import CONVERTERS, Converter
from tpu_deploy.frontend.shape_inference import inferred_shapes
from tpu_deploy.frontend.tensors import Array, is_finite
from tpu_deploy.ir.network import Network, name_of, named, shape_of, tensor_type

FAMILIES = (activation, conv, elementwise, matmul, norm, pool, resize, shape, softmax)
"""The modules whose converters fill the registry."""


def import_onnx(
    model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Network:
    """The TOP network of an ONNX model: float32, static shapes, constants folded, values named as in the model.

    `input_shapes` fills dynamic dimensions and may override the batch size. Weights share the memory of the model.
    Raises BadInput for a model or shapes that cannot be used, UnsupportedOperators listing every node that cannot be
    compiled.
    """
    source = read_model(model)
    importer = Importer(source, resolve_input_shapes(source, input_shapes))
    importer.convert()
    if importer.findings:
        raise UnsupportedOperators(source.label, importer.findings)
    return importer.finish()


def find_unsupported(
    model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> list[Finding]:
    """Every node that cannot be compiled, in order; empty for a model that can. Open dimensions get a likely size.

    Raises BadInput for a model that cannot be read.
    """
    return import_supported(model, input_shapes)[1]


def import_supported(
    model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Network, list[Finding]]:
    """What of a model can be imported, and every node that cannot be compiled, in order.

    Inputs stand for what the latter make; what nobody reads is an output. Open dimensions get a likely size. Raises
    BadInput for a model that cannot be read.
    """
    source = read_model(model)
    importer = Importer(source, resolve_input_shapes(source, input_shapes, assume=True), assumed_shapes=True)
    importer.convert()
    return importer.finish_partly(), importer.findings


class Importer:
    """The state of one import: the network so far, values and constants by ONNX name, findings."""

    def __init__(self, model: ModelFile, inputs: Sequence[InputShape], assumed_shapes: bool = False) -> None:
        self.model = model
        self.assumed_shapes = assumed_shapes
        self.constants = Constants(model)
        self.network = Network.create(_symbol(model), [(i.name, i.shape) for i in inputs])
        self.findings: list[Finding] = []
        self._values: dict[str, SSAValue] = dict(zip((i.name for i in inputs), self.network.inputs, strict=True))
        self._weights: dict[str, SSAValue] = {}
        self._unknown: set[str] = set()
        self._read: set[str] = set()
        self._names = _all_names(model.proto.graph)
        self.batches = {(i.model_batch, i.shape[0]) for i in inputs if i.model_batch and i.model_batch != i.shape[0]}

    # ---- names and values

    def value(self, name: str) -> SSAValue:
        """The value of an ONNX tensor; a constant becomes a `top.Weight` under its own name."""
        if name in self._values:
            return self._values[name]
        if name not in self.constants:
            raise BadInput(f"{self.model.label}: tensor {name or '(unnamed)'} is read but never made; export it again")
        return self.weight(name, self.constants[name])

    def weight(self, name: str, array: Array) -> SSAValue:
        """A `top.Weight` of float32; the same array is not added twice. BadInput naming a weight with NaN or Inf."""
        known = self._weights.get(name)
        if known is not None and self.network.weight(known) is array:
            return known
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(array, np.float32) if array.dtype != np.float32 else array
        if not is_finite(single):
            raise BadInput(f"{self.model.label}: weight {name} has NaN or Inf; train or export the network again")
        value = self.network.add_weight(name, single)
        self._weights[name] = value
        return value

    def free_name(self, wanted: str) -> str:
        """`wanted`, or a variation that no tensor of the model has."""
        name, count = wanted, 1
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    # ---- the walk

    def convert(self) -> None:
        """Converts the nodes that outputs depend on, in order; what cannot be converted becomes a finding."""
        graph = self.model.proto.graph
        nodes = _needed_nodes(graph)
        self._read = {name for n in nodes for name in n.input} | {o.name for o in graph.output}
        for proto in nodes:
            if proto.op_type in ("Shape", "Size") and proto.input[0] in self._values:
                self._fold_shape(proto)
            elif self.constants.takes(proto):
                self.constants.add(proto)
            elif not self._unknown.isdisjoint(proto.input):
                self._judge_by_name(proto)
            else:
                self._convert_node(proto)

    def _fold_shape(self, proto: NodeProto) -> None:
        limits = {a.name: a.i for a in proto.attribute}
        sizes = np.array(shape_of(self._values[proto.input[0]]), np.int64)
        chosen = sizes[limits.get("start") : limits.get("end")] if proto.op_type == "Shape" else sizes.prod()
        self.constants[proto.output[0]] = np.asarray(chosen)

    def _convert_node(self, proto: NodeProto) -> None:
        try:
            made = _converter(proto)(Node(proto, self))
            values = [made] if isinstance(made, SSAValue) else list(made)
            for name in proto.output[len(values) :]:
                if name in self._read - {""}:
                    raise Unsupported(f"its output {name} cannot be computed", "export the network without it")
        except Unsupported as reason:
            self._report(proto, reason)
            return
        except BadInput:
            if not self.assumed_shapes:
                raise
            self._unknown.update(proto.output)  # an assumed input size does not fit: judge the rest by name
            return
        self._values.update({name: v for name, v in zip(proto.output, values, strict=False) if name})

    def _judge_by_name(self, proto: NodeProto) -> None:
        """Behind a tensor of unknown shape only the operator itself can be judged."""
        self._unknown.update(o for o in proto.output if o)
        try:
            _converter(proto)
        except Unsupported as reason:
            if proto.op_type not in ("Shape", "Size"):
                self._report(proto, reason)

    def _report(self, proto: NodeProto, reason: Unsupported) -> None:
        """Adds a finding, and lets inputs of the right shape stand for the node's outputs so that the walk goes on."""
        tensor = next((o for o in proto.output if o), "")
        op_type = proto.op_type if proto.domain in DEFAULT_DOMAINS else f"{proto.domain}.{proto.op_type}"
        self.findings.append(Finding(proto.name, op_type, tensor, reason.reason, reason.suggestion))
        known = {} if not self._unknown.isdisjoint(proto.input) else self._inferred_shapes(proto)
        for name in filter(None, proto.output):
            if name in known:
                kind = tensor_type(known[name], Float32Type())
                argument = self.network.block.insert_arg(kind, len(self.network.block.args))
                argument.location = named(name)
                self._values[name] = self.network.append("top.Input", [argument], [kind], [name]).results[0]
            else:
                self._unknown.add(name)

    def _inferred_shapes(self, proto: NodeProto) -> dict[str, tuple[int, ...]]:
        arrays = {name: self.constants[name] for name in proto.input if name in self.constants}
        shapes = {name: shape_of(self._values[name]) for name in proto.input if name in self._values}
        return inferred_shapes(self.model, proto, arrays, shapes)

    def finish_partly(self) -> Network:
        """The network of what could be converted: its outputs are those of the model, and all that nobody reads."""
        outputs = {o.name: self._values[o.name] for o in self.model.proto.graph.output if o.name in self._values}
        unread = [v for v in self.network.values() if v not in outputs.values() and not any(True for _ in v.uses)]
        outputs |= {name_of(v): v for v in unread}
        self.network.finish(list(outputs.values()), list(outputs))
        self.network.remove_unused()
        return self.network

    def finish(self) -> Network:
        """The network with its outputs, unused operations removed, verified."""
        names = [o.name for o in self.model.proto.graph.output]
        fixed = next((name for name in names if name in self.constants), None)
        if fixed is not None:
            raise BadInput(f"{self.model.label}: output {fixed} does not depend on any input; export without it")
        self.network.finish([self._values[name] for name in names], names)
        self.network.remove_unused()
        self.network.verify()
        return self.network


def _converter(proto: NodeProto) -> Converter:
    if proto.domain in DEFAULT_DOMAINS and proto.op_type in CONVERTERS:
        return CONVERTERS[proto.op_type]
    raise Unsupported("this operator is not supported", "replace it or export the network without it")


def _symbol(model: ModelFile) -> str:
    """A name for the module that files can carry: letters, digits and underscores of the model's."""
    stem = Path(model.label).stem if model.folder is not None else model.label
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in stem)
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")


def _all_names(graph: onnx.GraphProto) -> set[str]:
    made = {o for n in graph.node for o in n.output}
    return made | {i.name for i in graph.input} | {t.name for t in graph.initializer}


def _needed_nodes(graph: onnx.GraphProto) -> list[NodeProto]:
    wanted = {o.name for o in graph.output}
    needed: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(o in wanted for o in node.output):
            needed.append(node)
            wanted.update(node.input)
            wanted.update(name for a in node.attribute if a.HasField("g") for n in a.g.node for name in n.input)
    return needed[::-1]
