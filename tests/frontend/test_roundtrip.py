"""A network exported from TOP computes what the imported ONNX model computes, before and after canonicalization."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_cases import CASES, assert_close, feeds_for, run

from tpu_deploy.frontend import UnsupportedOperators, export_onnx, import_onnx
from tpu_deploy.frontend.registry import CONVERTERS, EXPORTERS
from tpu_deploy.ir import top
from tpu_deploy.ir.text import from_text, to_text
from tpu_deploy.lowering.canonicalize import canonicalize


def assert_every_weight_is_read(model: onnx.ModelProto) -> None:
    assert {t.name for t in model.graph.initializer} <= {name for n in model.graph.node for name in n.input}


@pytest.mark.parametrize("name", CASES)
def test_onnx_to_top_and_back_computes_the_same(name: str) -> None:
    model = CASES[name]
    feeds = feeds_for(model)
    expected = run(model, feeds)
    network = import_onnx(model)
    exported = export_onnx(network)
    onnx.checker.check_model(exported, full_check=True)
    assert_every_weight_is_read(exported)
    assert_close(run(exported, feeds), expected)
    canonicalize(network)
    exported = export_onnx(network)
    assert_close(run(exported, feeds), expected)
    assert_every_weight_is_read(exported)


@pytest.mark.parametrize("name", CASES)
def test_text_reads_back_as_the_same_network(name: str) -> None:
    network = import_onnx(CASES[name])
    text = to_text(network)
    assert to_text(from_text(text, network.weights)) == text


def test_the_demo_network_computes_the_same() -> None:
    (path,) = (p for p in files("tpu_deploy.demo").iterdir() if p.name.endswith(".onnx"))
    proto = onnx.load_from_string(path.read_bytes())
    name, *_ = (i.name for i in proto.graph.input)
    shape = [8, *(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:])]
    feeds = {name: np.random.default_rng(0).random(shape, np.float32)}
    network = import_onnx(proto, {name: shape})
    canonicalize(network)
    assert_close(run(export_onnx(network), feeds), run(proto, feeds))


def models() -> list[Path]:
    """Trained models, where the environment variable TPU_DEPLOY_MODELS names their folder."""
    return sorted(Path(os.environ["TPU_DEPLOY_MODELS"]).glob("*.onnx")) if "TPU_DEPLOY_MODELS" in os.environ else []


@pytest.mark.slow
@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
def test_trained_networks_compute_the_same(path: Path) -> None:
    proto = onnx.load(path)
    wanted = {
        i.name: [d.dim_value if d.dim_value > 0 else 0 for d in i.type.tensor_type.shape.dim] for i in proto.graph.input
    }
    shapes = {name: [d or (2, 0, 96, 160)[a] for a, d in enumerate(dims)] for name, dims in wanted.items()}
    feeds = {name: np.random.default_rng(0).standard_normal(dims).astype(np.float32) for name, dims in shapes.items()}
    try:
        network = import_onnx(path, shapes)
    except UnsupportedOperators as reason:
        pytest.skip(str(reason))
    canonicalize(network)
    actual, expected = run(export_onnx(network), feeds), run(proto, feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-3, atol=1e-4 * float(np.abs(array).max()))


def test_the_cases_cover_every_converter() -> None:
    used = {n.op_type for model in CASES.values() for n in model.graph.node}
    assert not set(CONVERTERS) - used


def test_every_top_operation_can_be_exported() -> None:
    assert {row.name for row in top.ROWS} == set(EXPORTERS) | {"top.None", "top.Weight", "top.Input"}
