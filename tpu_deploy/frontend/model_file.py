"""An ONNX file read and judged: is it a model, is it complete, is it of a version that can be used."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend.tensors import external_location

OLDEST_OPSET = 11

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class ModelFile:
    """A readable model: the message, the name to use in errors, the folder of its external data, its opset version."""

    proto: onnx.ModelProto
    label: str
    folder: Path | None
    opset: int


def read_model(source: str | Path | onnx.ModelProto) -> ModelFile:
    """The model of a file or message, with local functions inlined. BadInput, in one line, when it cannot be used."""
    if isinstance(source, onnx.ModelProto):
        proto, label, folder = source, source.graph.name or "model", None
    else:
        path = Path(source)
        proto, label, folder = _parse(path), str(path), path.parent
    if not proto.graph.node or not proto.graph.output:
        raise BadInput(f"{label}: is not an ONNX model (it has no nodes or no outputs); export the network again")
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise BadInput(f"{label}: weight {name} is stored sparsely; export the network with dense weights")
    opset = _opset(proto, label)
    _check_external_data(proto, label, folder)
    _check_structure(proto, label)
    if proto.functions:
        from onnx import inliner

        proto = inliner.inline_local_functions(proto)
    return ModelFile(proto, label, folder, opset)


def _parse(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise BadInput(f"{path}: is a folder; give the .onnx file itself")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give the path of an .onnx file") from error
    if not content:
        raise BadInput(f"{path}: is empty; export the network again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise BadInput(f"{path}: is not an ONNX model, or is truncated; export or copy it again") from error
    return proto


def _opset(proto: onnx.ModelProto, label: str) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in DEFAULT_DOMAINS]
    if not versions:
        raise BadInput(f"{label}: names no version of the ONNX operators (opset_import); export the network again")
    opset = int(max(versions))
    if opset < OLDEST_OPSET:
        raise BadInput(
            f"{label}: uses opset {opset}, {OLDEST_OPSET} is the oldest that can be read; "
            "convert it with onnx.version_converter or export it again"
        )
    for what, value, newest in zip(("opset", "IR version"), (opset, proto.ir_version), newest_versions(), strict=True):
        if value > newest:
            raise BadInput(
                f"{label}: uses {what} {value}, newer than the installed onnxruntime runs ({newest}); "
                "export it with an older one or install a newer onnxruntime"
            )
    return opset


@functools.cache
def newest_versions() -> tuple[int, int]:
    """The newest opset and the newest ONNX IR version that the installed onnxruntime accepts."""
    oldest_ir = 7
    opset, ir = OLDEST_OPSET, oldest_ir
    for opset in range(onnx.defs.onnx_opset_version() + 1, OLDEST_OPSET, -1):
        if _runs(opset, oldest_ir):
            break
    for ir in range(int(onnx.IR_VERSION) + 1, oldest_ir, -1):
        if _runs(OLDEST_OPSET, ir):
            break
    return opset, ir


def _runs(opset: int, ir_version: int) -> bool:
    import onnxruntime

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime raises classes of its own making, one for each status code
        return False
    return True


def _check_external_data(proto: onnx.ModelProto, label: str, folder: Path | None) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location = external_location(tensor)
        if folder is None:
            raise BadInput(
                f"{label}: weight {tensor.name} lies in a file ({location}); give the path of the model instead"
            )
        if not (folder / location).is_file():
            raise BadInput(
                f"{label}: weight {tensor.name} needs the file {folder / location}, which is missing; copy it there"
            )


def _check_structure(proto: onnx.ModelProto, label: str) -> None:
    """Runs the ONNX checker on a copy without the large weights, which would be copied and hashed for nothing."""
    light = onnx.ModelProto()
    light.ir_version = max(proto.ir_version, 4)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.metadata_props.extend(proto.metadata_props)
    graph = light.graph
    graph.name = proto.graph.name or "graph"
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    known = {i.name for i in proto.graph.input}
    _refuse_repeated_names(proto.graph.initializer, label)
    for tensor in proto.graph.initializer:
        if tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for value in [*graph.input, *graph.output]:
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()  # the checker asks for one, onnxruntime does not
    try:
        onnx.checker.check_model(light)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise BadInput(f"{label}: is not a valid ONNX model ({one_line(error)}); export it again") from error


def _refuse_repeated_names(tensors: Sequence[TensorProto], label: str) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise BadInput(f"{label}: has two weights named {tensor.name}; export it again with unique names")
        seen.add(tensor.name)


def one_line(error: BaseException) -> str:
    """The first line of another library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
