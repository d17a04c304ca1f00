"""A network exported from TOP computes what the imported ONNX model computes, before and after canonicalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_cases import CASES

from tpu_deploy.frontend import export_onnx, import_onnx
from tpu_deploy.frontend.registry import CONVERTERS, EXPORTERS
from tpu_deploy.ir import top
from tpu_deploy.lowering.canonicalize import canonicalize

Arrays = dict[str, np.ndarray[Any, Any]]


def run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_for(model: onnx.ModelProto) -> Arrays:
    rng = np.random.default_rng(7)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {name: (2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def assert_close(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_onnx_to_top_and_back_computes_the_same(name: str) -> None:
    model = CASES[name]
    feeds = feeds_for(model)
    expected = run(model, feeds)
    network = import_onnx(model)
    exported = export_onnx(network)
    onnx.checker.check_model(exported, full_check=True)
    assert_close(run(exported, feeds), expected)
    canonicalize(network)
    assert_close(run(export_onnx(network), feeds), expected)


def test_the_cases_cover_every_converter() -> None:
    used = {n.op_type for model in CASES.values() for n in model.graph.node}
    assert not set(CONVERTERS) - used


def test_every_top_operation_can_be_exported() -> None:
    assert {row.name for row in top.ROWS} == set(EXPORTERS) | {"top.None", "top.Weight", "top.Input"}
