"""One TOP operation on its way back to ONNX: what exporters read and emit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper
from xdsl.ir import Operation

from tpu_deploy.frontend.tensors import Array
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import is_absent, shape_of

if TYPE_CHECKING:
    from tpu_deploy.frontend.export import Exporting


class ExportedOperation:
    """An operation with decoded attributes, the ONNX names of its operands, and `emit` for the nodes it becomes."""

    def __init__(self, op: Operation, exporting: Exporting) -> None:
        self.op = op
        self.attributes: dict[str, Any] = attributes_of(op)
        self._exporting = exporting
        self.results = [exporting.name(r) for r in op.results]
        self._relu = bool(self.attributes.get("do_relu", False))
        self.result = exporting.free_name(f"{self.results[0]}_before_relu") if self._relu else self.results[0]

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def operand(self, index: int = 0) -> str:
        """The ONNX name of an operand; a weight that is asked for becomes an initializer."""
        return self._exporting.name(self.op.operands[index])

    @property
    def operands(self) -> list[str]:
        """ONNX names of the operands, weights included; the empty name for an absent one."""
        return ["" if is_absent(v) else self._exporting.name(v) for v in self.op.operands]

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an operand."""
        return shape_of(self.op.operands[index])

    def array(self, index: int) -> Array | None:
        """The array of an operand that is a weight, else None."""
        return self._exporting.network.weight(self.op.operands[index])

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return shape_of(self.op.results[0])

    def emit(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attributes: Any) -> str:
        """The first output of a new ONNX node; without `outputs` it makes the operation's result."""
        made = list(outputs) if outputs is not None else [self.result]
        self._exporting.nodes.append(helper.make_node(op_type, list(inputs), made, **attributes))
        return made[0]

    def inner(self, suffix: str) -> str:
        """A free name for a tensor between the nodes of this operation."""
        return self._exporting.free_name(f"{self.results[0]}_{suffix}")

    def constant(self, value: Array | Sequence[int] | float) -> str:
        """The name of an initializer: an array, integers as int64, or a float32 number."""
        if isinstance(value, np.ndarray):
            return self._exporting.constant(value)
        dtype = np.float32 if isinstance(value, float) else np.int64
        return self._exporting.constant(np.array(value, dtype))

    def finish(self) -> None:
        """Adds the ReLU that the operation carries."""
        if not self._relu:
            return
        limit = self.attributes["relu_limit"]
        if limit < 0:
            self.emit("Relu", [self.result], self.results)
        else:
            self.emit("Clip", [self.result, self.constant(0.0), self.constant(float(limit))], self.results)
