"""`tpu-deploy report`: explains without deploying, and compares two reports."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import samples, saved, small_model

from tpu_deploy.cli import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TPU_MLIR_HOME", str(tmp_path / "no-chip-model"))
    saved(small_model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", image=samples(6))
    return tmp_path


def test_a_model_is_explained_without_a_bmodel(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "model.onnx", "--data", "samples.npz", "-o", "first"]) == 0
    told = capsys.readouterr().out
    assert "first/index.html: the report" in told and "worst layers, by their share of the output error" in told
    record: dict[str, Any] = json.loads((folder / "first" / "report.json").read_text())
    assert record["bmodel"]["file"] is None and record["verification"]["batches"] == 6
    assert not list(folder.glob("**/*.bmodel"))


def test_a_table_is_reported_on_other_samples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "model.onnx", "--data", "samples.npz", "-o", "t.table"]) == 0
    arguments = ["report", "model.onnx", "--calibration", "t.table", "-o"]
    assert run([*arguments, "a", "--data", "samples.npz", "--batches", "2"]) == 0
    assert run([*arguments, "b", "--inputs", "samples.npz"]) == 0
    batches = [json.loads((folder / n / "report.json").read_text())["verification"]["batches"] for n in "ab"]
    assert batches == [2, 6]
    capsys.readouterr()
    assert run(["report", "--diff", "a", "b/report.json", "-o", "difference"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("before  a: model, INT8") and "thresholds changed: 0" in told
    assert (folder / "difference" / "difference.html").exists()


def test_what_tuning_and_calibration_came_to_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "samples.npz", image=samples(16))
    assert run(["calibrate", "model.onnx", "--data", "samples.npz", "-o", "t.table", "--method", "auto"]) == 0
    capsys.readouterr()
    assert run(["report", "model.onnx", "--calibration", "t.table", "-o", "r"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^tuned, on samples held out: [\d.]+ dB → [\d.]+ dB\n +kept: ", told, re.MULTILINE)
    assert "samples: 16" in told
    record: dict[str, Any] = json.loads((folder / "r" / "report.json").read_text())
    trials = json.loads((folder / "t.table.plan.json").read_text())["trials"]
    assert record["tuning"] == trials and {"name", "words", "before", "after", "kept"} <= trials[0].keys()
    assert record["calibration"]["advice"]["lines"][-1].startswith("samples: 16")
    assert record["calibration"]["method"] == "auto"
    page = html.unescape((folder / "r" / "index.html").read_text())
    assert page.count('<table id="tuning">') == 1 and all(trial["words"] in page for trial in trials)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model.onnx"], "give a model and -o DIR"),
        (["--diff", "a", "b"], "a: cannot be read"),
        (["--diff", "a", "b.bmodel"], "b.bmodel: is a bmodel, which tells of no layer's accuracy; give what --report"),
        (["model.onnx", "--diff", "a", "b"], "leave the model out"),
        (["model.onnx", "-o", "r"], "give a calibration table, or data to calibrate on"),
        (["model.onnx", "-o", "samples.npz", "--data", "samples.npz"], "is a file; give a folder"),
        (["model.onnx", "-o", "r", "--data", "samples.npz", "--batches", "0"], "give at least 1"),
    ],
)
def test_what_cannot_be_reported_is_told_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert run(["report", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error
    assert not (folder / "r").exists()
