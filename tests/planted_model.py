"""Networks for searches: convolutions large enough for INT8 to pay, one of which loses everything in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

CHANNELS = 128
SIZE = 14
PLANTED = "conv3"


def planted_model(outlier: float = 1000.0) -> onnx.ModelProto:
    """Five 3x3 convolutions with ReLUs; each channel of conv3 has an `outlier` among its weights.

    It multiplies what conv2 makes of its first channel, which is always zero: in float it changes nothing, in INT8 it
    leaves no bits for the other weights.
    """
    rng = np.random.default_rng(5)
    nodes, weights, name = [], [], "image"
    for index in range(1, 6):
        array = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(CHANNELS * 4)
        bias = rng.standard_normal(CHANNELS) * 0.1
        if index == 2:
            array[0], bias[0] = 0, -1
        if index == 3:
            array[:, 0] = outlier
        weights += [numpy_helper.from_array(array.astype(np.float32), f"w{index}")]
        weights += [numpy_helper.from_array(bias.astype(np.float32), f"b{index}")]
        nodes += [
            helper.make_node("Conv", [name, f"w{index}", f"b{index}"], [f"sum{index}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"sum{index}"], [f"conv{index}"]),
        ]
        name = f"conv{index}"
    shape = [1, CHANNELS, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def images(count: int, seed: int = 3) -> Array:
    """Normal images (count, channels, size, size)."""
    return np.random.default_rng(seed).standard_normal((count, CHANNELS, SIZE, SIZE)).astype(np.float32)
