"""Trains the demo's network and writes it with its images: fashion_mnist.onnx and fashion_mnist.npz.

    pip install . torch
    python benchmarks/train_demo.py IDX_DIR OUT_DIR

IDX_DIR holds the four Fashion-MNIST files (train-images-idx3-ubyte and so on, gzipped or not), as published at
https://github.com/zalandoresearch/fashion-mnist and in the Debian package dataset-fashion-mnist. The weights are those
after the last epoch: the test images choose nothing. To try another recipe, hold back training images and look at
those: `--holdout 5000`. About 15 minutes on one core that multiplies bfloat16. The same machine gives the same bytes,
another machine's arithmetic slightly different weights.
"""

import argparse
import gzip
import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch  # type: ignore[import-not-found]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional  # type: ignore[import-not-found]

from tpu_deploy.demo import CLASS_NAMES, INPUT_NAME, OUTPUT_NAME, normalise
from tpu_deploy.files import replacing

BATCH = 128
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.05
SHIFT = 2  # pixels that an image moves at most, in each direction
PATCH = 8  # side of the square blanked in half of the images

# SHA-256 of the four files after decompression.
CONTENT = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Layer:
    """One node of the network, named as its output: trained by PyTorch, written as the ONNX operator."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    channels: tuple[int, int] = (0, 0)
    kernel: int = 0
    stride: int = 1
    groups: int = 1


class Network:
    """The layers in order, appended by its methods; each method returns the name of what it computes."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.channels = {INPUT_NAME: 1}

    def add(self, name: str, operator: str, *inputs: str, channels: int = 0, **attributes: int) -> str:
        before = self.channels[inputs[0]]
        self.channels[name] = channels or before
        self.layers.append(Layer(name, operator, inputs, (before, self.channels[name]), **attributes))
        return name

    def conv_bn(self, prefix: str, suffix: str, x: str, channels: int, **attributes: int) -> str:
        x = self.add(f"{prefix}conv{suffix}", "Conv", x, channels=channels, **attributes)
        return self.add(f"{prefix}bn{suffix}", "BatchNormalization", x)

    def conv_bn_relu(self, prefix: str, suffix: str, x: str, channels: int, **attributes: int) -> str:
        return self.add(f"{prefix}relu{suffix}", "Relu", self.conv_bn(prefix, suffix, x, channels, **attributes))

    def join(self, prefix: str, x: str, shortcut: str) -> str:
        return self.add(f"{prefix}relu", "Relu", self.add(f"{prefix}add", "Add", x, shortcut))


def demo_network() -> list[Layer]:
    """A stem with max pooling, two residual blocks, a depthwise residual block, global pooling, a Gemm."""
    net = Network()
    x = net.conv_bn_relu("", "1", INPUT_NAME, 32, kernel=3)
    x = net.add("maxpool", "MaxPool", x, kernel=2, stride=2)
    for prefix, channels, stride in (("layer1.0.", 32, 1), ("layer2.0.", 64, 2)):
        inner = net.conv_bn_relu(prefix, "1", x, channels, kernel=3, stride=stride)
        inner = net.conv_bn(prefix, "2", inner, channels, kernel=3)
        shortcut = x if stride == 1 else net.conv_bn(f"{prefix}downsample.", "", x, channels, kernel=1, stride=stride)
        x = net.join(prefix, inner, shortcut)
    inner = net.conv_bn_relu("layer3.0.", "1", x, 192, kernel=1)
    inner = net.conv_bn_relu("layer3.0.", "2", inner, 192, kernel=3, groups=192)
    x = net.join("layer3.0.", net.conv_bn("layer3.0.", "3", inner, 64, kernel=1), x)
    x = net.conv_bn_relu("head.", "", x, 128, kernel=1)
    x = net.add("flatten", "Flatten", net.add("avgpool", "GlobalAveragePool", x))
    net.add(OUTPUT_NAME, "Gemm", x, channels=len(CLASS_NAMES))
    return net.layers


def trainable(layers: list[Layer]) -> dict[str, torch.nn.Module]:
    """Name → PyTorch module of every layer that has weights."""
    modules: dict[str, torch.nn.Module] = {}
    for layer in layers:
        before, after = layer.channels
        if layer.operator == "Conv":
            pad = layer.kernel // 2
            modules[layer.name] = torch.nn.Conv2d(
                before, after, layer.kernel, layer.stride, pad, groups=layer.groups, bias=False
            )
        elif layer.operator == "BatchNormalization":
            modules[layer.name] = torch.nn.BatchNorm2d(after)
        elif layer.operator == "Gemm":
            modules[layer.name] = torch.nn.Linear(before, after)
    return {name: module.to(memory_format=torch.channels_last) for name, module in modules.items()}


def forward(layers: list[Layer], modules: dict[str, torch.nn.Module], images: torch.Tensor) -> torch.Tensor:
    """Logits, float32 (N, 10), of normalised images (N, 1, 28, 28)."""
    values = {INPUT_NAME: images}
    for layer in layers:
        x, *others = (values[name] for name in layer.inputs)
        match layer.operator:
            case "Relu":
                values[layer.name] = torch.relu(x)
            case "Add":
                values[layer.name] = x + others[0]
            case "MaxPool":
                values[layer.name] = functional.max_pool2d(x, layer.kernel, layer.stride)
            case "GlobalAveragePool":
                values[layer.name] = x.mean((2, 3), keepdim=True)
            case "Flatten":
                values[layer.name] = x.flatten(1)
            case _:
                values[layer.name] = modules[layer.name](x)
    return values[OUTPUT_NAME].float()


def read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Array of one idx file of unsigned bytes, checked against the published content."""
    packed, plain = folder / f"{name}.gz", folder / name
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    if hashlib.sha256(content).hexdigest() != CONTENT[name]:
        raise SystemExit(f"{folder / name}: not the published Fashion-MNIST file")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(tuple(shape))


def augmented(padded: NDArray[np.uint8], chosen: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The chosen images, uint8 (N, 28, 28), each shifted, perhaps mirrored, perhaps with a blank patch.

    `padded` has SHIFT blank pixels on every side.
    """
    count, side = len(chosen), padded.shape[1] - 2 * SHIFT
    row, column = rng.integers(0, 2 * SHIFT + 1, (2, count, 1))
    rows = row + np.arange(side)
    columns = np.where(rng.random((count, 1)) < 0.5, column + np.arange(side), column + np.arange(side)[::-1])
    images = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
    offset = np.arange(side) - rng.integers(1 - PATCH, side, (2, count, 1))
    inside = (offset >= 0) & (offset < PATCH)
    blank = inside[0][:, :, None] & inside[1][:, None, :] & (rng.random((count, 1, 1)) < 0.5)
    return np.where(blank, np.uint8(0), images)


def accuracy(
    layers: list[Layer],
    modules: dict[str, torch.nn.Module],
    pixels: NDArray[np.uint8],
    labels: NDArray[np.uint8],
) -> float:
    """Share of `pixels` (N, 28, 28) classified as `labels` (N,), with batch normalization's running statistics."""
    for module in modules.values():
        module.eval()
    with torch.no_grad():
        found = [
            forward(layers, modules, torch.from_numpy(normalise(part))).argmax(1).numpy()
            for part in np.array_split(pixels, -(-len(pixels) // 500))
        ]
    return float((np.concatenate(found) == labels).mean())


def train(
    layers: list[Layer], pixels: NDArray[np.uint8], labels: NDArray[np.uint8], options: argparse.Namespace
) -> dict[str, torch.nn.Module]:
    """Name → trained module, after `options.epochs` passes over all but the last `options.holdout` images."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    modules = trainable(layers)
    count = len(pixels) - options.holdout
    padded = np.pad(pixels[:count], ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    steps = options.epochs * (count // BATCH)
    parameters = [value for module in modules.values() for value in module.parameters()]
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.15)
    for epoch in range(options.epochs):
        started, total = time.monotonic(), 0.0
        for module in modules.values():
            module.train()
        for chosen in np.array_split(rng.permutation(count)[: count // BATCH * BATCH], count // BATCH):
            images = torch.from_numpy(normalise(augmented(padded, chosen, rng)))
            with torch.autocast("cpu", torch.bfloat16):
                logits = forward(layers, modules, images)
            target = torch.from_numpy(labels[chosen].astype(np.int64))
            loss = functional.cross_entropy(logits, target, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        line = f"epoch {epoch + 1}/{options.epochs}: loss {total / (count // BATCH):.4f}"
        if options.holdout:
            line += f", held out {accuracy(layers, modules, pixels[count:], labels[count:]):.4f}"
        print(f"{line}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return modules


def onnx_node(layer: Layer, weights: list[str]) -> onnx.NodeProto:
    """The ONNX node of a layer; `weights` are the names of its initializers, in the operator's order."""
    attributes: dict[str, Any] = {}
    if layer.operator in ("Conv", "MaxPool"):
        attributes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
    if layer.operator == "Conv":
        attributes |= {"pads": [layer.kernel // 2] * 4, "group": layer.groups}
    elif layer.operator == "Gemm":
        attributes = {"transB": 1}
    elif layer.operator == "BatchNormalization":
        attributes = {"epsilon": 1e-5}
    return helper.make_node(layer.operator, [*layer.inputs, *weights], [layer.name], layer.name, **attributes)


def onnx_model(layers: list[Layer], modules: dict[str, torch.nn.Module]) -> onnx.ModelProto:
    """The trained network as ONNX, opset 13, batch normalization unfused, batch dimension `N`."""
    nodes, initializers = [], []
    for layer in layers:
        state = modules[layer.name].state_dict() if layer.name in modules else {}
        names = {key: f"{layer.name}.{key}" for key in state if key != "num_batches_tracked"}
        initializers += [
            numpy_helper.from_array(np.ascontiguousarray(state[key].numpy(), np.float32), name)
            for key, name in names.items()
        ]
        nodes.append(onnx_node(layer, list(names.values())))
    image = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", 1, 28, 28])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", len(CLASS_NAMES)])
    graph = helper.make_graph(nodes, "fashion_mnist", [image], [logits], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    model.producer_name = "benchmarks/train_demo.py"
    onnx.checker.check_model(model, full_check=True)
    return model


def exported_accuracy(model: bytes, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Share of `pixels` (N, 28, 28) that onnxruntime classifies as `labels` (N,) with the written model."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = np.array_split(pixels, -(-len(pixels) // 500))
    found = [session.run([OUTPUT_NAME], {INPUT_NAME: normalise(part)})[0].argmax(1) for part in parts]
    return float((np.concatenate(found) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idx_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--holdout", type=int, default=0, help="training images kept back and measured each epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: the same machine gives the same weights
    train_pixels, train_labels, test_pixels, test_labels = (read_idx(options.idx_dir, name) for name in CONTENT)
    layers = demo_network()
    modules = train(layers, train_pixels, train_labels, options)
    content = onnx_model(layers, modules).SerializeToString(deterministic=True)
    with replacing(options.out_dir / "fashion_mnist.onnx") as stream:
        stream.write(content)
    if options.holdout:
        return
    chosen = np.sort(np.concatenate([np.flatnonzero(test_labels == label)[:50] for label in range(len(CLASS_NAMES))]))
    arrays = {"calibration": train_pixels[:128], "test": test_pixels[chosen], "labels": test_labels[chosen]}
    with replacing(options.out_dir / "fashion_mnist.npz") as stream:
        np.savez_compressed(stream, **arrays, class_names=np.array(CLASS_NAMES))
    print(f"float accuracy, 10,000 test images: {exported_accuracy(content, test_pixels, test_labels):.4f}")
    print(f"float accuracy, packaged test images: {exported_accuracy(content, arrays['test'], arrays['labels']):.4f}")
    for name in ("fashion_mnist.onnx", "fashion_mnist.npz"):
        print(f"{hashlib.sha256((options.out_dir / name).read_bytes()).hexdigest()}  {name}")


if __name__ == "__main__":
    main()
