"""`--method auto` on few samples: what nobody has seen is in the ranges, and nothing is fitted that none can judge."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_model import feeds, small_model

import tpu_deploy
from tpu_deploy.pipeline.options import Silent
from tpu_deploy.pipeline.tuning import split


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_one_sample_fits_nothing_and_says_so() -> None:
    listener = Listener()
    table = tpu_deploy.calibrate(small_model(), feeds(1), method="auto", progress=listener)
    assert table.plan.trials == () and not table.plan.weights
    assert any("none to judge by" in note for note in listener.notes)


def test_ranges_reach_what_the_samples_kept_apart_hold() -> None:
    samples = feeds(8)
    (name,) = samples[0]
    apart = split(8)[1][0]
    samples[apart] = {name: np.float32(3.0) * samples[apart][name]}
    table = tpu_deploy.calibrate(small_model(), samples, method="auto", passes=["bias"])
    assert table[name].max == pytest.approx(float(max(feed[name].max() for feed in samples)))
    assert table.plan.tensors[name].high > 0.8 * max(float(np.abs(feed[name]).max()) for feed in samples[:1])


def test_a_network_that_computes_nothing_has_nothing_to_tune() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    samples = [{"x": np.full((1, 4), k, np.float32)} for k in range(4)]
    assert tpu_deploy.calibrate(model, samples, method="auto").plan.trials == ()
