"""Static shapes of a network's inputs: what the model fixes, and what the user gives for the rest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend.model_file import ModelFile

LIKELY_SIZE = 224
"""The size proposed for an image axis that the model leaves open."""

Dimension = int | str
"""A fixed size, or the name of a dynamic dimension ("?" when it has none)."""


@dataclass(frozen=True)
class InputShape:
    """A network input with its static shape, and the batch size that the model itself fixes (None: dynamic)."""

    name: str
    shape: tuple[int, ...]
    model_batch: int | None


def resolve_input_shapes(
    model: ModelFile, given: Mapping[str, Sequence[int]] | None, assume: bool = False
) -> list[InputShape]:
    """The inputs in the model's order with static shapes.

    `given` fills dynamic dimensions and may override a fixed batch (axis 0); a dynamic dimension named elsewhere (`N`)
    takes the same size everywhere. With `assume`, what is still open gets a likely size. BadInput names the input and
    the option to give.
    """
    weights = {t.name for t in model.proto.graph.initializer}
    inputs = [i for i in model.proto.graph.input if i.name not in weights]
    wanted = {name: tuple(int(d) for d in shape) for name, shape in (given or {}).items()}
    _refuse_unknown(model, wanted, [i.name for i in inputs])
    declared = {i.name: _declared(model, i) for i in inputs}
    sizes: dict[str, int] = {}
    for name, shape in wanted.items():
        dims = declared[name]
        if dims is not None:
            _check(model, name, dims, shape)
            sizes |= {d: n for d, n in zip(dims, shape, strict=True) if isinstance(d, str) and d != "?"}
    return [_resolve(model, i.name, declared[i.name], wanted.get(i.name), sizes, assume) for i in inputs]


def _refuse_unknown(model: ModelFile, wanted: Mapping[str, object], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)
            hint = f"did you mean {near[0]}?" if near else "the model has no inputs"
            raise BadInput(f"{model.label}: --input-shape names {name}, which is not an input of the model; {hint}")


def _declared(model: ModelFile, value: onnx.ValueInfoProto) -> list[Dimension] | None:
    if value.type.WhichOneof("value") not in ("tensor_type", None):
        raise BadInput(f"{model.label}: input {value.name} is not a tensor; only tensor inputs can be compiled")
    tensor = value.type.tensor_type
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise BadInput(f"{model.label}: input {value.name} is {kind}; export the network with float32 inputs")
    if not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?" for d in dims]


def _check(model: ModelFile, name: str, dims: Sequence[Dimension], shape: Sequence[int]) -> None:
    told = f"{model.label}: input {name}: --input-shape gives {text(shape)}"
    if any(n < 1 for n in shape):
        raise BadInput(f"{told}; every size must be at least 1")
    if len(shape) != len(dims):
        raise BadInput(f"{told}, which has {len(shape)} dimensions where the model has {len(dims)} ({text(dims)})")
    for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        if axis and isinstance(dim, int) and dim != size:
            raise BadInput(
                f"{told}, but the model fixes axis {axis} to {dim} ({text(dims)}); only the batch can be changed"
            )


def _resolve(
    model: ModelFile,
    name: str,
    dims: Sequence[Dimension] | None,
    wanted: tuple[int, ...] | None,
    sizes: Mapping[str, int],
    assume: bool,
) -> InputShape:
    if dims is None:
        if wanted is None:
            raise BadInput(
                f"{model.label}: input {name} has no shape; give --input-shape {name}=1,3,{LIKELY_SIZE},{LIKELY_SIZE}"
            )
        return InputShape(name, wanted, None)
    batch = dims[0] if dims and isinstance(dims[0], int) else None
    shape = wanted or tuple(sizes.get(d, 0) if isinstance(d, str) else d for d in dims)
    if not all(shape):
        likely = _likely(shape)
        if not assume:
            option = f"--input-shape {name}={text(likely)}"
            raise BadInput(f"{model.label}: input {name} has dynamic dimensions ({text(dims)}); give {option}")
        shape = likely
    return InputShape(name, shape, batch)


def _likely(shape: Sequence[int]) -> tuple[int, ...]:
    image = len(shape) == 4
    return tuple(n or (LIKELY_SIZE if image and axis >= 2 else 1) for axis, n in enumerate(shape))


def text(shape: Sequence[Dimension]) -> str:
    """`1,3,224,224`: a shape as the command line takes it."""
    return ",".join(str(d) for d in shape)
