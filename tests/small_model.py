"""A small classifier that every road can take in a fraction of a second, and samples for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

SHAPE = (1, 3, 16, 16)
"""Of the input `image`; the output `scores` is (1, 5)."""


def small_model(batch: int | str = 1, seed: int = 0) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu; a residual Conv and Add; global pooling and Gemm. Tensors: see the node outputs."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int, spread: float = 1.0) -> Array:
        return (spread * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    constants = {
        "w1": weight(8, 3, 3, 3),
        "b1": weight(8, spread=0.1),
        "gamma": rng.uniform(0.5, 1.5, 8).astype(np.float32),
        "beta": weight(8, spread=0.1),
        "mean": weight(8, spread=0.1),
        "variance": rng.uniform(0.5, 1.5, 8).astype(np.float32),
        "w2": weight(8, 8, 3, 3),
        "w3": weight(5, 8),
        "b3": weight(5, spread=0.1),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["conv1"], "conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["conv1", "gamma", "beta", "mean", "variance"], ["bn1"], "bn1"),
        node("Relu", ["bn1"], ["relu1"], "relu1"),
        node("Conv", ["relu1", "w2"], ["conv2"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["conv2", "relu1"], ["sum"], "sum"),
        node("Relu", ["sum"], ["relu2"], "relu2"),
        node("GlobalAveragePool", ["relu2"], ["pool"], "pool"),
        node("Flatten", ["pool"], ["flat"], "flat"),
        node("Gemm", ["flat", "w3", "b3"], ["scores"], "scores", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *SHAPE[1:]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def samples(count: int, seed: int = 1) -> Array:
    """Normal images (count, 3, 16, 16)."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def feeds(count: int, seed: int = 1) -> list[dict[str, Array]]:
    """The samples one by one, as feeds."""
    return [{"image": each[np.newaxis]} for each in samples(count, seed)]


def saved(model: onnx.ModelProto, path: Path) -> Path:
    """The path of the model, written."""
    onnx.save(model, path)
    return path
