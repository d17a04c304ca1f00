"""What does not depend on an input: initializers, and nodes of constants evaluated by onnxruntime when first needed."""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper, numpy_helper

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend.model_file import ModelFile, one_line
from tpu_deploy.frontend.tensors import Array, array_of

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result is not the same twice."""

EMBEDDED_BYTES = 64
"""Arrays up to this size are written into the model that is evaluated; larger ones are fed without a copy."""


class Constants:
    """Arrays by ONNX tensor name. Nodes of constants can be added; they are evaluated together, on demand."""

    def __init__(self, model: ModelFile) -> None:
        self._model = model
        self._tensors = {t.name: t for t in model.proto.graph.initializer}
        self._arrays: dict[str, Array] = {}
        self._pending: dict[str, NodeProto] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or name in self._tensors or name in self._pending

    def __setitem__(self, name: str, array: Array) -> None:
        self._arrays[name] = array

    def __getitem__(self, name: str) -> Array:
        if name in self._pending:
            self._evaluate()
        if name not in self._arrays:
            self._arrays[name] = array_of(self._tensors[name], self._model.folder, self._model.label)
        return self._arrays[name]

    def takes(self, node: NodeProto) -> bool:
        """Whether a node has nothing but constant inputs, no sub-graph and no randomness."""
        if node.op_type in RANDOM or any(a.HasField("g") or a.graphs for a in node.attribute):
            return False
        return all(name in self for name in node.input if name)

    def add(self, node: NodeProto) -> None:
        """Makes the outputs of a node that `takes` accepts constants."""
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self._tensors[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in self._tensors:
            self._tensors[node.output[0]] = self._tensors[node.input[0]]
        else:
            self._pending |= {name: node for name in node.output if name}

    def _evaluate(self) -> None:
        nodes = list({id(n): n for n in self._pending.values()}.values())
        self._pending.clear()
        try:
            self._arrays |= self._run(nodes)
        except Exception:  # onnxruntime raises classes of its own making, one for each status code
            for node in nodes:
                self._evaluate_alone(node)

    def _evaluate_alone(self, node: NodeProto) -> None:
        try:
            self._arrays |= self._run([node])
        except Exception as error:
            where = f"{node.name or node.output[0]} ({node.op_type})"
            raise BadInput(
                f"{self._model.label}: constant node {where} cannot be evaluated ({one_line(error)})"
            ) from error

    def _run(self, nodes: list[NodeProto]) -> dict[str, Array]:
        import onnxruntime

        made = [name for n in nodes for name in n.output if name]
        read = dict.fromkeys(name for n in nodes for name in n.input if name and name not in made)
        graph = onnx.GraphProto(name="constants", node=nodes)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        feeds: dict[str, Array] = {}
        for name in read:
            array = self[name]
            if array.nbytes <= EMBEDDED_BYTES or array.dtype.kind not in "fiub":
                graph.initializer.append(numpy_helper.from_array(array, name))
            else:
                feeds[name] = array
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        whole = self._model.proto
        model = onnx.ModelProto(ir_version=whole.ir_version, graph=graph, opset_import=whole.opset_import)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(made, session.run(made, feeds), strict=True))
