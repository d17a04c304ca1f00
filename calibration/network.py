"""The model under calibration: what it takes, what it computes, and which of its tensors are worth observing."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import onnx

from tpu_deploy.calibration.samples import InputSpec
from tpu_deploy.errors import BadInput

Model = bytes | str | PathLike[str] | onnx.ModelProto

ACTIVATIONS = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})

FUSED = {"Conv": ACTIVATIONS | {"BatchNormalization"}, "BatchNormalization": ACTIVATIONS}
"""What onnxruntime computes together with an operator unless somebody asks for the value between them."""


@dataclass(frozen=True)
class Network:
    """A model read for calibration: `proto` is ours to change, `data` what the caller gave."""

    proto: onnx.ModelProto
    data: bytes

    @classmethod
    def load(cls, model: Model) -> "Network":
        """The network in `model`. Raises BadInput when it cannot be read."""
        source = str(model) if isinstance(model, str | PathLike) else "the model"
        try:
            if isinstance(model, onnx.ModelProto):
                data = model.SerializeToString(deterministic=True)
            else:
                data = model if isinstance(model, bytes) else Path(model).read_bytes()
            proto = onnx.load_model_from_string(data)
            if isinstance(model, str | PathLike):
                onnx.load_external_data_for_model(proto, str(Path(model).parent))
        except OSError as error:
            raise BadInput(f"{source}: cannot be read ({error.strerror or error}); give an ONNX file") from error
        except Exception as error:  # protobuf's DecodeError and onnx's ValidationError have no other common base
            raise BadInput(f"{source}: is not a usable ONNX model ({first_line(error)})") from error
        if not proto.graph.node:
            raise BadInput(f"{source}: is not a usable ONNX model (it computes nothing)")
        return cls(proto, data)

    def model_hash(self) -> str:
        """What identifies the caller's model."""
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    def inputs(self) -> dict[str, InputSpec]:
        """Name, shape and dtype of each input that is not an initializer."""
        weights = {weight.name for weight in self.proto.graph.initializer}
        specs = {}
        for value in self.proto.graph.input:
            if value.name not in weights:
                kind = value.type.tensor_type
                shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                specs[value.name] = InputSpec(value.name, shape, np.dtype(dtype))
        return specs

    def computed(self) -> list[str]:
        """Every tensor a node of the main graph computes, in order."""
        return [name for node in self.proto.graph.node for name in node.output if name]

    def worth_observing(self) -> list[str]:
        """Inputs and computed tensors, but for constants and what is fused into the operator after it."""
        graph = self.proto.graph
        readers: dict[str, list[str]] = {value.name: ["output"] for value in graph.output}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
        passed = {node.output[0] for node in graph.node if node.op_type == "Constant"}
        for node in graph.node:
            read_by = readers.get(node.output[0], [])
            if len(read_by) == 1 and read_by[0] in FUSED.get(node.op_type, ()):
                passed.add(node.output[0])
        return [*self.inputs(), *(name for name in self.computed() if name not in passed)]

    def chosen(self, tensors: Sequence[str] | None) -> list[str]:
        """The tensors to observe, in graph order: those asked for, or all worth it.

        Raises BadInput for a name that is neither an input nor computed.
        """
        if tensors is None:
            return self.worth_observing()
        known = dict.fromkeys([*self.inputs(), *self.computed()])
        for name in tensors:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.0)
                nearest = f"; the nearest it does compute is {near[0]!r}" if near else ""
                raise BadInput(f"tensor {name!r} is not computed by the model{nearest}")
        asked = set(tensors)
        return [name for name in known if name in asked]


def first_line(error: BaseException) -> str:
    """What `error` says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
