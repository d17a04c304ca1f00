"""Time of the reference interpreter on an INT8 network, as a multiple of onnxruntime's float32 time.

    python benchmarks/reference.py [--batch 8] [--threads 2]
    python benchmarks/reference.py NETWORK.mlir --float MODEL.onnx

Without arguments the network is a generated ResNet-50 of random weights, together with its float twin; otherwise
NETWORK.mlir is the text of a TPU network (its weights beside it) and MODEL.onnx the float model of the same shapes.
Both are timed in turns in one process, on the same number of threads.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.ir import text
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of, tensor_type
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.numbers import fixed_point
from tpu_deploy.runtime.reference import Reference

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
UNSIGNED, SIGNED = UniformType.of(np.uint8, 0.05), UniformType.of(np.int8, 0.1)


class Twins:
    """Grows a TPU network and a float ONNX graph of the same shapes side by side; values are known by name."""

    def __init__(self, batch: int) -> None:
        self.random = np.random.default_rng(0)
        self.network = Network.create("resnet50", [("input", (batch, 3, 224, 224))], "TPU_LOWERED")
        self.values: dict[str, SSAValue] = {"input": self.network.inputs[0]}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def shape(self, name: str) -> tuple[int, ...]:
        return shape_of(self.values[name])

    def put(self, op: str, operands: list[SSAValue], shape: tuple[int, ...], kind: Any, **attributes: Any) -> str:
        name = f"v{len(self.values)}"
        made = self.network.append(f"tpu.{op}", operands, [tensor_type(shape, kind)], [name], attributes)
        self.values[name] = made.results[0]
        return name

    def float_node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))

    def float_weight(self, name: str, array: np.ndarray[Any, Any]) -> str:
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def constants(self, filters: np.ndarray[Any, Any], gain: float) -> list[SSAValue]:
        """Filter, bias, multiplier and shift that give a result of sensible spread."""
        outputs, terms = filters.shape[0], filters[0].size
        ratio = gain / (np.sqrt(terms) * 30 * self.random.uniform(60, 70, outputs))
        multiplier, shift = fixed_point(ratio)
        bias = self.random.integers(-10000, 10000, outputs)
        stored = filters if filters.ndim == 4 else np.ascontiguousarray(filters.T)
        constants = [bias.astype(np.int32), multiplier.astype(np.int32), shift.astype(np.int32)]
        return [self.network.add_weight("w", array) for array in (stored, *constants)]

    def random_filter(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.clip(np.rint(self.random.normal(0, 30, shape)), -127, 127).astype(np.int8)

    def conv(self, source: str, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        batch, channels, height, width = self.shape(source)
        filters = self.random_filter((outputs, channels, kernel, kernel))
        size = [(n + 2 * (kernel // 2) - kernel) // stride + 1 for n in (height, width)]
        window: dict[str, Any] = {
            "kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "dilations": [1, 1]
        }  # fmt: skip
        operands = [self.values[source], *self.constants(filters, 50)]
        name = self.put("Conv2D", operands, (batch, outputs, *size), UNSIGNED if relu else SIGNED, **window)
        weight = self.float_weight(f"{name}_w", filters * 0.02 / np.sqrt(filters[0].size))
        bias = self.float_weight(f"{name}_b", self.random.normal(0, 0.1, outputs))
        result = f"{name}_sum" if relu else name
        self.float_node("Conv", [source, weight, bias], result, **window)
        if relu:
            self.float_node("Relu", [result], name)
        return name

    def add(self, left: str, right: str) -> str:
        operands = [self.values[left], self.values[right]]
        scales = {"multipliers": [90, 100], "rshifts": [2, 2], "rshift": 5}
        name = self.put("Add", operands, self.shape(left), UNSIGNED, **scales)
        self.float_node("Add", [left, right], f"{name}_sum")
        self.float_node("Relu", [f"{name}_sum"], name)
        return name


def resnet50(batch: int) -> tuple[Network, onnx.ModelProto]:
    twins = Twins(batch)
    values = twins.values
    twins.put("Quantize", [values["input"]], (batch, 3, 224, 224), UniformType.of(np.int8, 0.03))
    twins.float_node("Identity", ["input"], "v1")
    x = twins.conv("v1", 64, 7, 2)
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    pooled = twins.put("MaxPool2D", [values[x]], (batch, 64, 56, 56), UNSIGNED, **window)
    twins.float_node("MaxPool", [x], pooled, **window)
    x = pooled
    for stage, (blocks, width) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = twins.conv(twins.conv(x, width, 1), width, 3, stride)
            y = twins.conv(y, width * 4, 1, relu=False)
            x = twins.add(y, x if block else twins.conv(x, width * 4, 1, stride, relu=False))
    window = {"kernel_shape": [7, 7], "strides": [1, 1], "pads": [0, 0, 0, 0]}
    mean = {"counts": [49], "multipliers": [5478275], "rshift": 28}
    average = twins.put("AvgPool2D", [values[x]], (batch, 2048, 1, 1), UNSIGNED, **window, **mean)
    twins.float_node("GlobalAveragePool", [x], average)
    flat = twins.put("Reshape", [values[average]], (batch, 2048), UNSIGNED)
    twins.float_node("Flatten", [average], flat)
    filters = twins.random_filter((1000, 2048))
    scores = twins.put("MatMul", [values[flat], *twins.constants(filters, 50)], (batch, 1000), SIGNED)
    twins.float_node("Gemm", [flat, twins.float_weight("fc_w", filters * 0.01)], scores, transB=1)
    output = twins.put("Dequantize", [values[scores]], (batch, 1000), Float32Type())
    twins.float_node("Identity", [scores], output)
    twins.network.finish([values[output]], ["output"])
    return twins.network, float_model(twins, batch, output)


def float_model(twins: Twins, batch: int, output: str) -> onnx.ModelProto:
    first = helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, 3, 224, 224))
    last = helper.make_tensor_value_info(output, TensorProto.FLOAT, (batch, 1000))
    graph = helper.make_graph(twins.nodes, "resnet50", [first], [last], twins.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def random_feeds(network: Network) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(1)
    return {
        name_of(value): random.normal(0, 40, shape_of(value)).astype(dtype_of(value))
        if dtype_of(value).kind != "f"
        else random.normal(0, 1, shape_of(value)).astype(np.float32)
        for value in network.inputs
    }


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", type=Path)
    parser.add_argument("--float", type=Path, dest="model", help="float ONNX model to compare with")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    if given.network is None:
        network, model = resnet50(given.batch)
        proto: bytes | None = model.SerializeToString()
    else:
        network, proto = text.load(given.network), given.model.read_bytes() if given.model else None
    feeds = random_feeds(network)
    reference = Reference(network, threads=given.threads)
    print(f"load       {seconds(reference.load):8.3f} s")
    runs: dict[str, Callable[[], object]] = {"reference": lambda: reference.run(feeds)}
    if proto is not None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = given.threads
        float_session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        by_input = {i.name: feeds[i.name].astype(np.float32) for i in float_session.get_inputs()}
        runs["float32"] = lambda: float_session.run(None, by_input)
    images = shape_of(network.inputs[0])[0]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    for name, measured in times.items():
        low, middle = min(measured), sorted(measured)[len(measured) // 2]
        print(f"{name:10} {low / images * 1e3:8.2f} ms per image at best, {middle / images * 1e3:.2f} in the middle")
    if "float32" in times:
        print(f"ratio      {min(times['reference']) / min(times['float32']):8.2f} x onnxruntime float32")


if __name__ == "__main__":
    main()
