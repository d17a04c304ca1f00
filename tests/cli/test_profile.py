"""The command `profile`, and what `deploy` and `info` say of where the time goes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tpu_deploy
from tpu_deploy.codegen.timing import estimate

Command = Callable[..., Any]
Refused = Callable[..., str]


def test_profile_prints_and_writes_what_it_is_asked_for(folder: Path, command: Command) -> None:
    finished = command("profile", "model.bmodel", "--html", "p.html", "--json", "p.json", "--csv", "p.csv")
    found = tpu_deploy.profile("model.bmodel")
    assert finished.code == 0 and f"{found.cycles:,}" in finished.out
    assert (folder / "p.html").read_text().startswith("<!doctype html>")
    assert json.loads((folder / "p.json").read_text())["cycles"] == found.cycles
    with open(folder / "p.csv") as stream:
        assert len(list(csv.DictReader(stream))) == len(found.stages[0].commands)


def test_the_same_bmodel_gives_the_same_files(folder: Path, command: Command) -> None:
    for name in ("a", "b"):
        options = [part for kind in ("html", "json", "csv") for part in (f"--{kind}", f"{name}.{kind}")]
        assert command("profile", "model.bmodel", *options).code == 0
    for kind in ("html", "json", "csv"):
        assert (folder / f"a.{kind}").read_bytes() == (folder / f"b.{kind}").read_bytes()


def test_top_says_how_many_rows_a_table_has(folder: Path, command: Command) -> None:
    few, many = (command("profile", "model.bmodel", "--top", n).out for n in (1, 100))
    assert "others" in few and "others" not in many and len(few) < len(many)


@pytest.mark.parametrize("option", ["--html", "--json", "--csv"])
@pytest.mark.parametrize(
    ("target", "told"), [("nowhere/p", "make it first"), ("a_folder", "is a folder"), ("model.bmodel/p", "no folder")]
)
def test_a_place_that_cannot_be_written_is_named(
    folder: Path, refused: Refused, option: str, target: str, told: str
) -> None:
    (folder / "a_folder").mkdir()
    line = refused("profile", "model.bmodel", option, target)
    assert line.startswith(f"{option} {target}: ") and told in line


def test_the_bmodel_itself_is_not_written_over(folder: Path, refused: Refused) -> None:
    shutil.copy("model.bmodel", "m.bmodel")
    assert "is a file that is read" in refused("profile", "m.bmodel", "--csv", "./m.bmodel")


def test_deploy_ends_with_where_the_time_goes(folder: Path, command: Command) -> None:
    finished = command("deploy", "model.onnx", "--calibration", "model.table", "-o", "out.bmodel", "--no-verify")
    found = tpu_deploy.profile("out.bmodel").stages[0]
    told = dict(line.split(None, 1) for line in finished.out.splitlines() if line.strip())
    assert told["bound"].startswith(f"{found.bound.cycles:,}  by {found.bound.binds}")
    for name in ("cycles", "TIU", "GDMA", "traffic", "local", "layer"):
        assert name in told


def test_a_deployment_has_the_profile_with_the_names_of_the_network(folder: Path) -> None:
    built = tpu_deploy.deploy("model.onnx", calibration="model.table", output="out.bmodel", verify=False)
    (stage,) = built.profile.stages
    assert stage.cycles == built.timing.cycles == estimate(built.bmodel).cycles
    assert {"relu1", "relu2"} <= {share.name for share in stage.operations}
    assert stage.memory.peak == built.memory.local_peak and stage.memory.is_planned


def test_info_says_what_bounds_a_stage(folder: Path, command: Command) -> None:
    found = tpu_deploy.profile("model.bmodel").stages[0]
    assert f"bound by {found.bound.binds}: {found.bound.cycles:,} cycles" in command("info", "model.bmodel").out
    stage = json.loads(command("info", "model.bmodel", "--json").out)["nets"][0]["stages"][0]
    assert stage["bound"]["cycles"] == found.bound.cycles and stage["tiu_busy"] == found.tiu_busy
