"""Shapes that an operator without a converter would make, so that what stands behind it can be judged too."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tpu_deploy.frontend.model_file import ModelFile
from tpu_deploy.frontend.tensors import Array


def inferred_shapes(
    model: ModelFile, proto: NodeProto, arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The static shapes of a node's float outputs by ONNX's own inference; empty where it does not know.

    `arrays` are the constant inputs, `shapes` those of the others.
    """
    types = {name: helper.make_tensor_type_proto(TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    data = {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
    types |= {name: helper.make_tensor_type_proto(t.data_type, list(t.dims)) for name, t in data.items()}
    try:
        schema = onnx.defs.get_schema(proto.op_type, model.opset, proto.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=list(model.proto.opset_import)
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError):
        return {}
    return {name: tuple(d.dim_value for d in t.tensor_type.shape.dim) for name, t in found.items() if _is_static(t)}


def _is_static(kind: onnx.TypeProto) -> bool:
    tensor = kind.tensor_type
    return bool(
        tensor.elem_type == TensorProto.FLOAT
        and tensor.HasField("shape")
        and all(d.dim_value > 0 for d in tensor.shape.dim)
    )
