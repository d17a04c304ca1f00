"""Which operations cannot be compiled for a chip, and why, judged from shapes and attributes before any heavy work.

What bounds an operation is its smallest tile: the emitters are asked for it, so that this file repeats none of their
arithmetic. Everything else is cut, however large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import EMITTERS, OperationView, Tensor
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import Variant
from tpu_deploy.codegen.storages import VIEWS
from tpu_deploy.codegen.tile_plan import ROOM, fits_fields, grown
from tpu_deploy.codegen.tiles import channel_tiles, spatial_tiles
from tpu_deploy.codegen.views import Box
from tpu_deploy.ir import geometry

Shape = tuple[int, ...]
Shapes = Sequence[Shape]
Attributes = Mapping[str, Any]

LARGEST_SUM = (1 << 31) - 1
"""What the int32 sum of a window can hold."""

I8, I32, F32 = (np.dtype(t) for t in (np.int8, np.int32, np.float32))


def refusal(kind: str, operands: Shapes, result: Shape, attributes: Attributes, chip: Chip) -> str | None:
    """One line that says why an operation cannot be compiled for a chip, None where it can.

    `kind` is a TPU operation, or the TOP operation it is lowered from ("tpu.Conv2D", "top.Conv"); of the operands of
    convolutions and matrix products the first two count, and attributes that are absent have their defaults. The time
    does not depend on how large the tensors are, only on the weights.
    """
    for what, shape in (*((f"operand {k}", s) for k, s in enumerate(operands)), ("the result", result)):
        if prod(shape) == 0:
            return f"{what} has shape {_text(shape)}, which holds no elements"
    name = _TPU_NAMES.get(kind, kind)
    if name.startswith("tpu.") and name not in EMITTERS and name not in VIEWS:
        return f"the chip has no code for {name}"
    build = _VIEWS.get(name)
    if build is None:
        return None
    inserts = attributes.get("inserts", (0, 0))
    if max(inserts) > chip.max_inserts:
        return f"it spreads its input by strides {_text([k + 1 for k in inserts])}; {chip.max_inserts + 1} is the most"
    if name == "tpu.AvgPool2D" and (reason := _overflow(attributes)):
        return reason
    return _smallest_tile(build(operands, result, attributes), chip)


def _overflow(attributes: Attributes) -> str | None:
    """Whether the sum of a window may leave int32."""
    positions = prod(attributes["kernel_shape"])
    if positions * 255 <= LARGEST_SUM:
        return None
    kernel = _text(attributes["kernel_shape"])
    return f"it averages over {kernel} positions; the sums of more than {LARGEST_SUM // 255} leave 32 bits"


def _smallest_tile(op: OperationView, chip: Chip) -> str | None:
    """None if the smallest tile of some variant fits local memory, else by how far the best one does not."""
    needs = []
    for variant in EMITTERS[op.kind](op, chip):
        program = grown(variant.tile(_small_box(variant)), chip)
        need = sum(round_up(b.bytes, chip.vector_bytes) for b in program.buffers)
        if not fits_fields(program, chip):
            continue
        if need <= chip.lane_bytes * ROOM:
            return None
        needs.append(need)
    subject = _SUBJECTS[op.kind](op)
    if not needs:
        return f"{subject} is larger than the {chip.max_size} elements that an instruction can count"
    room = int(chip.lane_bytes * ROOM) >> 10
    return f"{subject} takes {-(-min(needs) >> 10)} KiB of each lane's local memory, which has room for {room} KiB"


def _small_box(variant: Variant) -> Box:
    """One of the smallest tiles, in the middle, where windows read the most."""
    tiling = variant.tiling
    *_, (n, h, w) = spatial_tiles(tiling)
    start, stop = [], []
    for size, tile, cuts in zip(tiling.dims, (n, channel_tiles(tiling)[-1], h, w), tiling.cuts, strict=True):
        middle = size // 2 // tile * tile if not cuts else max((c for c in cuts if c <= size // 2), default=0)
        start.append(middle)
        stop.append(min([middle + tile, size, *(c for c in cuts if c > middle)]))
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


def _zeros(name: str, shape: Shape, dtype: np.dtype[Any]) -> Tensor:
    return Tensor(name, shape, dtype, constant=np.zeros(shape, dtype))


def _product(kind: str, names: Sequence[str], x: Shape, weights: Shape, count: int, **more: Any) -> OperationView:
    """A convolution or matrix product with weights of zeros."""
    constants = (_zeros(names[1], weights, I8), *(_zeros(n, (count,), I32) for n in ("bias", "multiplier", "rshift")))
    places = {name: index for index, name in enumerate([*names, "bias", "multiplier", "rshift"])}
    return OperationView(kind, (Tensor("x", x, I8), *constants), places, Tensor("y", more.pop("result"), I8), more)


def _convolution(operands: Shapes, result: Shape, attributes: Attributes) -> OperationView:
    given = {"dilations": [1, 1], "inserts": [0, 0], "group": 1, **attributes, "acc_shift": -1}
    x, weights = operands[:2]
    return _product("tpu.Conv2D", ("input", "filter"), x, weights, weights[0], result=result, **given)


def _matrix_product(operands: Shapes, result: Shape, attributes: Attributes) -> OperationView:
    x, columns = operands[0], result[-1]
    return _product("tpu.MatMul", ("input", "right"), x, (x[-1], columns), columns, result=result)


def _maximum(operands: Shapes, result: Shape, attributes: Attributes) -> OperationView:
    return OperationView(
        "tpu.MaxPool2D", (Tensor("x", operands[0], I8),), {"input": 0}, Tensor("y", result, I8), attributes
    )


def _average(operands: Shapes, result: Shape, attributes: Attributes) -> OperationView:
    include = bool(attributes.get("count_include_pad"))
    kernel, strides, pads = (attributes[k] for k in ("kernel_shape", "strides", "pads"))
    rows, columns = (
        geometry.window_counts(
            operands[0][2 + a], kernel[a], strides[a], pads[a], pads[2 + a], result[2 + a], include
        ).tolist()
        for a in (0, 1)
    )
    counts = sorted({a * b for a in set(rows) for b in set(columns)})
    given = {**attributes, "counts": counts, "multipliers": [1] * len(counts), "rshift": 0}
    return OperationView("tpu.AvgPool2D", (Tensor("x", operands[0], I8),), {"input": 0}, Tensor("y", result, I8), given)


def _softmax(operands: Shapes, result: Shape, attributes: Attributes) -> OperationView:
    return OperationView(
        "tpu.Softmax", (Tensor("x", operands[0], F32),), {"input": 0}, Tensor("y", result, F32), attributes
    )


_VIEWS: dict[str, Callable[[Shapes, Shape, Attributes], OperationView]] = {
    "tpu.Conv2D": _convolution,
    "tpu.MatMul": _matrix_product,
    "tpu.MaxPool2D": _maximum,
    "tpu.AvgPool2D": _average,
    "tpu.Softmax": _softmax,
}
"""The operations that read more than one element for an element of the result; all others can be cut to single ones."""

_TPU_NAMES = {
    "top.Conv": "tpu.Conv2D",
    "top.MatMul": "tpu.MatMul",
    "top.MaxPool": "tpu.MaxPool2D",
    "top.AvgPool": "tpu.AvgPool2D",
    "top.Softmax": "tpu.Softmax",
}


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"


def _kernel(op: OperationView) -> str:
    return f"one position of its {_text(op.attributes['kernel_shape'])} window"


_SUBJECTS: dict[str, Callable[[OperationView], str]] = {
    "tpu.Conv2D": _kernel,
    "tpu.MaxPool2D": _kernel,
    "tpu.AvgPool2D": _kernel,
    "tpu.MatMul": lambda op: f"one row of {op.operands[0].shape[-1]} elements",
    "tpu.Softmax": lambda op: f"one row of {op.result.shape[op.attributes['axis']]} elements",
}
"""What the smallest tile of an operation is, for messages."""
