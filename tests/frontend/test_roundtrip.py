"""A network exported from TOP computes what the imported ONNX model computes, before and after canonicalization."""

from __future__ import annotations

import onnx
import pytest
from onnx_cases import CASES, assert_close, feeds_for, run

from tpu_deploy.frontend import export_onnx, import_onnx
from tpu_deploy.frontend.registry import CONVERTERS, EXPORTERS
from tpu_deploy.ir import top
from tpu_deploy.lowering.canonicalize import canonicalize


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
