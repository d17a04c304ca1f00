from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def small_network() -> Callable[..., onnx.ModelProto]:
    """conv0 -> relu0 -> conv1 -> sum (+ conv0b) -> mean -> logits, with `channels` channels."""

    def build(channels: int = 16, batch: int | str = "N", size: int | str = 24, seed: int = 0) -> onnx.ModelProto:
        rng = np.random.default_rng(seed)
        weights = {
            "w0": rng.normal(size=(channels, 3, 3, 3)),
            "b0": rng.normal(size=channels),
            "w1": rng.normal(size=(channels, channels, 3, 3)) / channels,
            "w2": rng.normal(size=(10, channels)),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w0", "b0"], ["conv0"], pads=[1] * 4),
            helper.make_node("Relu", ["conv0"], ["relu0"]),
            helper.make_node("Conv", ["relu0", "w1"], ["conv1"], pads=[1] * 4),
            helper.make_node("Add", ["conv1", "relu0"], ["sum"]),
            helper.make_node("GlobalAveragePool", ["sum"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w2"], ["logits"], transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model

    return build


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(12, 3, 24, 24)).astype(np.float32)
