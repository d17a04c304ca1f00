"""The list of passes as a whole: what is left and under which names, once and for all, also for random networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_cases import CASES, N, assert_close, feeds_for, ints, model, number, positive, run, weight
from top_networks import Top, rewritten, summary

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx, import_onnx
from tpu_deploy.ir.network import name_of
from tpu_deploy.ir.text import from_text, to_text
from tpu_deploy.ir.weights import WeightStore
from tpu_deploy.lowering.canonicalize import PASSES, canonicalize
from tpu_deploy.lowering.remove_no_ops import remove_no_ops

BEFORE = """builtin.module @net attributes {module.state = "TOP_F32", module.output_names = ["y"]} {
  func.func @main(%0 : tensor<1x3x4x4xf32> loc("x")) -> tensor<1x3x4x4xf32> {
    %1 = "top.Input"(%0) : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32> loc("x")
    %2 = "top.Weight"() : () -> tensor<3xf32> loc("scale")
    %3 = "top.Weight"() : () -> tensor<3xf32> loc("bias")
    %4 = "top.Scale"(%1, %2, %3) : (tensor<1x3x4x4xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<1x3x4x4xf32> loc("a")
    %5 = "top.Clip"(%4) {min = 0.0 : f64, max = 6.0 : f64} : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32> loc("b")
    %6 = "top.Reshape"(%5) : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32> loc("y")
    func.return %6 : tensor<1x3x4x4xf32>
  }
}"""

AFTER = (
    '%4 = "top.Scale"(%1, %2, %3) {do_relu = true, relu_limit = 6.000000e+00 : f64} : '
    '(tensor<1x3x4x4xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<1x3x4x4xf32> loc("b")\n'
    "    func.return %4 : tensor<1x3x4x4xf32>"
)


def test_text_in_text_out() -> None:
    network = from_text(BEFORE, WeightStore({"scale": positive(3), "bias": positive(3)}))
    canonicalize(network)
    assert AFTER in to_text(network)


def classifier() -> onnx.ModelProto:
    norm = {f"n{i}": positive(8) for i in range(4)}
    norms = list(norm)
    nodes = [
        N("Pad", ["x", "around"], ["x/pad"]),
        N("Conv", ["x/pad", "w1"], ["stem"], strides=[2, 2]),
        N("BatchNormalization", ["stem", *norms], ["stem/bn"]),
        N("Clip", ["stem/bn", "zero", "six"], ["stem/relu6"]),
        N("Conv", ["stem/relu6", "w2"], ["deep"], pads=[1, 1, 1, 1], group=8),
        N("Mul", ["deep", "channel"], ["deep/mul"]),
        N("Sigmoid", ["deep/mul"], ["deep/gate"]),
        N("Mul", ["deep/mul", "deep/gate"], ["deep/silu"]),
        N("Conv", ["deep/silu", "w3", "b3"], ["wide"]),
        N("Add", ["wide", "stem/relu6"], ["sum"]),
        N("Relu", ["sum"], ["sum/relu"]),
        N("ReduceMean", ["sum/relu"], ["mean"], axes=[2, 3]),
        N("Squeeze", ["mean", "two_three"], ["flat"]),
        N("MatMul", ["flat", "w4"], ["product"]),
        N("Add", ["product", "b4"], ["logits"]),
    ]
    constants = {
        **norm,
        "around": ints(0, 0, 1, 1, 0, 0, 1, 1),
        "zero": number(0),
        "six": number(6),
        "two_three": ints(2, 3),
        "w1": weight(8, 3, 3, 3),
        "w2": weight(8, 1, 3, 3),
        "channel": positive(8, 1, 1),
        "w3": weight(8, 8, 1, 1),
        "b3": weight(8),
        "w4": weight(8, 10),
        "b4": weight(10),
    }
    return model(nodes, {"x": (2, 3, 17, 15)}, constants, outputs=("logits", "wide"))


def test_a_classifier_keeps_one_operation_for_each_idea() -> None:
    network = import_onnx(classifier())
    expected = run(classifier(), feeds_for(classifier()))
    canonicalize(network)
    assert summary(network) == [
        "stem/relu6=Conv+relu6",
        "deep/mul=Conv",
        "deep/silu=SiLU",
        "wide=Conv",
        "sum/relu=Add+relu",
        "mean=AvgPool",
        "flat=Reshape",
        "logits=MatMul",
    ]
    assert_close(run(export_onnx(network), feeds_for(classifier())), expected)


def test_no_weight_is_left_that_nobody_reads() -> None:
    network = import_onnx(classifier())
    canonicalize(network)
    read = {name_of(v) for op in network.operations for v in op.operands if network.weight(v) is not None}
    assert set(network.weights) == read


def test_signature_follows_the_outputs() -> None:
    top = Top((2, 3))
    network = top.finish(top.op("Reshape", "y", top.op("Relu", "a", top.x)))
    assert rewritten(network, canonicalize) == ["a=Relu"]


@pytest.mark.parametrize("name", CASES)
def test_a_canonical_network_does_not_change_again(name: str) -> None:
    network = import_onnx(CASES[name])
    canonicalize(network)
    before = to_text(network)
    assert [rewrite(network) for rewrite in PASSES] == [0] * len(PASSES)
    assert to_text(network) == before


def test_passes_say_what_they_do() -> None:
    assert all(rewrite.__doc__ for rewrite in PASSES)
    assert remove_no_ops in PASSES


# ---- random networks

Step = Callable[["Random"], None]


class Random:
    """A random ONNX network of image operations; every step reads values made before."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: list[tuple[str, int]] = [("x", 4)]

    def choose(self, count: int) -> int:
        return self.draw(st.integers(0, count - 1))

    def pick(self) -> tuple[str, int]:
        return self.values[max(0, len(self.values) - 1 - self.choose(3))]

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def emit(self, op_type: str, inputs: list[str], channels: int | None, **attributes: object) -> str:
        """A new node; its result can be read by later steps when `channels` is given."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(N(op_type, inputs, [name], **attributes))
        if channels is not None:
            self.values.append((name, channels))
        return name

    def conv(self) -> None:
        name, channels = self.pick()
        outputs = (2, 4, 6)[self.choose(3)]
        kernel = (1, 3)[self.choose(2)]
        filters = weight(outputs, channels, kernel, kernel) / (channels * kernel)
        self.emit("Conv", [name, self.constant(filters)], outputs, pads=[kernel // 2] * 4)

    def norm(self) -> None:
        name, channels = self.pick()
        parts = [self.constant(positive(channels)) for _ in range(4)]
        self.emit("BatchNormalization", [name, *parts], channels)

    def arithmetic(self) -> None:
        name, channels = self.pick()
        op_type = ("Add", "Sub", "Mul", "Div")[self.choose(4)]
        array = (number(1.5), positive(channels, 1, 1), positive(8), positive(1, 1, 9, 8))[self.choose(4)]
        operands = [name, self.constant(array)]
        if op_type != "Div" and self.choose(2):
            operands.reverse()
        self.emit(op_type, operands, channels)

    def unary(self) -> None:
        name, channels = self.pick()
        self.emit(("Relu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Identity")[self.choose(6)], [name], channels)

    def clip(self) -> None:
        name, channels = self.pick()
        low, high = ((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0))[self.choose(3)]
        self.emit("Clip", [name, self.constant(number(low)), self.constant(number(high))], channels)

    def binary(self) -> None:
        (a, channels), (b, others) = self.pick(), self.pick()
        if channels == others:
            self.emit(("Add", "Mul", "Sub")[self.choose(3)], [a, b], channels)

    def pad_and_pool(self) -> None:
        name, channels = self.pick()
        padded = self.emit("Pad", [name, self.constant(ints(0, 0, 1, 1, 0, 0, 1, 1))], None)
        self.emit(("MaxPool", "AveragePool")[self.choose(2)], [padded], channels, kernel_shape=[3, 3])

    def there_and_back(self) -> None:
        name, channels = self.pick()
        flat = self.emit("Reshape", [name, self.constant(ints(0, 0, -1))], None)
        inner = self.emit(("Relu", "Sigmoid")[self.choose(2)], [flat], None)
        self.emit("Reshape", [inner, self.constant(ints(0, 0, 9, 8))], channels)


STEPS = (
    Random.conv,
    Random.norm,
    Random.arithmetic,
    Random.unary,
    Random.clip,
    Random.binary,
    Random.pad_and_pool,
    Random.there_and_back,
)


@given(st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_values_of_random_networks_keep_name_and_meaning(data: st.DataObject) -> None:
    made = Random(data.draw)
    for _ in range(data.draw(st.integers(2, 12))):
        STEPS[made.choose(len(STEPS))](made)
    names = [name for name, _ in made.values[1:]]
    if not names:
        return
    outputs = dict.fromkeys([names[-1], names[made.choose(len(names))]])
    shapes = {"x": (2, 4, 9, 8)}
    network = import_onnx(model(made.nodes, shapes, made.constants, outputs=tuple(outputs)))
    canonicalize(network)
    every = model(made.nodes, shapes, made.constants, outputs=[n.output[0] for n in made.nodes])
    feeds = feeds_for(every)
    expected = run(every, feeds)
    surviving = {name_of(v) for v in network.values()} | set(outputs)
    actual = run(export_onnx(network, [name for name in expected if name in surviving]), feeds)
    assert set(outputs) <= set(actual)
    for name, found in actual.items():
        array = expected[name]
        np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-4 * max(1, float(np.abs(array).max())))


BIG = np.full(4, 3e38, np.float32)
SCALED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]] = {
    "the bias of a convolution": (
        [N("Conv", ["x", "w", "b"], ["c"]), N("Mul", ["c", "k"], ["y"])],
        {"w": weight(4, 6, 1, 1), "b": BIG, "k": number(2.0)},
        "y_bias",
    ),
    "its weight": (
        [N("Conv", ["x", "w"], ["c"]), N("Mul", ["c", "k"], ["y"])],
        {"w": np.full((4, 6, 1, 1), 3e38, np.float32), "k": number(2.0)},
        "y_weight",
    ),
    "a factor in front of it": (
        [N("Mul", ["x", "k"], ["s"]), N("Conv", ["s", "w"], ["y"])],
        {"w": np.full((4, 6, 1, 1), 1e30, np.float32), "k": number(1e30)},
        "y_weight",
    ),
    "numbers one after the other": (
        [N("Mul", ["x", "k"], ["s"]), N("Mul", ["s", "k"], ["y"])],
        {"k": number(1e30)},
        "y_constant",
    ),
    "a BatchNorm alone": (
        [N("BatchNormalization", ["x", "g", "z", "m", "v"], ["y"])],
        {"g": np.full(6, 3e38, np.float32), "z": np.zeros(6, np.float32), "m": weight(6), "v": np.full(6, 1e-3, "f4")},
        "y_scale",
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", SCALED)
def test_what_float32_cannot_hold_once_folded_is_refused_by_name(case: str) -> None:
    nodes, weights, name = SCALED[case]
    network = import_onnx(model(nodes, {"x": (1, 6, 4, 4)}, weights))
    with pytest.raises(BadInput, match=f"weight {name}, into which") as raised:
        canonicalize(network)
    assert "\n" not in str(raised.value)
