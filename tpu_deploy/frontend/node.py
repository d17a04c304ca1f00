"""One ONNX node on its way to TOP: what converters read and emit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from onnx import NodeProto
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend.findings import Unsupported
from tpu_deploy.frontend.tensors import Array, decoded
from tpu_deploy.ir.network import shape_of, tensor_type

if TYPE_CHECKING:
    from tpu_deploy.frontend.importer import Importer


class Node:
    """A node with decoded attributes, access to its inputs, and `emit` for what it becomes."""

    def __init__(self, proto: NodeProto, importer: Importer) -> None:
        self.proto = proto
        self.importer = importer
        self.op_type: str = proto.op_type
        self.opset = importer.model.opset
        self.outputs: list[str] = list(proto.output)
        self.attributes: dict[str, Any] = {a.name: decoded(a) for a in proto.attribute}

    @property
    def label(self) -> str:
        """How errors name the node."""
        return f"node {self.proto.name or 'producing ' + self.tensor} ({self.op_type})"

    @property
    def tensor(self) -> str:
        """The name of the first output that is read."""
        return next((o for o in self.outputs if o), "")

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default when the node does not carry it."""
        return self.attributes.get(name, default)

    # ---- inputs

    def has(self, index: int) -> bool:
        """Whether an input is there: given, and not the empty name that leaves it out."""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def is_constant(self, index: int) -> bool:
        """Whether an input is there and does not depend on the network's inputs."""
        return self.has(index) and self.proto.input[index] in self.importer.constants

    def input(self, index: int = 0) -> SSAValue:
        """The value of an input; a constant becomes a `top.Weight`."""
        return self.importer.value(self.proto.input[index])

    @property
    def inputs(self) -> list[SSAValue]:
        """The values of all inputs."""
        return [self.input(i) for i in range(len(self.proto.input))]

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an input."""
        return self.constant(index).shape if self.is_constant(index) else shape_of(self.input(index))

    def constant(self, index: int, what: str = "") -> Array:
        """The array of an input that must be constant; otherwise the node is unsupported."""
        if not self.is_constant(index):
            what = what or f"input {self.proto.input[index]}"
            self.unsupported(f"{what} is computed by the network, a constant is needed")
        return self.importer.constants[self.proto.input[index]]

    def integers(self, index: int, attribute: str) -> list[int] | None:
        """Integers that older opsets give as an attribute and newer ones as a constant input; None when absent."""
        if attribute in self.attributes:
            value = self.attributes[attribute]
            return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]
        if not self.has(index):
            return None
        return [int(v) for v in self.constant(index, attribute).reshape(-1)]

    def number(self, array: Array) -> float:
        """The value of a constant of one element; BadInput when it is NaN or Inf."""
        value = float(array.reshape(()))
        if not np.isfinite(value):
            self.refuse(f"its constant is {value}")
        return value

    def axis(self, default: int, rank: int) -> int:
        """The `axis` attribute as a non-negative number below `rank`."""
        return self.normalized(int(self.attribute("axis", default)), rank)

    def normalized(self, axis: int, rank: int) -> int:
        """An axis counted from the front; BadInput when the tensor has no such axis."""
        if not -rank <= axis < rank:
            self.refuse(f"axis {axis} does not exist in a tensor of {rank} dimensions")
        return axis % rank

    # ---- results

    def emit(
        self,
        op: str,
        operands: Sequence[SSAValue],
        shape: Sequence[int],
        name: str | None = None,
        /,
        **attributes: Any,
    ) -> SSAValue:
        """The result of a new TOP operation of float32 `shape`, named after the node's output or `name`."""
        if 0 in shape:
            self.unsupported(f"its result is empty (shape {tuple(shape)})")
        kind = tensor_type(shape, Float32Type())
        return self.importer.network.append(op, operands, [kind], [name or self.tensor], attributes).results[0]

    def absent(self) -> SSAValue:
        """Stands for an operand that is absent."""
        return self.importer.network.absent()

    def weight(self, array: Array, index: int | None = None, suffix: str = "") -> SSAValue:
        """A `top.Weight` of float32 named after the constant input it comes from, or after the output and `suffix`."""
        name = self.proto.input[index] if index is not None else f"{self.tensor}_{suffix}"
        return self.importer.weight(name, array)

    def derived(self, suffix: str) -> str:
        """A free name for a value that the ONNX network does not have."""
        return self.importer.free_name(f"{self.tensor}_{suffix}")

    def reshaped(self, value: SSAValue, shape: Sequence[int], name: str | None = None) -> SSAValue:
        """`value` under another shape, itself when it has that shape already and needs no name."""
        if name is None and shape_of(value) == tuple(shape):
            return value
        return self.emit("top.Reshape", [value], shape, name or self.derived("reshaped"), shape=list(shape))

    def emit_slice(self, x: SSAValue, pieces: Sequence[range], name: str | None = None) -> SSAValue:
        """The elements of `x` at the given places of each axis, by a `top.Slice`."""
        ends = [p.stop if p.stop >= 0 else -d - 1 for p, d in zip(pieces, shape_of(x), strict=True)]
        places = {"offset": [p.start for p in pieces], "steps": [p.step for p in pieces], "ends": ends}
        operands = [x, self.absent(), self.absent(), self.absent()]
        return self.emit("top.Slice", operands, [len(p) for p in pieces], name, **places)

    def broadcast(self, *shapes: Sequence[int]) -> tuple[int, ...]:
        """The common shape of operands; BadInput when they do not broadcast."""
        try:
            return np.broadcast_shapes(*(tuple(s) for s in shapes))
        except ValueError:
            told = " and ".join(str(tuple(s)) for s in shapes)
            self.refuse(f"operands of shapes {told} do not broadcast")

    # ---- refusals

    def unsupported(self, reason: str, suggestion: str = "") -> NoReturn:
        """The node is right ONNX that cannot be compiled."""
        raise Unsupported(reason, suggestion)

    def refuse(self, reason: str) -> NoReturn:
        """The node is wrong: the model is, or the input shapes given for it are."""
        raise BadInput(f"{self.importer.model.label}: {self.label}: {reason}; check the model and its input shapes")
