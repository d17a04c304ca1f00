from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from onnx import helper
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.tpu_mlir_names import folded_tensors, names_by_value
from tpu_deploy.runtime.chip_model_install import tpuc_opt


def without_relu() -> Any:
    """The small model with its first ReLU replaced by a sigmoid, so that the folded Conv has a range of its own."""
    model = small_model()
    model.graph.node[2].CopyFrom(helper.make_node("Sigmoid", ["bn1"], ["relu1"], "relu1"))
    return model


def test_computed_tensors_carry_their_operator_and_inputs_do_not() -> None:
    names = names_by_value(small_model().graph)
    assert (names["image"], names["relu2"], names["scores"]) == ("image", "relu2_Relu", "scores_Gemm")


def test_a_product_is_folded_into_its_normalization_where_nothing_else_reads_it() -> None:
    model = without_relu()
    values = ["image", "bn1", "relu1", "conv2", "sum"]
    assert folded_tensors(model.graph, values) == {"bn1": ["conv1"]}
    assert folded_tensors(model.graph, ["image", "relu1", "conv2", "sum"]) == {}  # a sigmoid is none of them
    assert folded_tensors(model.graph, [*values, "conv1"]) == {}
    model.graph.output.append(helper.make_empty_tensor_value_info("conv1"))
    assert folded_tensors(model.graph, values) == {}


def test_a_chain_of_constants_is_folded_with_its_product() -> None:
    model = small_model()
    nodes = [
        helper.make_node("Mul", ["scores_raw", "b3"], ["scaled"]),
        helper.make_node("Add", ["b3", "scaled"], ["y"]),
    ]
    model.graph.node[-1].output[0] = "scores_raw"
    model.graph.node.extend(nodes)
    assert folded_tensors(model.graph, ["flat", "y"]) == {"y": ["scaled", "scores_raw"]}


def test_a_table_in_their_names_has_both_names_of_a_folded_product(tmp_path: Path) -> None:
    table = tpu_deploy.calibrate(without_relu(), feeds(4), output=tmp_path / "t", tpu_mlir_names=True)
    written = CalibrationTable.read(tmp_path / "t")
    assert written["conv1_Conv"] == written["bn1_BatchNormalization"]
    assert "conv1" not in table and written["bn1_BatchNormalization"].max == pytest.approx(table["bn1"].max, rel=1e-6)


@pytest.mark.parametrize("kept", ["conv1_Conv", "bn1_BatchNormalization"])
def test_a_table_of_theirs_is_read_whichever_name_it_has(tmp_path: Path, kept: str) -> None:
    model = without_relu()
    table = tpu_deploy.calibrate(model, feeds(4), output=tmp_path / "t", tpu_mlir_names=True)
    dropped = {"conv1_Conv", "bn1_BatchNormalization"} - {kept}
    lines = (tmp_path / "t").read_text().splitlines(keepends=True)
    (tmp_path / "t").write_text("".join(line for line in lines if line.split(" ")[0] not in dropped))
    for name, calibration in (("a", tmp_path / "t"), ("b", table)):
        tpu_deploy.deploy(model, calibration=calibration, output=tmp_path / name, verify=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def installed() -> bool:
    try:
        return tpuc_opt(["--version"]).returncode == 0
    except (BadInput, OSError):
        return False


@pytest.mark.referee
@pytest.mark.skipif(not installed(), reason="tpuc-opt is not installed: run tpu-deploy chip-model install")
def test_their_compiler_finds_every_tensor_in_our_table(tmp_path: Path) -> None:
    model = saved(without_relu(), tmp_path / "model.onnx")
    table = tpu_deploy.calibrate(model, feeds(4), output=tmp_path / "table", tpu_mlir_names=True)
    tpu_deploy.deploy(model, calibration=table, output=tmp_path / "m", verify=False, dump_ir=tmp_path / "ir")
    text = (tmp_path / "ir" / "2_top_canonical.mlir").read_text()
    names = names_by_value(without_relu().graph) | {"bn1": "conv1_Conv"}
    for ours, theirs in names.items():
        text = text.replace(f'loc("{ours}")', f'loc("{theirs}")')
    (tmp_path / "ir" / "top.mlir").write_text(text)
    options = [f"--import-calibration-table=file={tmp_path / 'table'} asymmetric=False", "--mlir-print-debuginfo"]
    done = tpuc_opt(["top.mlir", *options, "-o", "calibrated.mlir"], tmp_path / "ir")
    assert done.returncode == 0, done.stderr.splitlines()[:1]
    calibrated = (tmp_path / "ir" / "calibrated.mlir").read_text()
    places = dict(re.findall(r'(#loc\d+) = loc\("(.*)"\)', calibrated))
    ranges = re.findall(r"quant.calibrated<f32<([-\d.e+]+):([-\d.e+]+)>>> loc\((#loc\d+)\)\n", calibrated)
    found = {places[place]: (float(low), float(high)) for low, high, place in ranges if place in places}
    assert set(found) == {names[name] for name in table}
    for name, entry in table.items():
        if name == "relu1":
            continue  # theirs takes 0 to 1 for every sigmoid
        low = -entry.threshold if entry.min < 0 else 0
        assert found[names[name]] == pytest.approx((low, entry.threshold), rel=1e-5), name
