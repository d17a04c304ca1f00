"""The float network from some tensors on: what storing them in 8 bits makes of results further down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from tpu_deploy.frontend.export import IR_VERSION, OPSET
from tpu_deploy.pipeline.float_model import session_of
from tpu_deploy.quant.plan import LIMITS, TensorQuantization

Array = npt.NDArray[Any]

LOW, HIGH = "lowest multiple", "highest multiple"


class Onward:
    """The part of a float model between `tensors`, all of which are rounded alike, and `results`.

    `reached` are the results that depend on them, `reads` the tensors of the model that this part starts from.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Mapping[str, int], results: Sequence[str]) -> None:
        """`tensors` are names with the number of axes of each."""
        nodes = _between(model.graph.node, set(tensors), results)
        made = {name for node in nodes for name in node.output}
        self.reached = [name for name in results if name in made or name in tensors]
        weights = {each.name: each for each in model.graph.initializer}
        wanted = [name for node in nodes for name in node.input if name] + self.reached
        outer = [name for name in dict.fromkeys(wanted) if name not in made]
        self.reads = [name for name in outer if name not in weights]
        self._rounded = {name: rank for name, rank in tensors.items() if name in made or name in self.reads}
        self._outputs = [self._form(name) for name in self.reached]
        used = [weights[name] for name in outer if name in weights]
        self._session = session_of(self._model(nodes, used)) if self.reached else None

    def _form(self, name: str) -> str:
        """What stands for a tensor where it is read."""
        return f"{name}, rounded" if name in self._rounded else name

    def _model(self, nodes: Sequence[NodeProto], weights: Sequence[TensorProto]) -> onnx.ModelProto:
        ordered = [each for name in self.reads for each in self._rounding(name)]
        for node in nodes:
            copy = NodeProto.FromString(node.SerializeToString())
            copy.input[:] = [self._form(name) for name in node.input]
            ordered.append(copy)
            for name in node.output:
                ordered += self._rounding(name)
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
            for names in ([*self.reads, *self._steps, LOW, HIGH], self._outputs)
        )
        graph = helper.make_graph(ordered, "onward", inputs, outputs, list(weights))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    @property
    def _steps(self) -> dict[str, int]:
        """The inputs for steps of rounding, one for each number of axes that rounded tensors have."""
        return {_step(rank): rank for rank in sorted(set(self._rounded.values()))}

    def _rounding(self, tensor: str) -> list[NodeProto]:
        """Nodes that round `tensor` to multiples of its step; none where it is not rounded."""
        if tensor not in self._rounded:
            return []
        step, result = _step(self._rounded[tensor]), self._form(tensor)
        steps, whole, stored = (f"{tensor}, {form}" for form in ("in steps", "in whole steps", "stored"))
        return [
            helper.make_node("Div", [tensor, step], [steps]),
            helper.make_node("Round", [steps], [whole]),
            helper.make_node("Clip", [whole, LOW, HIGH], [stored]),
            helper.make_node("Mul", [stored, step], [result]),
        ]

    def results(self, values: Mapping[str, Array], kind: TensorQuantization) -> list[Array]:
        """The `reached` results of `values` (of what it `reads`) when the tensors are stored as `kind`."""
        if self._session is None:
            return []
        low, high = (np.array(limit - kind.zero_point, np.float32) for limit in LIMITS[kind.dtype])
        steps = {n: np.asarray(kind.scale * kind.factors_over(rank), np.float32) for n, rank in self._steps.items()}
        fed = {name: values[name] for name in self.reads} | steps | {LOW: low, HIGH: high}
        found: list[Array] = self._session.run(self._outputs, fed)
        return found


def _step(rank: int) -> str:
    return f"step of rounding over {rank} axes"


def _between(nodes: Sequence[NodeProto], tensors: set[str], results: Sequence[str]) -> list[NodeProto]:
    """The nodes that depend on `tensors` and that `results` depend on, in order."""
    after, changed = [], set(tensors)
    for node in nodes:
        if not changed.isdisjoint(node.input):
            after.append(node)
            changed.update(node.output)
    found, wanted = [], set(results)
    for node in reversed(after):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(node.input)
    return found[::-1]
