"""Remedies are tried, not guessed: what helps is proposed, what was never executed is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_model import PLANTED, images, planted_model
from small_model import feeds, small_model

import tpu_deploy
from tpu_deploy.calibration import CalibrationTable
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.remedies import overlaid
from tpu_deploy.pipeline.source import Source, canonical_network
from tpu_deploy.pipeline.trials import is_significant, last_equal_values
from tpu_deploy.quant import Scheme, make_plan
from tpu_deploy.quant.qtable import QuantizeTable


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    return tpu_deploy.calibrate(small_model(), feeds(16), method="max")


def clipped(table: CalibrationTable, tensor: str, factor: float) -> CalibrationTable:
    """The table with one threshold far too small."""
    entry = table[tensor]
    return replace(table, entries={**table.entries, tensor: replace(entry, threshold=entry.threshold / factor)})


def test_a_clipped_tensor_is_given_back_its_range_at_no_cost(table: CalibrationTable, tmp_path: Path) -> None:
    made = tpu_deploy.report(small_model(), tmp_path / "r", clipped(table, "relu1", 5), inputs=feeds(6), gate=-1.0)
    first = made.reasons.advice[0]
    assert (first.tensor, first.cause.kind) == ("relu1", "clipping")
    assert first.output_share is not None and first.output_share > 0.5
    assert first.remedy is not None and "on `relu1`" in first.remedy.sentence and "+0 cycles" in first.remedy.sentence
    trial = made.reasons.trials[first.remedy.trial]
    assert trial.helps and trial.kind == "threshold" and (trial.chosen_on, trial.samples) == (3, 3)
    assert trial.chosen_gain_db > 3
    assert trial.after.output_sqnr_db > trial.before.output_sqnr_db + 3
    assert trial.after.tensor_sqnr_db > trial.before.tensor_sqnr_db + 3


def test_of_a_tuned_plan_only_precisions_are_changed_and_deploying_them_does_what_was_told(tmp_path: Path) -> None:
    model, samples = planted_model(), [{"image": image[None]} for image in images(10)]
    tuned = tpu_deploy.calibrate(model, samples[:6], method="auto", passes=["zero_points"])
    made = tpu_deploy.report(model, tmp_path / "r", tuned, inputs=samples[6:], gate=-1.0)
    assert {each.kind for each in made.reasons.trials} <= {"result", "precision", "together"}
    trial = next(each for each in made.reasons.trials if each.kind == "precision")
    assert trial.helps and (trial.tensor, trial.chosen_on, trial.samples) == (PLANTED, 2, 2)
    options = {"qtable": QuantizeTable({PLANTED: "F16"}), "output": tmp_path / "m.bmodel", "inputs": samples[7::2]}
    built = tpu_deploy.deploy(model, calibration=tuned, **options)
    assert built.similarity["sqnr_db"].iloc[-1] == pytest.approx(trial.after.output_sqnr_db, abs=1e-4)


def test_without_statistics_no_threshold_is_proposed(table: CalibrationTable, tmp_path: Path) -> None:
    bare = replace(clipped(table, "relu1", 5), statistics=None)
    made = tpu_deploy.report(small_model(), tmp_path / "r", bare, inputs=feeds(2), gate=-1.0)
    assert made.reasons.advice[0].tensor == "relu1"
    assert not any(each.kind == "threshold" for each in made.reasons.trials)


def test_a_network_that_is_right_is_left_alone(tmp_path: Path) -> None:
    made = tpu_deploy.report(small_model(), tmp_path / "r", inputs=feeds(2), precision="f32")
    assert made.reasons.trials == [] and made.reasons.advice == []


def test_a_change_is_laid_over_other_choices() -> None:
    top = canonical_network(Source.of(small_model()), {"image": (1, 3, 16, 16)})
    table = tpu_deploy.calibrate(small_model(), feeds(4))
    usual, chosen = make_plan(top, table), make_plan(top, table, Scheme(asymmetric=["conv2"]))
    changed = make_plan(top, clipped(table, "relu1", 2))
    both = overlaid(chosen, usual, changed)
    assert both.tensors["conv2"] == chosen.tensors["conv2"] != usual.tensors["conv2"]
    assert both.tensors["relu1"] == changed.tensors["relu1"] != usual.tensors["relu1"]


def test_a_trial_goes_on_from_where_it_differs() -> None:
    top = canonical_network(Source.of(small_model()), {"image": (1, 3, 16, 16)})
    table = tpu_deploy.calibrate(small_model(), feeds(4))
    base = lower_to_tpu(top, make_plan(top, table))
    assert last_equal_values(base, lower_to_tpu(top, make_plan(top, table))) == []
    later = lower_to_tpu(top, make_plan(top, clipped(table, "pool", 2)))
    assert last_equal_values(base, later) == ["relu2"]
    first = lower_to_tpu(top, make_plan(top, clipped(table, "image", 2)))
    assert last_equal_values(base, first) == ["image"]


@pytest.mark.parametrize(
    ("gains", "doubt", "is_help"),
    [([1.0, 1.2, 0.8], 1.0, True), ([3.0, -2.9, 0.5], 1.0, False), ([0.05, 0.05], 1.0, False), ([2.0], 2.0, True),
     ([1.0, 0.2, 0.3], 2.0, False), ([np.nan, 1.0], 1.0, False), ([], 1.0, False)],
)  # fmt: skip
def test_chance_is_no_help(gains: list[float], doubt: float, is_help: bool) -> None:
    before: np.ndarray[Any, Any] = np.full(len(gains), 10.0)
    assert is_significant(before, before + np.array(gains), doubt) is is_help
