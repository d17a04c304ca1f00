"""Factors of channels: what they do to the products that make and read them, and where a network lets them be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.quant.plan import TensorQuantization

Array = npt.NDArray[Any]


def effective_weights(
    weights: Array, bias: Array | None, channel_axis: int, x: TensorQuantization, y: TensorQuantization
) -> tuple[Array, Array | None]:
    """Weights and bias between an operand and a result each divided by the factors of its channels.

    `weights` are (channels, inputs / groups, ...) with `channel_axis` 0, or (inputs, channels) with 1.
    """
    if not x.factors and not y.factors:
        return weights, bias
    read, made = np.array(x.factors or (1.0,)), np.array(y.factors or (1.0,))
    wide = weights.astype(np.float64)
    if channel_axis == 1:
        wide = wide * read[:, None] / made
    else:
        per_group = wide.shape[1]
        groups = max(1, len(read) // per_group)
        of_rows = read.reshape(groups, 1, -1).repeat(len(wide) // groups, 1).reshape(len(wide), -1)
        tail = (1,) * (wide.ndim - 2)
        wide = wide * of_rows.reshape(*of_rows.shape, *tail) / made.reshape(-1, 1, *tail)
    return wide.astype(np.float32), None if bias is None else bias.astype(np.float64).reshape(-1) / made
