"""Arithmetic of sliding windows along one axis, shared by every floor."""

import numpy as np
import numpy.typing as npt


def output_size(size: int, kernel: int, stride: int, pads: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """Number of window positions over `size` elements with `pads` (both ends together).

    With `ceil_mode` the last window may reach beyond the padding; one that would start there is still counted.
    """
    room = size + pads - (dilation * (kernel - 1) + 1)
    return (-(-room // stride) if ceil_mode else room // stride) + 1


def spread_size(size: int, inserted: int) -> int:
    """Number of elements once `inserted` zeros stand between each two of `size`."""
    return (size - 1) * (inserted + 1) + 1


def window_counts(
    size: int, kernel: int, stride: int, begin: int, end: int, output: int, include_pad: bool
) -> npt.NDArray[np.int64]:
    """How many positions an average divides by, for each of `output` windows along one axis.

    Without `include_pad` only positions on the input count; with it those on the explicit padding count too, but never
    what a ceil_mode window covers beyond it. Source: ONNX AveragePool 19.
    """
    first = np.arange(output, dtype=np.int64) * stride - begin
    low, high = (-begin, size + end) if include_pad else (0, size)
    covered: npt.NDArray[np.int64] = np.minimum(first + kernel, high) - np.maximum(first, low)
    return covered


def input_range(
    start: int, stop: int, size: int, kernel: int, stride: int, begin: int, dilation: int = 1
) -> tuple[int, int, int, int]:
    """`(first, last, pad_before, pad_after)`: the input rows [first, last) that outputs [start, stop) read.

    The pads are the rows missing at either end, filled by padding; first < last always (a window that lies wholly in
    padding keeps one row).
    """
    low = start * stride - begin
    high = (stop - 1) * stride - begin + dilation * (kernel - 1) + 1
    first, last = max(low, 0), min(high, size)
    if first >= last:
        first = min(max(first, 0), size - 1)
        last = first + 1
    return first, last, max(0, first - low), max(0, high - last)
