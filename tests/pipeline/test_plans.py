"""Whatever reads a tuned table plans as it was tuned, and says in one line why it cannot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.plans import plan_hash, plan_path
from tpu_deploy.quant import QuantizationPlan
from tpu_deploy.quant.plan import weights_path
from tpu_deploy.quant.qtable import QuantizeTable

PASSES = ["zero_points", "bias", "rounding", "affine"]


@dataclass(frozen=True)
class Tuned:
    """A model, the table that was tuned for it, and that as it was read from a file."""

    model: Path
    table: CalibrationTable
    path: Path

    @property
    def plan(self) -> QuantizationPlan:
        return self.table.plan


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    model = saved(small_model(), folder / "model.onnx")
    table = tpu_deploy.calibrate(model, feeds(16), method="auto", passes=PASSES, output=folder / "t.table")
    return Tuned(model, table, folder / "t.table")


@pytest.fixture
def copied(tuned: Tuned, tmp_path: Path) -> Tuned:
    """The same in a folder of its own, to be damaged."""
    for path in tuned.path.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return replace(tuned, model=tmp_path / "model.onnx", path=tmp_path / "t.table")


@pytest.fixture(params=["in memory", "on disk"])
def given(request: pytest.FixtureRequest, tuned: Tuned) -> CalibrationTable | Path:
    return tuned.table if request.param == "in memory" else tuned.path


def test_a_plan_comes_back_as_it_was_tuned(tuned: Tuned) -> None:
    assert tuned.plan.weights and tuned.plan.trials
    assert QuantizationPlan.load(plan_path(tuned.path)) == tuned.plan
    read = CalibrationTable.read(tuned.path)
    assert (read, read.plan, read.plan_hash) == (tuned.table, None, plan_hash(tuned.plan))


def test_deploy_and_report_take_the_plan(tuned: Tuned, given: CalibrationTable | Path, tmp_path: Path) -> None:
    built = tpu_deploy.deploy(tuned.model, calibration=given, output=tmp_path / "m.bmodel", verify=False)
    assert built.plan == tuned.plan
    tpu_deploy.report(tuned.model, tmp_path / "r", given, inputs=feeds(2))
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    assert record["bmodel"]["sha256"] == hashlib.sha256(built.path.read_bytes()).hexdigest()


def test_evaluate_computes_what_the_bmodel_does(
    tuned: Tuned, given: CalibrationTable | Path, calibrated: Any, tmp_path: Path
) -> None:
    tpu_deploy.deploy(tuned.model, calibration=given, output=tmp_path / "m.bmodel", verify=False)
    compiled = tpu_deploy.evaluate(tmp_path / "m.bmodel", feeds(3), "sqnr", against=tuned.model)
    found = tpu_deploy.evaluate(tuned.model, feeds(3), "sqnr", calibration=given)
    assert found["sqnr"] == compiled["sqnr"]
    assert found["sqnr"] != tpu_deploy.evaluate(tuned.model, feeds(3), "sqnr", calibration=calibrated.table)["sqnr"]


def test_a_quantize_table_leaves_the_rest_as_it_was_tuned(
    tuned: Tuned, given: CalibrationTable | Path, tmp_path: Path
) -> None:
    options = {"qtable": QuantizeTable({"relu2": "F16"}), "output": tmp_path / "m.bmodel", "verify": False}
    built = tpu_deploy.deploy(tuned.model, calibration=given, **options)
    assert built.plan.operations == {**tuned.plan.operations, "relu2": "F16"}
    assert built.plan.weights == tuned.plan.weights
    assert all(kind == tuned.plan.tensors[name] for name, kind in built.plan.tensors.items() if kind.is_quantized)


def test_another_method_takes_the_plan_away(copied: Tuned) -> None:
    assert plan_path(copied.path).exists() and weights_path(plan_path(copied.path)).exists()
    tpu_deploy.calibrate(copied.model, feeds(4), output=copied.path)
    assert not plan_path(copied.path).exists() and not weights_path(plan_path(copied.path)).exists()


def tamper(path: Path) -> None:
    """Writes the plan with one weight another."""
    plan = QuantizationPlan.load(path)
    name, chosen = next(iter(plan.weights.items()))
    weights = chosen.weights.copy()
    weights.flat[0] ^= 1
    replace(plan, weights={**plan.weights, name: replace(chosen, weights=weights)}).save(path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: plan_path(path).unlink(), "{path}: its plan t.table.plan.json is missing; put it beside"),
        (lambda path: plan_path(path).write_text("{"), "{path}: its plan is damaged: {path}.plan.json: is no"),
        (lambda path: weights_path(plan_path(path)).unlink(), "{path}: its plan is damaged: {path}.plan.json.weights"),
        (lambda path: weights_path(plan_path(path)).write_bytes(b"PK"), "{path}: its plan is damaged: {path}.plan"),
        (lambda path: tamper(plan_path(path)), "{path}.plan.json: is not the plan that was tuned with {path}; put"),
    ],
)
def test_a_plan_that_is_not_the_tables_is_refused_in_one_line(copied: Tuned, spoil: Any, message: str) -> None:
    spoil(copied.path)
    commands = (
        lambda: tpu_deploy.deploy(copied.model, calibration=copied.path, output=copied.path.with_name("m.bmodel")),
        lambda: tpu_deploy.report(copied.model, copied.path.with_name("r"), copied.path),
        lambda: tpu_deploy.evaluate(copied.model, feeds(2), "sqnr", calibration=copied.path),
        lambda: tpu_deploy.search(copied.model, feeds(4), "sqnr>=20", calibration=copied.path, output="m.qtable"),
    )
    for command in commands:
        with pytest.raises(BadInput) as caught:
            command()
        assert str(caught.value).startswith(message.format(path=copied.path))
        assert "\n" not in str(caught.value) and str(caught.value).endswith("calibrate again")


def test_a_table_without_its_plan_or_of_another_network_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    output = tmp_path / "m.bmodel"
    with pytest.raises(BadInput, match=r"t\.table: was tuned, but the plan is not with it; give its path"):
        tpu_deploy.deploy(tuned.model, calibration=CalibrationTable.read(tuned.path), output=output)
    tensors = {name: kind for name, kind in tuned.plan.tensors.items() if name != "relu2"}
    table = replace(tuned.table, plan=replace(tuned.plan, tensors=tensors))
    with pytest.raises(BadInput, match="its plan is of another network: 'relu2' is not in both; calibrate this model"):
        tpu_deploy.deploy(tuned.model, calibration=table, output=output)


def test_what_was_not_tuned_for_is_said(tuned: Tuned, tmp_path: Path) -> None:
    options = {"data": feeds(4), "method": "auto", "precision": "f16", "output": tmp_path / "m.bmodel"}
    with pytest.raises(BadInput, match="--method auto: tunes INT8; leave out --precision f16, or the method"):
        tpu_deploy.deploy(tuned.model, **options)
