"""Every command that takes a tuned table refuses one whose plan is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TABLE = ("--calibration", "tuned.table")

COMMANDS = {
    "deploy": ("deploy", "model.onnx", *TABLE, "-o", "new.bmodel"),
    "report": ("report", "model.onnx", *TABLE, "-o", "folder"),
    "evaluate": ("evaluate", "model.onnx", *TABLE, "--data", "samples.npz", "--metric", "sqnr"),
    "search": ("search", "model.onnx", *TABLE, "--data", "samples.npz", "--target", "sqnr>=20"),
}


@pytest.fixture
def tuned(folder: Path, command: Callable[..., Any]) -> None:
    data = ("--data", "samples.npz", "-o", "tuned.table")
    assert command("calibrate", "model.onnx", *data, "--method", "auto", "--passes", "zero_points").code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_plan_is_one_line_and_exit_code_2(name: str, tuned: None, refused: Callable[..., str]) -> None:
    Path("tuned.table.plan.json").unlink()
    told = "tuned.table: its plan tuned.table.plan.json is missing; put it beside the table, or calibrate again"
    assert refused(*COMMANDS[name]) == told


def test_every_command_takes_a_tuned_table(tuned: None, command: Callable[..., Any]) -> None:
    for arguments in COMMANDS.values():
        finished = command(*arguments)
        assert finished.code == 0, finished.err
