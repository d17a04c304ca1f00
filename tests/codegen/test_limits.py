"""What the limits refuse cannot be compiled, and what they do not refuse can, with exact results."""

import time
from dataclasses import replace
from unittest import mock

import pytest
from exactness import assert_exact
from hypothesis import given, settings
from hypothesis import strategies as st
from network_parts import Parts

from tpu_deploy.chips import Chip, chip
from tpu_deploy.codegen import compile
from tpu_deploy.codegen.limits import refusal
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.ir.tpu import ROWS

CHIP = chip("bm1684x")
PROPERTY = settings(derandomize=True, max_examples=40, deadline=None)


def refusals(network: Network, chip: Chip = CHIP) -> list[str]:
    """What the limits say of each operation."""
    found = (
        refusal(op.name, [shape_of(v) for v in op.operands], shape_of(op.results[0]), attributes_of(op), chip)
        for op in network.operations
    )
    return [reason for reason in found if reason is not None]


def conv(channels: int, kernel, outputs=8, size=None, **more) -> Network:
    p = Parts((1, channels, *(size or kernel)))
    return p.finish(p.conv(p.start(), outputs, kernel, **more))


def pool(kind: str, shape, kernel, **more) -> Network:
    p = Parts(shape)
    return p.finish(getattr(p, kind)(p.start(), kernel, **more))


def softmax(*shape: int) -> Network:
    p = Parts(shape)
    return p.returning(p.softmax(p.dequantize(p.start()), 1))


POSSIBLE = {
    "a window of one position": lambda: conv(3, (1, 1), size=(5, 5)),
    "a kernel as large as an image": lambda: conv(3, (50, 50)),
    "large strides and dilations": lambda: conv(8, (3, 3), size=(90, 90), strides=(17, 20), dilations=(18, 36)),
    "a window larger than local memory": lambda: pool("max_pool", (1, 3, 700, 600), (700, 600)),
    "a row longer than sizes can be": lambda: pool("average_pool", (1, 2, 1, 70_000), (1, 70_000)),
    "many classes": lambda: softmax(3, 5000),
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_is_not_refused_is_exact(name):
    network = POSSIBLE[name]()
    assert refusals(network) == []
    assert_exact(network)


@st.composite
def windows(draw) -> Network:
    """A convolution or pooling with sizes, kernels, strides and dilations small and far beyond what fields can hold."""
    size = [draw(st.sampled_from([1, 7, 30, 70, 300])) for _ in range(2)]
    kernel = [min(s, draw(st.sampled_from([1, 2, 3, 7, 31, 300]))) for s in size]
    strides = [draw(st.sampled_from([1, 2, 15, 16, 40])) for _ in range(2)]
    channels = draw(st.sampled_from([1, 5, 64, 70]))
    kind = draw(st.sampled_from(["conv", "depthwise", "max_pool", "average_pool"]))
    if kind.endswith("pool"):
        return pool(kind, (1, channels, *size), kernel, strides=strides)
    dilations = [
        draw(st.sampled_from([d for d in (1, 2, 15, 17, 24) if d * (k - 1) < s]))
        for k, s in zip(kernel, size, strict=True)
    ]
    group = channels if kind == "depthwise" else 1
    outputs = channels if kind == "depthwise" else draw(st.sampled_from([1, 70]))
    return conv(channels, kernel, outputs, size, strides=strides, dilations=dilations, group=group)


@st.composite
def rows(draw) -> Network:
    """A matrix product or softmax of short and long rows."""
    shape = draw(st.sampled_from([1, 3, 100])), draw(st.sampled_from([1, 64, 65, 300, 5000]))
    if draw(st.booleans()):
        return softmax(*shape)
    p = Parts(shape)
    return p.finish(p.matmul(p.start(), draw(st.sampled_from([1, 70, 300]))))


@PROPERTY
@given(windows())
def test_windows_are_refused_where_they_cannot_be_compiled_and_only_there(network):
    assert_decided(network, CHIP)


@settings(PROPERTY, max_examples=80)
@given(st.one_of(windows(), rows()), st.sampled_from([4096, 8192, 16384]))
def test_so_they_are_on_chips_with_less_local_memory(network, lane_bytes):
    assert_decided(network, small(lane_bytes))


def small(lane_bytes: int) -> Chip:
    return replace(CHIP, lane_bytes=lane_bytes)


def assert_decided(network: Network, chip: Chip) -> None:
    """The limits refuse an operation just where the compiler does."""
    refused = refusals(network, chip)
    with mock.patch.object(compile, "chip_named", lambda _: chip):
        try:
            compile.compile_network(network, optimize=0)
        except BadInput as error:
            assert refused, error
        else:
            assert refused == []


def test_a_refusal_says_what_takes_how_much_of_how_much():
    (reason,) = refusals(conv(64, (7, 9)), small(4096))
    assert reason.startswith("one position of its 7x9 window takes")
    assert reason.endswith("KiB of each lane's local memory, which has room for 3 KiB")


def test_averages_whose_sums_leave_32_bits_are_refused():
    def reason(*kernel: int) -> str | None:
        attributes = {"kernel_shape": kernel, "strides": [1, 1], "pads": [0] * 4}
        return refusal("tpu.AvgPool2D", [(1, 1, *kernel)], (1, 1, 1, 1), attributes, CHIP)

    assert reason(2900, 2900) is None
    assert "3000x3000" in reason(3000, 3000) and "32 bits" in reason(3000, 3000)


@pytest.mark.parametrize(
    "kind, operands, result",
    [("tpu.Lut", [(1, 0, 4), (256,)], (1, 0, 4)), ("top.Relu", [(0,)], (0,)), ("tpu.Concat", [(1, 2), (1, 0)], (1, 2))],
)
def test_tensors_without_elements_are_refused(kind, operands, result):
    assert "holds no elements" in refusal(kind, operands, result, {}, CHIP)


def test_top_operations_are_judged_as_what_they_become():
    window = {"kernel_shape": [400, 400], "strides": [1, 1], "pads": [0] * 4}
    shapes = [(1, 64, 400, 400), (3, 64, 400, 400)], (1, 3, 1, 1)
    chip = small(512)
    conv2d = refusal("tpu.Conv2D", *shapes, {**window, "dilations": [1, 1], "group": 1}, chip)
    assert conv2d is not None
    assert refusal("top.Conv", *shapes, window, chip) == conv2d
    assert refusal("top.MaxPool", [(1, 3, 9, 9)], (1, 3, 7, 7), {**window, "kernel_shape": [3, 3]}, CHIP) is None
    assert refusal("top.MatMul", [(4, 9), (9, 5)], (4, 5), {"right_transpose": False}, CHIP) is None
    assert refusal("top.Softmax", [(4, 9)], (4, 9), {"axis": -1}, CHIP) is None


def test_every_operation_of_the_dialect_has_code():
    shapes = {"tpu.Conv2D": [(1, 4, 5, 5), (3, 4, 1, 1)], "tpu.MatMul": [(5, 5), (5, 5)]}
    attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "axis": 1}
    for row in ROWS:
        operands = shapes.get(row.name, [(1, 4, 5, 5)])
        assert refusal(row.name, operands, operands[0], attributes, CHIP) is None, row.name
    assert "no code" in refusal("tpu.Unheard", [(1,)], (1,), {}, CHIP)


def test_judging_large_tensors_takes_no_time():
    start = time.perf_counter()
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
    assert refusal("top.Conv", [(64, 64, 4000, 4000), (64, 64, 3, 3)], (64, 64, 4000, 4000), window, CHIP) is None
    assert refusal("top.MaxPool", [(64, 64, 4000, 4000)], (64, 64, 4000, 4000), window, CHIP) is None
    assert refusal("top.AvgPool", [(64, 64, 4000, 4000)], (64, 64, 4000, 4000), window, CHIP) is None
    assert time.perf_counter() - start < 5
