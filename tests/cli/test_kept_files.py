"""Nothing that exists is lost: neither what a command reads, nor what an earlier one wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpu_deploy.calibration import CalibrationTable

Refused = Callable[..., str]


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy", "model.onnx", "--calibration", "model.table", "-o", "model.onnx"),
        ("deploy", "model.onnx", "--calibration", "model.table", "-o", "./model.table"),
        ("deploy", "model.onnx", "--calibration", "model.table", "--inputs", "one.npz", "-o", "one.npz"),
        ("deploy", "model.onnx", "--data", "samples.npz", "-o", "samples.npz"),
        ("calibrate", "model.onnx", "--data", "samples.npz", "-o", "samples.npz"),
        ("calibrate", "model.onnx", "--data", "samples.npz", "-o", "model.onnx"),
        ("calibrate", "model.onnx", "--data", "model.table.samples.npz", "-o", "model.table"),
        ("calibrate", "model.onnx", "--data", "samples.npz", "--shard", "1/2", "-o", "samples.npz"),
        ("run", "model.bmodel", "--inputs", "one.npz", "-o", "one.npz"),
        ("run", "model.bmodel", "--inputs", "one.npz", "-o", "model.bmodel"),
    ],
)
def test_no_file_that_is_read_is_written_over(refused: Refused, arguments: tuple[str, ...]) -> None:
    assert "is a file that is read; give another name to write to" in refused(*arguments)


def test_an_interrupted_calibration_leaves_all_files_of_the_earlier_one(
    folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(CalibrationTable, "write", interrupted)
    assert command("calibrate", "model.onnx", "--data", "one.npz", "-o", "model.table").code == 130
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
