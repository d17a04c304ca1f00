"""Constants as rows of bytes for the lanes, the way instructions read them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.ir.weights import Array

Bytes = npt.NDArray[np.uint8]

SLOT_BYTES = 64
"""A channel's slot in a requantization table: int32 multiplier, minus shift, zero point, and here the bias."""
BIAS_OFFSET = 12
RECORD_BYTES = 16
"""What of a slot is used; only this is stored and loaded."""


def rows_by_lane(channels: Bytes, chip: Chip) -> Bytes:
    """(channels, k) bytes as (lanes, groups * k): channel c in lane c mod 64, a lane's channels one after another.

    With fewer channels than lanes only as many rows come out.
    """
    count, width = channels.shape
    lanes = min(count, chip.lanes)
    groups = -(-count // chip.lanes)
    if count % lanes:
        channels = np.concatenate([channels, np.zeros((groups * lanes - count, width), np.uint8)])
    return np.ascontiguousarray(channels.reshape(groups, lanes, width).transpose(1, 0, 2)).reshape(
        lanes, groups * width
    )


def padded(rows: Bytes, width: int) -> Bytes:
    """Rows widened to `width` bytes with zeros."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def requant_records(
    multiplier: npt.NDArray[np.int32], rshift: npt.NDArray[np.int32], zero_point: int, bias: npt.NDArray[np.int32]
) -> Bytes:
    """One 16-byte record a channel, what its slot begins with."""
    records = np.empty((len(multiplier), RECORD_BYTES // 4), np.int32)
    records[:, 0], records[:, 1], records[:, 2], records[:, 3] = multiplier, -rshift, zero_point, bias
    return records.view(np.uint8)


def conv_filter(weights: Array, chip: Chip) -> Bytes:
    """(oc, ic, kh, kw) as (oc, bytes): blocks of input channels, in each the taps, in each channels."""
    oc, ic, kh, kw = weights.shape
    block = chip.conv_block(weights.dtype.itemsize)
    blocks = -(-ic // block)
    if ic % block:
        weights = np.pad(weights, ((0, 0), (0, blocks * block - ic), (0, 0), (0, 0)))
    shaped = weights.reshape(oc, blocks, block, kh * kw).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(shaped).reshape(oc, -1).view(np.uint8)


def conv_filter_bytes(ic: int, kh: int, kw: int, itemsize: int, chip: Chip) -> int:
    """Bytes of one output channel's packed filter."""
    return round_up(ic, chip.conv_block(itemsize)) * kh * kw * itemsize


def aligned_tensor(array: npt.NDArray[np.generic], chip: Chip) -> Bytes:
    """An (n, c, h, w) array in the aligned layout, as rows for min(c, 64) lanes."""
    n, c, h, w = array.shape
    size = h * w * array.dtype.itemsize
    channels = np.zeros((n, c, round_up(size, chip.vector_bytes)), np.uint8)
    channels[:, :, :size] = np.ascontiguousarray(array).reshape(n, c, h * w).view(np.uint8)
    return np.concatenate([rows_by_lane(one, chip) for one in channels], axis=1)
