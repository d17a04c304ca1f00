"""Values of all tensors of the float network, drawn from samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.quant.factor_groups import channel_axis
from tpu_deploy.quant.value_samples import ValueSamples

Float32Array = npt.NDArray[np.float32]

SEED = 7

HELD_BYTES = 1 << 26
"""Bytes of values drawn; networks of many channels, and many samples, have fewer of each."""

MOST, FEWEST = 64, 4
"""Positions drawn of each channel of a sample, where it has so many."""


def value_samples(network: Network, feeds: Sequence[Feed]) -> dict[str, ValueSamples]:
    """Drawn values and extremes of every tensor by name, over whole batches."""
    floats = FloatNetwork(network)
    axes = {name_of(v): channel_axis(v) for v in network.values()}
    wanted = _positions(network, axes, len(feeds))
    found: dict[str, list[tuple[Float32Array, Float32Array, Float32Array]]] = {name: [] for name in axes}
    for number, feed in enumerate(feeds):
        held = floats.values(feed)
        for index, (name, axis) in enumerate(axes.items()):
            array = _by_channel(held[name], axis)
            found[name].append((_drawn(array, wanted, [SEED, number, index]), array.min(2), array.max(2)))
    return {
        name: ValueSamples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        for name, parts in found.items()
    }


def _positions(network: Network, axes: dict[str, int | None], feeds: int) -> int:
    """How many positions of each channel are drawn from a feed."""
    channels = 0
    for value in network.values():
        shape, axis = shape_of(value), axes[name_of(value)]
        channels += (shape[0] if shape else 1) * (shape[axis] if axis is not None else 1)
    return min(max(HELD_BYTES // (4 * max(channels * feeds, 1)), FEWEST), MOST)


def _by_channel(array: npt.NDArray[Any], axis: int | None) -> Float32Array:
    """The array as (samples, channels, positions)."""
    if axis is None:
        return array.reshape(len(array) if array.ndim else 1, 1, -1)
    moved = np.moveaxis(array, axis, 1)
    return moved.reshape(*moved.shape[:2], -1)


def _drawn(array: Float32Array, count: int, seed: list[int]) -> Float32Array:
    if array.shape[2] <= count:
        return array.copy()
    chosen = np.random.default_rng(seed).choice(array.shape[2], count, replace=False)
    return np.ascontiguousarray(array[:, :, np.sort(chosen)])
