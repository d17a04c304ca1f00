"""The float network from some tensors on: what storing them in 8 bits makes of results further down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
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

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: Mapping[str, int],
        results: Sequence[str],
        exact_readers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`tensors` are names with the number of axes of each; `exact_readers` operations that read them unrounded, by
        their results, with the names of their operands.
        """
        self._exact_nodes = _nodes_between(model.graph.node, exact_readers or {})
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
            if node.output[0] not in self._exact_nodes:
                copy.input[:] = [self._form(name) for name in node.input]
            ordered.append(copy)
            for name in node.output:
                ordered += self._rounding(name)
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
            for names in ([*self.reads, *chain(*map(_step_and_phase, self._ranks)), LOW, HIGH], self._outputs)
        )
        graph = helper.make_graph(ordered, "onward", inputs, outputs, list(weights))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    @property
    def _ranks(self) -> list[int]:
        """The numbers of axes that rounded tensors have; for each there is an input with steps, and one with phases."""
        return sorted(set(self._rounded.values()))

    def _rounding(self, tensor: str) -> list[NodeProto]:
        """Nodes that round `tensor` to multiples of its step; none where it is not rounded."""
        if tensor not in self._rounded:
            return []
        step, phase, result = *_step_and_phase(self._rounded[tensor]), self._form(tensor)
        forms = ("in steps", "shifted", "in whole steps", "shifted back", "stored")
        steps, shifted, whole, unshifted, stored = (f"{tensor}, {form}" for form in forms)
        return [
            helper.make_node("Div", [tensor, step], [steps]),
            helper.make_node("Add", [steps, phase], [shifted]),
            helper.make_node("Round", [shifted], [whole]),
            helper.make_node("Sub", [whole, phase], [unshifted]),
            helper.make_node("Clip", [unshifted, LOW, HIGH], [stored]),
            helper.make_node("Mul", [stored, step], [result]),
        ]

    def results(
        self, values: Mapping[str, Array], kind: TensorQuantization, phases: npt.NDArray[np.float32] | None = None
    ) -> list[Array]:
        """The `reached` results of `values` (of what it `reads`) when the tensors are stored as `kind`.

        With `phases` (channels along the axis of `kind`, or one) the grid lies so many steps beside its place.
        """
        if self._session is None:
            return []
        low, high = (np.array(limit - kind.zero_point, np.float32) for limit in LIMITS[kind.dtype])
        fed = {name: values[name] for name in self.reads} | {LOW: low, HIGH: high}
        for rank in self._ranks:
            shape = [-1 if axis == kind.axis else 1 for axis in range(rank)]
            step, phase = _step_and_phase(rank)
            fed[step] = np.asarray(kind.scale * kind.factors_over(rank), np.float32)
            fed[phase] = np.zeros((1,) * rank, np.float32) if phases is None else phases.reshape(shape)
        found: list[Array] = self._session.run(self._outputs, fed)
        return found


def _nodes_between(nodes: Sequence[NodeProto], operations: Mapping[str, Sequence[str]]) -> set[str]:
    """The first outputs of all nodes that lead from the operands of operations to their results."""
    makers = {name: node for node in nodes for name in node.output}
    found: set[str] = set()
    for result, operands in operations.items():
        waiting = [result]
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node.output[0] not in found:
                found.add(node.output[0])
                waiting += [name for name in node.input if name not in operands]
    return found


def _step_and_phase(rank: int) -> tuple[str, str]:
    """The inputs for the steps and phases of tensors of so many axes."""
    return f"steps over {rank} axes", f"phases over {rank} axes"


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
