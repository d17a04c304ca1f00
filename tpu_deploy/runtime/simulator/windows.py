"""Inputs of sliding windows: zeros inserted between elements, padding, and the elements each tap meets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Window:
    """Geometry of one axis of a convolution or pooling."""

    kernel: int
    stride: int
    dilation: int
    insertion: int
    before: int
    after: int
    outputs: int

    def taps(self) -> Iterator[tuple[int, slice]]:
        """Each tap with the slice of the padded input it meets, one element an output."""
        reach = (self.outputs - 1) * self.stride + 1
        for tap in range(self.kernel):
            start = tap * self.dilation
            yield tap, slice(start, start + reach, self.stride)

    def extent(self, size: int) -> int:
        """The size of the axis once zeros are inserted and padding is added."""
        return (size - 1) * (self.insertion + 1) + 1 + self.before + self.after

    @property
    def needed(self) -> int:
        """How many elements of the padded axis the windows reach over."""
        return (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def is_plain(self) -> bool:
        """Whether each output meets exactly the element of its own index."""
        return self.kernel == 1 and self.stride == 1 and not (self.insertion or self.before or self.after)


def windows(fields: Mapping[str, int]) -> tuple[Window, Window]:
    """The windows of a CONV or PorD command along h and w."""
    vertical = Window(
        fields["opd1_h"],
        fields["res_op_y_str"],
        fields["opd1_y_ins0"] + 1,
        fields["opd0_y_ins0"],
        fields["opd0_up_pad"],
        fields["opd0_dn_pad"],
        fields["res0_h"],
    )
    horizontal = Window(
        fields["opd1_w"],
        fields["res_op_x_str"],
        fields["opd1_x_ins0"] + 1,
        fields["opd0_x_ins0"],
        fields["opd0_lf_pad"],
        fields["opd0_rt_pad"],
        fields["res0_w"],
    )
    return vertical, horizontal


def padded(x: Array, vertical: Window, horizontal: Window, pad: Any) -> Array:
    """(n, c, h, w) with zeros inserted and the pad value (a scalar, or one a channel) around it."""
    n, c, h, w = x.shape
    height, width = vertical.extent(h), horizontal.extent(w)
    if (height, width) == (h, w):
        return x
    has_pads = any((vertical.before, vertical.after, horizontal.before, horizontal.after))
    result = np.zeros((n, c, height, width), x.dtype)
    if has_pads and np.any(pad):
        result[...] = pad
        inner = result[:, :, vertical.before : height - vertical.after, horizontal.before : width - horizontal.after]
        inner[...] = 0
    rows = slice(vertical.before, height - vertical.after, vertical.insertion + 1)
    columns = slice(horizontal.before, width - horizontal.after, horizontal.insertion + 1)
    result[:, :, rows, columns] = x
    return result
