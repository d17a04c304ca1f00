"""Operations that move elements, in the type and precision of what they move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, element_of, name_of, shape_of, tensor_type, uniform_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.builder import Builder, stored_integer, uniform
from tpu_deploy.lowering.clamp import read_relu
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.numbers import quantize, rounded
from tpu_deploy.quant.plan import FLOAT_TYPES, PRECISIONS

PAD_MODES = ("constant", "edge", "reflect")


def has_computed_bounds(network: Network, op: Operation) -> bool:
    """its bounds are computed; only constant ones are supported"""
    return any(isinstance(v.owner, Operation) and v.owner.name != "top.None" for v in op.operands[1:])


def has_unknown_mode(network: Network, op: Operation) -> bool:
    """its mode is not constant, edge or reflect"""
    return attributes_of(op)["mode"] not in PAD_MODES


def crops(network: Network, op: Operation) -> bool:
    """it pads by a negative number"""
    return any(n < 0 for n in attributes_of(op)["paddings"])


def reshape(builder: Builder, op: Operation) -> None:
    """A `tpu.Reshape`."""
    builder.produce(op, "tpu.Reshape", [builder.operand(op)])


for _name in ("Reshape", "Squeeze", "Unsqueeze"):
    lowers(_name, *PRECISIONS)(reshape)


@lowers("Permute", *PRECISIONS)
def permute(builder: Builder, op: Operation) -> None:
    """A `tpu.Permute`."""
    builder.produce(op, "tpu.Permute", [builder.operand(op)], {"order": attributes_of(op)["order"]})


def sliced(
    builder: Builder, x: SSAValue, offset: Sequence[int], steps: Sequence[int], shape: Sequence[int], name: str
) -> SSAValue:
    """`shape` elements of `x` from `offset` in `steps`."""
    kind = tensor_type(shape, element_of(x))
    return builder.emit("tpu.Slice", [x], kind, name, {"offset": list(offset), "steps": list(steps)})


@lowers("Slice", *PRECISIONS, refuse=(has_computed_bounds,))
def slice_(builder: Builder, op: Operation) -> None:
    """A `tpu.Slice` with offsets counted from the start."""
    attributes, shape = attributes_of(op), shape_of(op.operands[0])
    axes = attributes["axes"] or range(len(attributes["offset"]))
    offset, steps = [0] * len(shape), [1] * len(shape)
    for axis, start, step in zip(axes, attributes["offset"], attributes["steps"], strict=True):
        size = shape[axis]
        first = start + size if start < 0 else start
        offset[axis] = min(max(first, 0), size - 1 if step < 0 else size)
        steps[axis] = step
    value = op.results[0]
    made = sliced(builder, builder.operand(op), offset, steps, shape_of(value), builder.own_name(value))
    builder.define(value, made)


@lowers("Split", *PRECISIONS)
def split(builder: Builder, op: Operation) -> None:
    """A `tpu.Slice` for each piece that is used."""
    axis = attributes_of(op)["axis"] % len(shape_of(op.operands[0]))
    start = 0
    for value in op.results:
        shape = shape_of(value)
        offset = [start if i == axis else 0 for i in range(len(shape))]
        made = sliced(builder, builder.operand(op), offset, [1] * len(shape), shape, builder.own_name(value))
        builder.define(value, made)
        start += shape[axis]


@lowers("Concat", *PRECISIONS)
def concat(builder: Builder, op: Operation) -> None:
    """A `tpu.Concat`; operands of another 8-bit type than the result's are requantized first."""
    attributes = {"axis": attributes_of(op)["axis"] % len(shape_of(op.results[0]))}
    parts, relu = [_joinable(builder, op, v) for v in op.operands], read_relu(op)
    if relu is None or not builder.is_made_float(op):
        builder.produce(op, "tpu.Concat", parts, attributes)
        return
    kind = tensor_type(shape_of(op.results[0]), builder.float_type(op))
    joined = builder.emit("tpu.Concat", parts, kind, builder.helper_name(name_of(op), "joined"), attributes)
    builder.produce(op, "tpu.Clip", [joined], {"min": relu.low, "max": relu.high})


def _joinable(builder: Builder, op: Operation, value: SSAValue) -> SSAValue:
    array = builder.source.weight(value)
    if array is not None:
        return _constant(builder, op, array)
    read = builder.read(op, value)
    if builder.is_made_float(op) or uniform_of(read) == uniform(builder.direct(op)):
        return read
    return builder.requantized(read, builder.direct(op), builder.helper_name(name_of(value), "requantized"))


def _constant(builder: Builder, op: Operation, array: Array) -> SSAValue:
    """A constant in the type of the result of `op`."""
    if builder.is_made_float(op):
        return builder.float_weight(op, "constant", array)
    y = builder.direct(op)
    integers = quantize(array.astype(np.float32, copy=False), y.scale, y.zero_point, y.numpy_dtype)
    return builder.typed(builder.weight(op, "constant", integers), y)


@lowers("Pad", *PRECISIONS, refuse=(has_computed_bounds, has_unknown_mode, crops))
def pad(builder: Builder, op: Operation) -> None:
    """A `tpu.Pad` with what is stored for the value; slices joined to the tensor in the other modes."""
    attributes = attributes_of(op)
    pads = attributes["paddings"]
    if attributes["mode"] != "constant":
        _repeated(builder, op, pads, attributes["mode"])
        return
    builder.produce(
        op, "tpu.Pad", [builder.operand(op)], {"pads": pads, "value": _stored(builder, op, attributes["val"])}
    )


def _stored(builder: Builder, op: Operation, real: float) -> int:
    """The stored integer nearest to a number, or the bits of the float."""
    if not builder.is_made_float(op):
        return stored_integer(real, builder.quantization(op.operands[0]))
    dtype = FLOAT_TYPES[builder.precision(op)].numpy_dtype
    return int(rounded(np.array([real], np.float32), dtype).view(f"u{dtype.itemsize}")[0])


def _repeated(builder: Builder, op: Operation, pads: Sequence[int], mode: str) -> None:
    x = builder.operand(op)
    axes = [axis for axis in range(len(pads) // 2) if pads[axis] or pads[axis + len(pads) // 2]]
    for axis in axes:
        before, after = pads[axis], pads[axis + len(pads) // 2]
        pieces = [
            *_border(builder, op, x, axis, before, mode, True),
            x,
            *_border(builder, op, x, axis, after, mode, False),
        ]
        shape = [n + (before + after) * (i == axis) for i, n in enumerate(shape_of(x))]
        name = builder.own_name(op.results[0]) if axis == axes[-1] else builder.helper_name(name_of(op), "padded")
        x = builder.emit("tpu.Concat", pieces, tensor_type(shape, element_of(x)), name, {"axis": axis})
    builder.define(op.results[0], x)


def _border(
    builder: Builder, op: Operation, x: SSAValue, axis: int, count: int, mode: str, at_start: bool
) -> list[SSAValue]:
    """The pieces that padding by `count` puts before (or after) `x` along `axis`."""
    size, rank = shape_of(x)[axis], len(shape_of(x))
    length, first = (1, 0 if at_start else size - 1) if mode == "edge" else (count, count if at_start else size - 2)

    def along(here: int, elsewhere: Any) -> list[int]:
        return [here if i == axis else elsewhere[i] for i in range(rank)]

    if count == 0:
        return []
    name = builder.helper_name(name_of(op), "border")
    shape, offset, steps = along(length, shape_of(x)), along(first, [0] * rank), along(-1, [1] * rank)
    piece = sliced(builder, x, offset, steps, shape, name)
    return [piece] * (count // length)
