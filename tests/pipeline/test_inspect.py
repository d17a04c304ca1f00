from __future__ import annotations

import pytest
from onnx import helper
from small_model import small_model

import tpu_deploy


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


def test_an_unknown_chip_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(tpu_deploy.BadInput, match="did you mean bm1684x"):
        tpu_deploy.inspect("nothing.onnx", chip="bm1684")
