"""Operators that move elements without computing: Reshape, Transpose, Concat, Slice, Split, Pad and their relatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xdsl.ir import SSAValue

from tpu_deploy.frontend.exported import ExportedOperation
from tpu_deploy.frontend.node import Node
from tpu_deploy.frontend.registry import converts, exports
from tpu_deploy.ir.network import element_of, shape_of, tensor_type
from tpu_deploy.ir.top import UNBOUNDED


@converts("Identity", "Dropout")
def convert_identity(node: Node) -> SSAValue:
    """The input itself."""
    if node.op_type == "Dropout" and node.has(2) and bool(node.constant(2, "training_mode")):
        node.unsupported("it is in training mode", "export the network with model.eval()")
    return node.input()


@converts("Reshape")
def convert_reshape(node: Node) -> SSAValue:
    """`top.Reshape` to the static shape that 0, -1 and allowzero stand for.

    When the batch size is overridden, a target that starts with the old batch size starts with the new one instead.
    """
    x = node.input()
    shape = shape_of(x)
    target = [int(d) for d in node.constant(1, "its shape")]
    if not node.attribute("allowzero", 0):
        if any(d == 0 for d in target[len(shape) :]):
            node.refuse(f"its shape {target} copies a dimension that {shape} does not have")
        target = [shape[axis] if d == 0 else d for axis, d in enumerate(target)]
    target = _rebatched(node, shape, target)
    if target.count(-1) > 1 or min(target, default=1) < -1:
        node.refuse(f"its shape {target} is not a shape")
    known = math.prod(d for d in target if d != -1)
    if -1 in target and known and math.prod(shape) % known == 0:
        target[target.index(-1)] = math.prod(shape) // known
    if math.prod(target) != math.prod(shape) or -1 in target:
        node.refuse(f"{shape} cannot be reshaped to {target}")
    return node.emit("top.Reshape", [x], target, shape=target)


def _rebatched(node: Node, shape: Sequence[int], target: list[int]) -> list[int]:
    for old, new in node.importer.batches:
        if target and shape and target[0] == old and shape[0] == new:
            return [new, *target[1:]]
    return target


@converts("Flatten")
def convert_flatten(node: Node) -> SSAValue:
    """`top.Reshape` to two dimensions."""
    x = node.input()
    shape = shape_of(x)
    axis = int(node.attribute("axis", 1))
    if axis != len(shape):
        axis = node.normalized(axis, len(shape))
    target = [math.prod(shape[:axis]), math.prod(shape[axis:])]
    return node.emit("top.Reshape", [x], target, shape=target)


@converts("Squeeze")
def convert_squeeze(node: Node) -> SSAValue:
    """`top.Squeeze` of the given axes, or of all that have size 1."""
    x = node.input()
    shape = shape_of(x)
    axes = node.integers(1, "axes")
    if axes is None:
        axes = [a for a, d in enumerate(shape) if d == 1]
    axes = sorted({node.normalized(a, len(shape)) for a in axes})
    if any(shape[a] != 1 for a in axes):
        node.refuse(f"axes {axes} of {shape} are not all of size 1")
    return node.emit("top.Squeeze", [x], [d for a, d in enumerate(shape) if a not in axes], axes=axes)


@converts("Unsqueeze")
def convert_unsqueeze(node: Node) -> SSAValue:
    """`top.Unsqueeze` at the given axes of the result."""
    x = node.input()
    axes = node.integers(1, "axes") or []
    rank = len(shape_of(x)) + len(axes)
    axes = sorted({node.normalized(a, rank) for a in axes})
    sizes = iter(shape_of(x))
    return node.emit("top.Unsqueeze", [x], [1 if a in axes else next(sizes) for a in range(rank)], axes=axes)


@converts("Transpose")
def convert_transpose(node: Node) -> SSAValue:
    """`top.Permute`."""
    x = node.input()
    shape = shape_of(x)
    order = [int(a) for a in node.attribute("perm", range(len(shape))[::-1])]
    if sorted(order) != list(range(len(shape))):
        node.refuse(f"perm {order} is no order of {len(shape)} axes")
    return node.emit("top.Permute", [x], [shape[a] for a in order], order=order)


@converts("DepthToSpace")
def convert_depth_to_space(node: Node) -> SSAValue:
    """`top.Permute` between reshapes: blocks of channels side by side in height and width."""
    n, c, h, w = _image_shape(node)
    block = _block(node)
    if c % block**2:
        node.refuse(f"{c} channels cannot be divided into blocks of {block}x{block}")
    inner = c // block**2
    by_column = node.attribute("mode", "DCR") == "DCR"
    split = (n, block, block, inner, h, w) if by_column else (n, inner, block, block, h, w)
    order = (0, 3, 4, 1, 5, 2) if by_column else (0, 1, 4, 2, 5, 3)
    return _rearranged(node, split, order, (n, inner, h * block, w * block))


@converts("SpaceToDepth")
def convert_space_to_depth(node: Node) -> SSAValue:
    """`top.Permute` between reshapes: blocks of height and width one behind the other as channels."""
    n, c, h, w = _image_shape(node)
    block = _block(node)
    if h % block or w % block:
        node.refuse(f"{h}x{w} pixels cannot be divided into blocks of {block}x{block}")
    rows, columns = h // block, w // block
    split = (n, c, rows, block, columns, block)
    order = (0, 3, 5, 1, 2, 4) if node.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _rearranged(node, split, order, (n, c * block**2, rows, columns))


def _image_shape(node: Node) -> tuple[int, ...]:
    shape = shape_of(node.input())
    if len(shape) != 4:
        node.refuse(f"its input of shape {shape} is no batch of images")
    return shape


def _block(node: Node) -> int:
    block = int(node.attribute("blocksize", 0))
    if block < 1:
        node.refuse(f"its blocksize is {block}")
    return block


def _rearranged(node: Node, split: Sequence[int], order: Sequence[int], shape: Sequence[int]) -> SSAValue:
    apart = node.reshaped(node.input(), split, node.derived("split"))
    moved = node.emit("top.Permute", [apart], [split[a] for a in order], node.derived("moved"), order=order)
    return node.emit("top.Reshape", [moved], shape, shape=list(shape))


@converts("Expand")
def convert_expand(node: Node) -> SSAValue:
    """The input under the target's rank; repeating elements is unsupported."""
    x = node.input()
    shape = shape_of(x)
    target = node.broadcast(shape, [int(d) for d in node.constant(1, "its shape")])
    if math.prod(target) != math.prod(shape):
        node.unsupported(f"it repeats elements ({shape} to {target})")
    return node.reshaped(x, target, node.tensor)


@converts("Concat")
def convert_concat(node: Node) -> SSAValue:
    """`top.Concat`."""
    if any(node.is_constant(i) for i in range(len(node.proto.input))):
        node.unsupported("it joins a constant to computed values")
    values = node.inputs
    shapes = [shape_of(v) for v in values]
    axis = node.axis(0, len(shapes[0]))
    rests = {s[:axis] + s[axis + 1 :] for s in shapes}
    if len(rests) > 1:
        node.refuse(f"shapes {', '.join(map(str, shapes))} differ outside axis {axis}")
    shape = list(shapes[0])
    shape[axis] = sum(s[axis] for s in shapes)
    return node.emit("top.Concat", values, shape, axis=axis)


@converts("Slice")
def convert_slice(node: Node) -> SSAValue:
    """`top.Slice` with an offset, step and exclusive end for every axis."""
    x = node.input()
    shape = shape_of(x)
    starts, ends = node.integers(1, "starts") or [], node.integers(2, "ends") or []
    axes = node.integers(3, "axes") or list(range(len(starts)))
    steps = node.integers(4, "steps") or [1] * len(starts)
    pieces = [range(d) for d in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            node.refuse("a step is 0")
        chosen = node.normalized(axis, len(shape))
        pieces[chosen] = range(shape[chosen])[start:end:step]
    return node.emit_slice(x, pieces)


@converts("Split")
def convert_split(node: Node) -> Sequence[SSAValue]:
    """`top.Split` into the given sizes, or into equal ones of which the last may be smaller."""
    x = node.input()
    shape = shape_of(x)
    axis = node.axis(0, len(shape))
    count = len(node.outputs)
    sizes = node.integers(1, "split")
    if sizes is None:
        count = int(node.attribute("num_outputs", count))
        part = -(-shape[axis] // count)
        sizes = [part] * (count - 1) + [shape[axis] - part * (count - 1)]
    if sum(sizes) != shape[axis] or len(sizes) != len(node.outputs):
        node.refuse(f"pieces of {sizes} do not make up axis {axis} of {shape}")
    if min(sizes) < 1:
        node.unsupported(f"a piece is empty ({sizes})")
    return _split(node, x, axis, sizes)


def _split(node: Node, x: SSAValue, axis: int, sizes: Sequence[int]) -> Sequence[SSAValue]:
    shape = shape_of(x)
    element = element_of(x)
    types = [tensor_type((*shape[:axis], size, *shape[axis + 1 :]), element) for size in sizes]
    names = [name or node.derived(f"piece_{i}") for i, name in enumerate(node.outputs)]
    attributes = {"axis": axis, "num": len(sizes), "split_size": list(sizes)}
    return list(node.importer.network.append("top.Split", [x], types, names, attributes).results)


@converts("Pad")
def convert_pad(node: Node) -> SSAValue:
    """`top.Pad` with a constant; negative pads crop by a `top.Slice`; other modes join slices of the input to it."""
    x = node.input()
    pads = _pads_of_all_axes(node, len(shape_of(x)))
    mode = node.attribute("mode", "constant")
    if any(b < 0 or e < 0 for b, e in pads):
        pieces = [range(max(-b, 0), d - max(-e, 0)) for (b, e), d in zip(pads, shape_of(x), strict=True)]
        pads = [(max(b, 0), max(e, 0)) for b, e in pads]
        x = node.emit_slice(x, pieces, node.derived("cropped") if any(map(any, pads)) else None)
        if not any(map(any, pads)):
            return x
    if mode != "constant":
        return _pad_with_own_elements(node, x, pads, mode)
    value = float(node.constant(2, "its padding value").reshape(())) if node.has(2) else 0.0
    if math.isnan(value):
        node.refuse("its padding value is NaN")
    value = min(max(value, -UNBOUNDED), UNBOUNDED)
    shape = [b + d + e for (b, e), d in zip(pads, shape_of(x), strict=True)]
    return node.emit(
        "top.Pad", [x, node.absent()], shape, paddings=[b for b, _ in pads] + [e for _, e in pads], val=value
    )


def _pads_of_all_axes(node: Node, rank: int) -> list[tuple[int, int]]:
    pads = node.integers(1, "pads") or []
    axes = node.integers(3, "axes") or list(range(len(pads) // 2))
    if len(pads) != 2 * len(axes):
        node.refuse(f"{len(pads)} pads are given for {len(axes)} axes")
    found = [(0, 0)] * rank
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        found[node.normalized(axis, rank)] = (begin, end)
    return found


def _pad_with_own_elements(node: Node, x: SSAValue, pads: Sequence[tuple[int, int]], mode: str) -> SSAValue:
    padded = [axis for axis, pair in enumerate(pads) if any(pair)]
    for axis in padded:
        places = _own_places(node, shape_of(x)[axis], *pads[axis], mode)
        parts = []
        for side, run in places:
            pieces = [range(d) for d in shape_of(x)]
            pieces[axis] = run
            parts.append(node.emit_slice(x, pieces, node.derived(f"{side}_{axis}")))
        middle = 0 if not pads[axis][0] else len([1 for side, _ in places if side == "before"])
        parts.insert(middle, x)
        shape = list(shape_of(x))
        shape[axis] += sum(pads[axis])
        name = None if axis == padded[-1] else node.derived(f"padded_{axis}")
        x = node.emit("top.Concat", parts, shape, name, axis=axis)
    return x


def _own_places(node: Node, size: int, begin: int, end: int, mode: str) -> list[tuple[str, range]]:
    """Runs of the input's own places that stand before and after it."""
    if mode == "edge":
        return [("before", range(1))] * begin + [("after", range(size - 1, size))] * end
    if max(begin, end) > (size if mode == "wrap" else size - 1) or mode not in ("reflect", "wrap"):
        node.unsupported(f"mode {mode} with pads of {begin} and {end} on an axis of {size}")
    if mode == "wrap":
        runs = [("before", range(size - begin, size)), ("after", range(end))]
    else:
        runs = [("before", range(begin, 0, -1)), ("after", range(size - 2, size - 2 - end, -1))]
    return [(side, run) for side, run in runs if len(run)]


@exports("top.Reshape", "top.Squeeze", "top.Unsqueeze")
def export_reshape(op: ExportedOperation) -> None:
    """Reshape."""
    op.emit("Reshape", [op.operand(), op.constant(op.result_shape)])


@exports("top.Permute")
def export_permute(op: ExportedOperation) -> None:
    """Transpose."""
    op.emit("Transpose", op.operands, perm=op["order"])


@exports("top.Concat")
def export_concat(op: ExportedOperation) -> None:
    """Concat."""
    op.emit("Concat", op.operands, axis=op["axis"])


@exports("top.Slice")
def export_slice(op: ExportedOperation) -> None:
    """Slice of every axis."""
    axes = list(range(len(op.shape())))
    lists = (op["offset"], op["ends"], axes, op["steps"])
    op.emit("Slice", [op.operand(), *(op.constant(values) for values in lists)])


@exports("top.Split")
def export_split(op: ExportedOperation) -> None:
    """Split into the given sizes."""
    op.emit("Split", [*op.operands, op.constant(op["split_size"])], op.results, axis=op["axis"])


@exports("top.Pad")
def export_pad(op: ExportedOperation) -> None:
    """Pad."""
    inputs = [op.operand(), op.constant(op["paddings"])]
    if op["mode"] == "constant":
        inputs.append(op.constant(float(op["val"])))
    op.emit("Pad", inputs, mode=op["mode"])
