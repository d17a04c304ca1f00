"""Networks of known architectures with seeded random weights, as ONNX models: what benchmarks run on.

    python benchmarks/networks.py FOLDER [resnet50 mobilenetv2 smallcnn]

Cycles, sizes and times depend on shapes alone, so weights need not be trained; they are scaled to keep activations
in a sensible range, and each convolution has a BatchNormalization of its own, as exporters leave them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

BOTTLENECKS = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""ResNet-50: blocks, width and stride of each stage."""

INVERTED_RESIDUALS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip
"""MobileNetV2: expansion, channels, blocks and stride of each stage."""


class Graph:
    """An ONNX graph that grows node by node; values are known by name, `channels` says how many each has."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int) -> None:
        self.name, self.shape = name, shape
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"input": shape[1]}

    def node(self, op: str, inputs: list[str], channels: int, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}_node", **attributes))
        self.channels[name] = channels
        return name

    def weight(self, array: npt.NDArray[Any]) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(self, x: str, outputs: int, kernel: int, stride: int = 1, group: int = 1, gain: float = 1.0) -> str:
        """Conv and BatchNormalization; `gain` is the spread of what comes out over that of what goes in."""
        inputs = self.channels[x] // group
        filters = self.random.normal(0, np.sqrt(2 / (inputs * kernel**2)), (outputs, inputs, kernel, kernel))
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        made = self.node("Conv", [x, self.weight(filters)], outputs, **window)
        draws = (self.random.normal(centre, 0.1, outputs) for centre in (gain, 0.0, 0.0))
        variance = self.random.uniform(0.8, 1.2, outputs)
        constants = [self.weight(array) for array in (*draws, variance)]
        return self.node("BatchNormalization", [made, *constants], outputs)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x], self.channels[x])

    def relu6(self, x: str) -> str:
        bounds = [self.weight(np.array(bound)) for bound in (0.0, 6.0)]
        return self.node("Clip", [x, *bounds], self.channels[x])

    def add(self, left: str, right: str) -> str:
        return self.node("Add", [left, right], self.channels[left])

    def max_pool(self, x: str, kernel: int, pad: int) -> str:
        window = {"kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": [pad] * 4}
        return self.node("MaxPool", [x], self.channels[x], **window)

    def classifier(self, x: str, classes: int) -> onnx.ModelProto:
        """The finished model: global average pool, matrix product, scores named `output`."""
        inputs = self.channels[x]
        flat = self.node("Flatten", [self.node("GlobalAveragePool", [x], inputs)], inputs)
        matrix = self.random.normal(0, inputs**-0.5, (classes, inputs))
        self.node("Gemm", [flat, self.weight(matrix), self.weight(np.zeros(classes))], classes, transB=1)
        self.nodes[-1].output[0] = "output"
        first = helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)
        last = helper.make_tensor_value_info("output", TensorProto.FLOAT, (self.shape[0], classes))
        graph = helper.make_graph(self.nodes, self.name, [first], [last], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
        onnx.checker.check_model(model)
        return model


def resnet50(batch: int = 1) -> onnx.ModelProto:
    """ResNet-50 at 224 x 224, the stride in the 3 x 3 convolution of a block."""
    graph = Graph("resnet50", (batch, 3, 224, 224), seed=50)
    x = graph.max_pool(graph.relu(graph.conv("input", 64, 7, 2)), 3, 1)
    for blocks, width, first_stride in BOTTLENECKS:
        for block in range(blocks):
            stride = 1 if block else first_stride
            y = graph.relu(graph.conv(x, width, 1))
            y = graph.relu(graph.conv(y, width, 3, stride))
            y = graph.conv(y, 4 * width, 1, gain=0.3)
            x = graph.relu(graph.add(y, x if block else graph.conv(x, 4 * width, 1, stride)))
    return graph.classifier(x, 1000)


def mobilenetv2(batch: int = 1) -> onnx.ModelProto:
    """MobileNetV2 of width 1 at 224 x 224."""
    graph = Graph("mobilenetv2", (batch, 3, 224, 224), seed=2)
    x = graph.relu6(graph.conv("input", 32, 3, 2))
    for expansion, channels, blocks, first_stride in INVERTED_RESIDUALS:
        for block in range(blocks):
            stride, inputs = 1 if block else first_stride, graph.channels[x]
            wide = inputs * expansion
            y = x if expansion == 1 else graph.relu6(graph.conv(x, wide, 1))
            y = graph.relu6(graph.conv(y, wide, 3, stride, group=wide))
            y = graph.conv(y, channels, 1)
            x = graph.add(x, y) if stride == 1 and inputs == channels else y
    return graph.classifier(graph.relu6(graph.conv(x, 1280, 1)), 1000)


def smallcnn(batch: int = 1) -> onnx.ModelProto:
    """Four convolutions at 32 x 32, one residual sum, ten classes."""
    graph = Graph("smallcnn", (batch, 3, 32, 32), seed=0)
    x = graph.max_pool(graph.relu(graph.conv("input", 16, 3)), 2, 0)
    y = graph.conv(graph.relu(graph.conv(x, 32, 3, 2)), 32, 3)
    return graph.classifier(graph.relu(graph.add(y, graph.conv(x, 32, 1, 2))), 10)


NETWORKS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "smallcnn": smallcnn,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        path = given.folder / f"{name}.onnx"
        onnx.save(NETWORKS[name](given.batch), path)
        print(path)


if __name__ == "__main__":
    main()
