"""Layouts of tensors in local memory: channel c lies in lane c mod 64, at slot c div 64."""

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.views import Dims


def round_up(value: int, multiple: int) -> int:
    """The least multiple not below `value`."""
    return -(-value // multiple) * multiple


def channel_groups(c: int, chip: Chip) -> int:
    """How many channels a lane holds."""
    return -(-c // chip.lanes)


def aligned_strides(dims: Dims, itemsize: int, chip: Chip) -> Dims:
    """Strides (n, c slot, h, w) in elements of the aligned layout: each channel starts on a vector boundary."""
    _, c, h, w = dims
    channel = round_up(h * w, chip.vector_bytes // itemsize)
    return channel_groups(c, chip) * channel, channel, w, 1


def aligned_bytes(dims: Dims, itemsize: int, chip: Chip) -> int:
    """Bytes of a lane that a tensor in the aligned layout takes."""
    return dims[0] * aligned_strides(dims, itemsize, chip)[0] * itemsize
