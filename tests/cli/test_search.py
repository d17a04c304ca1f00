"""`tpu-deploy search`: what it prints, its exit codes, and that it goes on where it was interrupted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import samples

from tpu_deploy.cli.progress import Terminal

Command = Callable[..., Any]
Refused = Callable[..., str]

SEARCH = ("search", "model.onnx", "--data", "samples.npz", "--calibration", "model.table")


def test_a_search_prints_the_front_and_what_to_do_with_its_table(folder: Path, command: Command) -> None:
    finished = command(*SEARCH, "--target", "similarity>=0.9999")
    assert finished.code == 0, finished.err
    told = finished.out.splitlines()
    assert re.match(
        r"model\.qtable: \d of 6 operations in float, \d INT8 products with float sums; [\d,]+ cycles", told[0]
    )
    assert told[1] == "target similarity >= 0.9999: reached, on 6 samples of samples.npz"
    assert [line.split()[0] for line in told].count("->") == 1
    assert command(*told[-1].split()[1:-1], "out.bmodel", "--no-verify").code == 0
    assert (folder / "model.qtable.front.csv").exists() and (folder / "model.qtable.front.json").exists()


def test_a_missed_target_prints_what_was_found_and_exits_with_1(folder: Path, command: Command) -> None:
    finished = command(*SEARCH, "--target", "sqnr>=100", "--precision", "f16", "-o", "best.qtable")
    assert finished.code == 1
    assert "target sqnr >= 100 dB: missed" in finished.out
    assert re.search(r"model\.onnx: no plan reaches sqnr >= 100 dB; the best found has [\d.]+ dB", finished.told[-1])
    assert (folder / "best.qtable").exists()


def test_a_metric_shows_in_the_table_and_names_may_be_tpu_mlirs(folder: Path, command: Command) -> None:
    np.savez(folder / "samples.npz", image=samples(8), labels=np.arange(8) % 5)
    finished = command(*SEARCH, "--metric", "topk", "--drop", "100%", "--tpu-mlir-names", "--precision", "f16")
    assert finished.code == 0, finished.err
    assert "metric" in finished.out.splitlines()[2].split()
    table = (folder / "model.qtable").read_text()
    assert "relu1_Relu F16" in table or "relu1_Relu" not in table


def test_a_table_that_a_search_makes_has_the_names_that_its_quantize_table_has(folder: Path, command: Command) -> None:
    options = ("--data", "samples.npz", "--target", "sqnr>=1", "--tpu-mlir-names")
    assert command("search", "model.onnx", *options).code == 0
    table = (folder / "model.qtable.table").read_text()
    assert "relu1_Relu " in table and "relu1 " not in table
    arguments = ("--calibration", "model.qtable.table", "--qtable", "model.qtable", "-o", "m.bmodel", "--no-verify")
    assert command("deploy", "model.onnx", *arguments).code == 0


def test_an_interrupted_search_says_that_it_can_go_on(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Terminal, name: str) -> None:
        if name.startswith("Verify candidate 2"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Terminal, "stage", interrupted)
        stopped = command(*SEARCH, "--target", "similarity>=0.99")
    assert stopped.code == 130
    assert "the same command goes on from there" in stopped.err and "Traceback" not in stopped.err
    finished = command(*SEARCH, "--target", "similarity>=0.99")
    assert finished.code == 0 and "earlier measurements are used" in finished.err


@pytest.mark.parametrize(
    "options, told",
    [
        ((), "give either --target 'similarity>=0.99' or --metric NAME with --drop 0.5%"),
        (("--target", "good"), "--target good: is no target; write similarity>=0.99 or sqnr>=20"),
        (("--metric", "topk"), "--metric topk: how much worse may it be? give --drop 0.5%"),
        (("--metric", "topk", "--drop", "1%"), "--metric topk: needs labels"),
        (("--metric", "nowhere:score", "--drop", "1%"), "--metric nowhere:score: nowhere cannot be imported"),
        (("--metric", "math:sqrt", "--drop", "1%"), "--metric math:sqrt: raised TypeError"),
        (("--metric", "best", "--drop", "1%"), "--metric best: is unknown"),
        (("--target", "sqnr>=9", "--data", "nowhere"), "nowhere: no such file or folder"),
        (("--target", "sqnr>=9", "--calibration", "nowhere"), "nowhere: no such file; give a calibration table"),
        (("--target", "sqnr>=9", "-o", "."), "-o .: is a folder; give a file name to write to"),
    ],
)
def test_what_cannot_be_searched_for_is_one_line_and_leaves_nothing(
    refused: Refused, options: tuple[str, ...], told: str
) -> None:
    assert refused(*SEARCH, *options).startswith(told)
