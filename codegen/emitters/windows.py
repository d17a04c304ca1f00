"""Windows that slide over an input: what a box of the result reads, and how it comes into local memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.instructions import Local, Window
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.layout import aligned_bytes
from tpu_deploy.codegen.program import Action, Buffer, Fill, LoadOperand
from tpu_deploy.codegen.views import AxisMap, Box, Dims, dims_of
from tpu_deploy.ir.weights import Array


@dataclass(frozen=True)
class Span:
    """What a window reads along an axis: places [low, high) with padding, of which every `step`-th one from 0 on holds
    an element; elements [first, last) are read, none if first >= last.
    """

    low: int
    high: int
    first: int
    last: int
    step: int = 1

    @property
    def is_empty(self) -> bool:
        """Whether only padding is read."""
        return self.first >= self.last

    @property
    def before(self) -> int:
        """Places before the first element read."""
        return self.first * self.step - self.low

    @property
    def after(self) -> int:
        """Places after the last element read."""
        return self.high - (self.last - 1) * self.step - 1


@dataclass(frozen=True)
class Problem:
    """A convolution as the unit sees it: groups already merged so that a group fills the input lanes where it can."""

    op: OperationView
    chip: Chip
    axes: AxisMap
    filters: Array
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    inserts: tuple[int, int] = (0, 0)

    @property
    def x_dims(self) -> Dims:
        """Sizes of the input."""
        return dims_of(self.op.operand("input").shape, self.axes)

    @property
    def zero(self) -> int:
        """The byte of the input's zero point."""
        return self.op.operand("input").zero_point & 0xFF

    @property
    def channels_in(self) -> int:
        """Input channels of a group."""
        return self.x_dims[1] // self.groups

    @property
    def channels_out(self) -> int:
        """Output channels of a group."""
        return int(self.filters.shape[0]) // self.groups

    def span(self, box: Box, axis: int) -> Span:
        """What a box of the result reads along h (0) or w (1).

        The last tile takes what a stride leaves over, so that a whole result reads its whole input.
        """
        start, stop = box.start[2 + axis], box.stop[2 + axis]
        size, output = self.x_dims[2 + axis], dims_of(self.op.result.shape, self.axes)[2 + axis]
        step = self.inserts[axis] + 1
        low = start * self.strides[axis] - self.pads[axis]
        high = (stop - 1) * self.strides[axis] - self.pads[axis] + self.dilations[axis] * (self.kernel[axis] - 1) + 1
        if stop == output and 0 < size - high < self.strides[axis] <= self.chip.max_stride:
            high = size
        return Span(low, high, max(-(-low // step), 0), min((high - 1) // step + 1, size), step)


def _strides(problem: Problem, box: Box) -> tuple[int, int]:
    """Strides over a box: one too large for an instruction does not matter where there is one position."""
    limit = problem.chip.max_stride
    down, across = (1 if n == 1 and s > limit else s for n, s in zip(box.dims[2:], problem.strides, strict=True))
    return down, across


def load_window(
    problem: Problem, box: Box, channels: tuple[int, int], name: str, pad_value: int
) -> tuple[Buffer, list[Action], Local, Window]:
    """The input that a box of the result needs, in a buffer: its actions, the tensor, and the window over it.

    `pad_value` is the byte that padding holds. Pads beyond what an instruction can express are written into the buffer.
    """
    chip, x = problem.chip, problem.op.operand("input")
    rows, columns = problem.span(box, 0), problem.span(box, 1)
    pads = (rows.before, columns.before, rows.after, columns.after)
    images = (box.start[0], box.stop[0])
    window = Window(problem.kernel, _strides(problem, box), problem.dilations, pads, pad_value, problem.inserts)
    read = Box((images[0], channels[0], rows.first, columns.first), (images[1], channels[1], rows.last, columns.last))
    if rows.is_empty or columns.is_empty:
        dims = (images[1] - images[0], channels[1] - channels[0], rows.high - rows.low, columns.high - columns.low)
        actions: list[Action] = [Fill(name, dims, x.dtype.itemsize, pad_value)]
        window = replace(window, pads=(0, 0, 0, 0), inserts=(0, 0))
    elif max(pads) <= chip.max_pad:
        dims = read.dims
        actions = [LoadOperand(0, x.shape, problem.axes, read, name)]
    else:
        (top, over), (left, beside), (bottom, under), (right, behind) = (
            divmod(pad, step) for pad, step in zip(pads, (rows.step, columns.step) * 2, strict=True)
        )
        n, c, h, w = read.dims
        dims = (n, c, h + top + bottom, w + left + right)
        load = LoadOperand(0, x.shape, problem.axes, read, name, (dims, (0, 0, top, left)))
        actions = [Fill(name, dims, x.dtype.itemsize, pad_value), load]
        window = replace(window, pads=(over, beside, under, behind))
    buffer = Buffer(name, aligned_bytes(dims, x.dtype.itemsize, chip))
    return buffer, actions, Local(name, dims, x.dtype), window


def stride_cuts(problem: Problem, dims: Dims) -> tuple[tuple[int, ...], ...]:
    """Where a stride is more than an instruction can express each position is a tile of its own."""

    def along(axis: int) -> tuple[int, ...]:
        return tuple(range(1, dims[2 + axis])) if problem.strides[axis] > problem.chip.max_stride else ()

    return (), (), along(0), along(1)
