from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_model import small_model

import tpu_deploy
from tpu_deploy.frontend import UnsupportedOperators


def test_operators_are_counted_and_inputs_shown() -> None:
    found = tpu_deploy.inspect(small_model("N"))
    assert found.is_supported and found.inputs == (("image", "N,3,16,16"),)
    assert found.operators["Conv"] == 2 and sum(found.operators.values()) == 9


def test_what_only_the_lowering_refuses_is_found_too_by_its_onnx_node() -> None:
    model = small_model()
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(helper.make_node("LogSoftmax", ["plain"], ["scores"], "last", axis=1))
    found = tpu_deploy.inspect(model)
    assert [(each.node, each.op_type) for each in found.findings] == [("last", "LogSoftmax")]
    with pytest.raises(tpu_deploy.BadInput, match="LogSoftmax at last"):
        tpu_deploy.calibrate(model, [])


def one_node(op_type: str, shape: tuple[int, ...], **attributes: object) -> onnx.ModelProto:
    """A model of the node "only" between float tensors x and y of one shape."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node(op_type, ["x"], ["y"], "only", **attributes)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def never_read() -> Iterator[dict[str, np.ndarray]]:
    """Calibration data that must not be touched."""
    raise AssertionError("calibration data are read")
    yield {}


REFUSED_LATE = {
    "by the lowering": (lambda: one_node("LogSoftmax", (1, 5), axis=1), "LogSoftmax at only"),
    "by code generation": (lambda: one_node("Softmax", (1, 2_000_000), axis=1), "one row of 2000000 elements"),
}


@pytest.mark.parametrize("case", REFUSED_LATE)
def test_what_the_frontend_accepts_is_refused_before_calibration_data_are_read(case: str, tmp_path: Path) -> None:
    make, told = REFUSED_LATE[case]
    assert [each.node for each in tpu_deploy.inspect(make()).findings] == ["only"]
    for act in (
        lambda: tpu_deploy.calibrate(make(), never_read()),
        lambda: tpu_deploy.deploy(make(), data=never_read(), output=tmp_path / "m.bmodel"),
    ):
        with pytest.raises(tpu_deploy.BadInput, match=told) as raised:
            act()
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def refused_everywhere() -> onnx.ModelProto:
    """Nodes refused by the frontend, the lowering and code generation, one after the other, between others."""
    node = helper.make_node
    nodes = [
        node("Relu", ["x"], ["a"], "fine"),
        node("Softmax", ["a"], ["b"], "too long", axis=1),
        node("Det", ["m"], ["d"], "unknown"),
        node("Sin", ["b"], ["c"], "sine"),
        node("Relu", ["c"], ["e"], "fine too"),
        node("LogSoftmax", ["e"], ["f"], "logarithm", axis=1),
    ]
    inputs = [("x", (1, 2_000_000)), ("m", (1, 3, 3))]
    outputs = [("f", (1, 2_000_000)), ("d", (1,))]
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in each] for each in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_all_stages_are_asked_at_once_and_findings_come_in_the_order_of_the_nodes(tmp_path: Path) -> None:
    refused = ["too long", "unknown", "sine", "logarithm"]
    assert [each.node for each in tpu_deploy.inspect(refused_everywhere()).findings] == refused
    with pytest.raises(UnsupportedOperators) as raised:
        tpu_deploy.deploy(refused_everywhere(), data=never_read(), output=tmp_path / "m.bmodel")
    assert [each.node for each in raised.value.findings] == refused
    assert "4 unsupported operators" in str(raised.value) and "\n" not in str(raised.value)


def test_an_unknown_chip_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(tpu_deploy.BadInput, match="did you mean bm1684x"):
        tpu_deploy.inspect("nothing.onnx", chip="bm1684")
