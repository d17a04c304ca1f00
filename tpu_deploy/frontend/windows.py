"""Sliding windows of Conv and Pool nodes: kernel, strides, pads and dilations of two axes, auto_pad resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from xdsl.ir import SSAValue

from tpu_deploy.frontend.node import Node
from tpu_deploy.ir.geometry import output_size
from tpu_deploy.ir.network import shape_of


@dataclass(frozen=True)
class Window:
    """A window over h and w; pads are (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    def output(self, spatial: Sequence[int], ceil_mode: bool = False) -> tuple[int, int]:
        """The number of window positions over h and w. A window of ceil_mode that starts in the end padding is dropped.

        Source: ONNX MaxPool 22, AveragePool 22.
        """
        sizes = []
        for axis, size in enumerate(spatial):
            begin, end = self.pads[axis], self.pads[axis + 2]
            count = output_size(
                size, self.kernel[axis], self.strides[axis], begin + end, self.dilations[axis], ceil_mode
            )
            if ceil_mode and (count - 1) * self.strides[axis] >= size + begin:
                count -= 1
            sizes.append(count)
        return sizes[0], sizes[1]

    def without_ceil(self, spatial: Sequence[int], output: Sequence[int]) -> Window:
        """The window with end pads that just fit the last of `output` windows, so that no rounding up is needed."""
        reach = [(output[a] - 1) * self.strides[a] + self.kernel[a] - spatial[a] - self.pads[a] for a in (0, 1)]
        return replace(self, pads=(*self.pads[:2], max(reach[0], 0), max(reach[1], 0)))

    def attributes(self) -> dict[str, Any]:
        """Kernel, strides and pads as TOP attributes."""
        return {"kernel_shape": self.kernel, "strides": self.strides, "pads": self.pads}


def image(node: Node) -> SSAValue:
    """Input 0 as (n, c, h, w); a sequence (n, c, length) becomes (n, c, 1, length). Other ranks are unsupported."""
    x = node.input()
    shape = shape_of(x)
    if len(shape) == 3:
        return node.reshaped(x, (*shape[:2], 1, shape[2]), node.derived("image"))
    if len(shape) != 4:
        node.unsupported(f"it has {len(shape) - 2} spatial dimensions, 1 or 2 can be compiled")
    return x


def read_window(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of a node over `spatial` (h, w), for a kernel of one or two axes."""
    count = len(kernel)
    if len(node.shape()) - 2 != count:
        node.refuse(f"kernel_shape has {count} axes, its input {len(node.shape()) - 2} spatial dimensions")
    strides = _pair(node.attribute("strides", [1] * count))
    dilations = _pair(node.attribute("dilations", [1] * count))
    full = _pair(kernel)
    if min(*strides, *dilations, *full) < 1:
        node.refuse("kernel_shape, strides and dilations must be positive")
    window = Window(full, strides, _pads(node, spatial, full, strides, dilations), dilations)
    if min(window.pads) < 0:
        node.unsupported("its pads are negative", "crop with a Slice instead")
    if min(window.output(spatial)) < 1:
        node.refuse(f"the kernel {window.kernel} with pads {window.pads} is larger than its input {tuple(spatial)}")
    return window


def read_spread(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of a ConvTranspose over `spatial` (h, w) with zeros inserted: strides are what spreads the input.

    Source: ONNX ConvTranspose 22.
    """
    count = len(kernel)
    if len(node.shape()) - 2 != count:
        node.refuse(f"kernel_shape has {count} axes, its input {len(node.shape()) - 2} spatial dimensions")
    strides, dilations = (_pair(node.attribute(name, [1] * count)) for name in ("strides", "dilations"))
    full = _pair(kernel)
    more = node.attribute("output_padding", [0] * count)
    extra = (0, int(more[0])) if count == 1 else (int(more[0]), int(more[1]))
    if min(*strides, *dilations, *full) < 1 or min(extra) < 0:
        node.refuse("kernel_shape, strides and dilations must be positive, output_padding not negative")
    reach = [d * (k - 1) for d, k in zip(dilations, full, strict=True)]
    before, after = _cropped(node, spatial, strides, reach, extra)
    pads = (reach[0] - before[0], reach[1] - before[1], reach[0] - after[0] + extra[0], reach[1] - after[1] + extra[1])
    if min(pads) < 0:
        node.unsupported("its pads are larger than its kernel", "crop with a Slice behind it instead")
    return Window(full, strides, pads, dilations)


def _cropped(
    node: Node, spatial: Sequence[int], strides: Sequence[int], reach: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How many elements `pads`, `auto_pad` or `output_shape` take off the result before and after, along h and w.

    A result larger than what the kernel reaches gets more elements after: a negative number.
    """
    mode, wanted = node.attribute("auto_pad", "NOTSET"), node.attribute("output_shape")
    full = [(size - 1) * s + r + 1 + e for size, s, r, e in zip(spatial, strides, reach, extra, strict=True)]
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = node.attribute("pads", [0] * 4) if mode == "NOTSET" else [0] * 4
        top, left, bottom, right = (0, pads[0], 0, pads[1]) if len(pads) == 2 else pads
        return [top, left], [bottom, right]
    if mode not in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        node.refuse(f"auto_pad is {mode}")
    if wanted is None:
        sizes = [size * s for size, s in zip(spatial, strides, strict=True)]
    else:
        sizes = [1, int(wanted[-1])] if len(node.shape()) == 3 else [int(size) for size in wanted[-2:]]
    total = [a - b for a, b in zip(full, sizes, strict=True)]
    if min(total) < 0:
        return [0, 0], total
    small = [t // 2 for t in total]
    large = [t - s for t, s in zip(total, small, strict=True)]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _pads(
    node: Node, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, int, int, int]:
    mode = node.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.attribute("pads", [0] * 4)
        return (0, pads[0], 0, pads[1]) if len(pads) == 2 else (pads[0], pads[1], pads[2], pads[3])
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        node.refuse(f"auto_pad is {mode}")
    begin, end = [], []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        small = total // 2
        begin.append(small if mode == "SAME_UPPER" else total - small)
        end.append(total - begin[-1])
    return begin[0], begin[1], end[0], end[1]
