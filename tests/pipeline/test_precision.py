"""`deploy --precision` and `--qtable`: float networks without calibration, tables that name operations in any words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx_cases import model as onnx_model
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.cli import run as command
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.agreement import compare, rules
from tpu_deploy.pipeline.checks import GATES
from tpu_deploy.quant.plan import PRECISIONS
from tpu_deploy.quant.qtable import QuantizeTable


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_a_float_network_needs_no_calibration_and_passes_its_gate(tmp_path: Path, precision: str) -> None:
    built = tpu_deploy.deploy(small_model(), precision=precision, output=tmp_path / "m.bmodel")
    assert set(built.plan.operations.values()) == {precision.upper()}
    assert [check.verdict for check in built.checks] == ["ok"] * 5 + ["absent"]
    figure = next(check for check in built.checks if check.stage == f"TPU {precision.upper()} (reference)").figure
    assert f"(gate {GATES[precision]:g})" in figure
    feed = feeds(1)[0]
    wanted = built.reference.run(feed)["scores"]
    np.testing.assert_allclose(tpu_deploy.load(built.path).run(feed)["scores"], wanted, rtol=1e-2, atol=1e-3)


def test_data_of_a_float_network_are_what_it_is_verified_on(tmp_path: Path) -> None:
    built = tpu_deploy.deploy(small_model(), precision="f16", data=feeds(3), output=tmp_path / "m.bmodel")
    assert built.verification is not None and built.verification.inputs.startswith("3 batches of the calibration data")
    assert len(built.table) == 0


def test_every_precision_of_operations_has_a_gate() -> None:
    assert set(GATES) == {precision.lower() for precision in PRECISIONS}


def test_int8_without_ranges_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("sum INT8\n")
    with pytest.raises(BadInput, match="INT8 operations need ranges: give a calibration table or data"):
        tpu_deploy.deploy(small_model(), precision="f16", qtable=tmp_path / "q", output=tmp_path / "m.bmodel")
    with pytest.raises(BadInput, match="give either a calibration table or calibration data"):
        tpu_deploy.deploy(small_model(), output=tmp_path / "m.bmodel")


def test_a_table_names_operations_by_tensor_node_or_as_tpu_mlir_does(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[3].name = "second convolution"
    (tmp_path / "q").write_text("relu1 F16\nsecond convolution BF16\nscores_Gemm F32\nsum_Add INT8\n")
    path = saved(model, tmp_path / "named.onnx")
    built = tpu_deploy.deploy(path, data=feeds(8), qtable=tmp_path / "q", output=tmp_path / "m.bmodel")
    chosen = {"relu1": "F16", "conv2": "BF16", "scores": "F32", "relu2": "INT8"}
    assert {name: built.plan.operations[name] for name in chosen} == chosen
    assert all(check.verdict in ("ok", "absent") for check in built.checks)
    assert built.checks[1].stage == "TPU INT8, mixed (reference)"


def test_the_dumped_table_leads_to_the_same_plan(calibrated: Any, tmp_path: Path) -> None:
    table = QuantizeTable({"conv2": "F16", "relu2": "F32"}, {"relu1": "F16"})
    options = {"calibration": calibrated.table, "output": tmp_path / "m.bmodel", "verify": False}
    first = tpu_deploy.deploy(calibrated.model, qtable=table, dump_ir=tmp_path / "ir", **options)
    again = tpu_deploy.deploy(calibrated.model, qtable=tmp_path / "ir" / "3_quantization.qtable", **options)
    assert first.plan == again.plan
    assert first.plan.results == {"relu1": "F16"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("relu3 F16", "names relu3, which is no operation of the network; did you mean relu2?"),
        ("bn1 F16\nrelu1 F32", "relu1 F32 and bn1 F16 are one operation here; remove one"),
        ("image F16", "names image, which is no operation of the network"),
        (
            "# float_result sum F16",
            "float result of relu2: is a Add; only INT8 operations Conv, MatMul, Scale have one",
        ),
    ],
)
def test_what_a_table_cannot_mean_is_refused(calibrated: Any, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q").write_text(text)
    with pytest.raises(BadInput) as caught:
        tpu_deploy.deploy(
            calibrated.model, calibration=calibrated.table, qtable=tmp_path / "q", output=tmp_path / "m.bmodel"
        )
    assert message in str(caught.value)


def test_a_precision_that_an_operation_lacks_is_refused_by_name(tmp_path: Path) -> None:
    softmax = onnx_model([helper.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": (1, 7)})
    (tmp_path / "q").write_text("y INT8\n")
    with pytest.raises(BadInput, match=r"q: y \(Softmax\) cannot be INT8: there is no INT8 form of it"):
        tpu_deploy.deploy(softmax, data=[{"x": np.zeros((1, 7))}], qtable=tmp_path / "q", output=tmp_path / "m.bmodel")


def test_overflow_of_f16_is_found_and_not_masked(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.full((4, 4), 400, np.float32), "w")
    made = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, 4)})
    made.graph.initializer.append(weights)
    data = [{"x": np.full((1, 4), 100, np.float32)}]
    with pytest.raises(tpu_deploy.errors.CheckFailed) as caught:
        tpu_deploy.deploy(made, precision="f16", data=data, output=tmp_path / "m.bmodel")
    assert "try a wider --precision, for some operations by --qtable, or --gate" in str(caught.value)
    built = caught.value.deployment  # type: ignore[attr-defined]
    told = "4 of 4 values are NaN or infinite (f16 ends at 65504; BF16 and F32 reach further)"
    assert told in [finding.message for finding in built.verification.findings]
    assert tpu_deploy.deploy(made, precision="bf16", data=data, output=tmp_path / "m.bmodel").checks


def test_executions_may_differ_by_the_order_of_sums_and_no_more(tmp_path: Path) -> None:
    built = tpu_deploy.deploy(small_model(), precision="f16", output=tmp_path / "m.bmodel")
    by_rule = rules(built.network)
    assert by_rule == {"scores": "sums"}
    real = {"scores": np.linspace(1, 2, 5, dtype=np.float32)[None]}
    wanted = {"scores": real["scores"] * np.float32(1.001)}
    near, far = ({"scores": wanted["scores"] * np.float32(1 + error)} for error in (1e-3, 3e-3))
    assert compare([near], [wanted], [real], by_rule).blame == ""
    assert "scores" in compare([far], [wanted], [real], by_rule).blame
    assert compare([near], [wanted], [real], {"scores": "bits"}).blame == "output scores: 5 of 5 values differ"


def test_the_command_takes_both_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(small_model(), tmp_path / "m.onnx")
    (tmp_path / "q").write_text("relu1 BF16\n")
    arguments = ["deploy", str(path), "-o", str(tmp_path / "m.bmodel"), "--precision", "F16"]
    assert command([*arguments, "--qtable", str(tmp_path / "q")]) == 0
    assert "TPU F16, mixed (reference)" in capsys.readouterr().out
