import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tpu_deploy.calibration.preprocessing import first_convolution, suspicions
from tpu_deploy.calibration.spread import SpreadSamples

MEAN, SCALE = np.array([120.0, 115.0, 100.0]).reshape(3, 1, 1), 1 / 58
KERNELS = 24


def photographs(count: int, seed: int) -> np.ndarray:
    """Smooth colour pictures, 8-bit values in float, (count, 3, 40, 40): more red than blue."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, 7, 7)) + 1.5 * rng.normal(size=(count, 1, 7, 7))
    at = np.linspace(0, 5.999, 40)
    low, share = at.astype(int), at % 1
    rows = coarse[:, :, low] * (1 - share)[:, None] + coarse[:, :, low + 1] * share[:, None]
    fine = rows[..., low] * (1 - share) + rows[..., low + 1] * share
    noise = rng.normal(0, 3, (count, 3, 40, 40))
    return np.clip(np.rint(MEAN + 45 * fine + noise), 0, 255)


def normalized(pixels: np.ndarray) -> np.ndarray:
    return ((pixels - MEAN) * SCALE).astype(np.float32)


def classifier(kind: str) -> onnx.ModelProto:
    """A convolution trained on such pictures (its normalization folded or not), and a head that knows colours."""
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(KERNELS, 3, 3, 3)).astype(np.float32) / 5
    seen = normalized(photographs(16, 99))
    windows = np.lib.stride_tricks.sliding_window_view(seen, (3, 3), axis=(2, 3))
    response = np.einsum("nchwij,kcij->knhw", windows, weights).reshape(KERNELS, -1)
    mean, variance = response.mean(1), response.var(1)
    shift = rng.normal(0, 0.7, KERNELS)
    constants = {"w": weights, "g": np.ones(KERNELS), "s": shift, "m": mean, "v": variance}
    if kind == "folded":
        gain = 1 / np.sqrt(variance)
        constants |= {"w": weights * gain[:, None, None, None], "b": shift - mean * gain}
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["n"])]
    else:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "g", "s", "m", "v"], ["n"]),
        ]
    constants["colour"] = np.array([[4.0, 0, -4], [0, 4, -4], [-4, 0, 4], [-4, 4, 0], [-8, 0, 0]])[:, :, None, None]
    nodes += [
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalMaxPool", ["x"], ["top"]),
        helper.make_node("Conv", ["top", "colour"], ["scores"]),
        helper.make_node("Flatten", ["scores"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 40, 40])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "r")],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def suspected(kind: str, inputs: np.ndarray) -> list[str]:
    feeds = [{"x": np.ascontiguousarray(each[None].astype(np.float32))} for each in inputs]
    return [each.kind for each in suspicions(classifier(kind), feeds)]


KINDS = pytest.mark.parametrize("kind", ["normalized", "folded"])


@KINDS
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_suspected_of_samples_like_those_of_training(kind: str, seed: int) -> None:
    pixels = photographs(24, seed)
    assert suspected(kind, normalized(pixels)) == []
    assert suspected(kind, normalized(0.5 * pixels)) == []  # darker pictures
    assert suspected(kind, normalized(np.broadcast_to(pixels.mean(1, keepdims=True), pixels.shape))) == []  # gray


@KINDS
@pytest.mark.parametrize(
    ("mistake", "wrong"),
    [
        ("scale", lambda pixels: pixels),
        ("scale", lambda pixels: pixels - MEAN),
        ("scale", lambda pixels: normalized(pixels) / 255),
        ("mean", lambda pixels: pixels * SCALE),
        ("layout", lambda pixels: normalized(pixels).transpose(0, 2, 3, 1).reshape(pixels.shape)),
    ],
)
def test_a_mistake_is_told_by_its_kind(kind: str, mistake: str, wrong) -> None:
    for seed in range(3):
        assert suspected(kind, wrong(photographs(24, seed))) == [mistake]


def test_raw_pixels_are_called_so() -> None:
    feeds = [{"x": each[None].astype(np.float32)} for each in photographs(8, 0)]
    (found,) = suspicions(classifier("folded"), feeds)
    assert "these are raw pixels: give --mean and --scale" in found.message and "\n" not in found.message


def test_a_model_that_normalizes_its_input_itself_takes_raw_pixels() -> None:
    model = classifier("folded")
    for node in model.graph.node:
        node.input[:] = ["normal" if name == "x" else name for name in node.input]
    before = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "factor"], ["normal"]),
    ]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    constants = {"mean": MEAN.astype(np.float32), "factor": np.array(SCALE, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    feeds = [{"x": each[None].astype(np.float32)} for each in photographs(24, 1)]
    assert suspicions(model, feeds) == ()
    assert [each.kind for each in suspicions(model, [{"x": feed["x"] / 255} for feed in feeds])] == ["scale"]


def test_red_and_blue_exchanged_are_suspected_of_a_classifier_that_is_surer_the_other_way_round() -> None:
    pixels = photographs(24, 3)
    pixels[:, 0] = np.clip(pixels[:, 0] + 40, 0, 255)
    model = classifier("folded")
    reddish = np.array([[9.0, 0, -9], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    colour = next(each for each in model.graph.initializer if each.name == "colour")
    colour.CopyFrom(numpy_helper.from_array(reddish[:, :, None, None].astype(np.float32), "colour"))
    for node in model.graph.node:
        node.op_type = {"GlobalMaxPool": "GlobalAveragePool"}.get(node.op_type, node.op_type)
    model.graph.node[-1].input[:] = ["sure"]
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Relu", ["scores"], ["sure"]))
    right = [{"x": each[None].astype(np.float32)} for each in normalized(pixels)]
    wrong = [{"x": np.ascontiguousarray(feed["x"][:, ::-1])} for feed in right]
    assert suspicions(model, right) == ()
    assert [each.kind for each in suspicions(model, wrong)] == ["colour order"]
    gray = [{"x": np.repeat(feed["x"][:, :1], 3, axis=1)} for feed in right]
    assert suspicions(model, gray) == ()


def test_what_is_no_picture_is_not_looked_at() -> None:
    model = classifier("folded")
    assert suspicions(model, []) == ()
    assert suspicions(model, [{"x": np.ones((1, 7), np.float32)}]) == ()
    assert suspicions(model, [{"x": np.ones((1, 5, 40, 40), np.float32)}]) == ()
    assert suspicions(model, [{"x": np.ones((1, 3, 40, 40), np.float32), "z": np.ones(1)}]) == ()


def test_a_model_without_a_first_convolution_is_let_be() -> None:
    model = classifier("folded")
    model.graph.node[0].op_type = "ConvInteger"
    assert first_convolution(model, "x") is None


def test_samples_are_kept_from_all_over_the_data() -> None:
    spread = SpreadSamples(1000, most=10)
    for number in range(1000):
        spread.offer(number, {"x": np.full(3, number)})
    assert [int(feed["x"][0]) for feed in spread.feeds()] == list(range(0, 1000, 100))
    unknown = SpreadSamples(None, most=3)
    for number in reversed(range(9)):
        unknown.offer(number, {"x": np.full(3, number)})
    assert [int(feed["x"][0]) for feed in unknown.feeds()] == [0, 1, 2]
