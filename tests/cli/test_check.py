"""`check` exits 0, 1 or 2, and writes what a CI shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_records import record, row

import tpu_deploy
from tpu_deploy import testing
from tpu_deploy.cli import run


def written(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[str, str]:
    """A report and the baseline made of it."""
    report = written(tmp_path, "report.json", record())
    target = str(tmp_path / "baseline.json")
    assert run(["check", report, "--baseline", target, "--update"]) == 0
    return report, target


def test_a_report_holds_against_the_baseline_made_of_it(kept: tuple[str, str], capsys: Any) -> None:
    assert run(["check", kept[0], "--baseline", kept[1]]) == 0
    assert "nothing got worse" in capsys.readouterr().out


def test_a_whole_report_is_a_baseline_too(kept: tuple[str, str], tmp_path: Path) -> None:
    assert run(["check", str(tmp_path), "--baseline", kept[0]]) == 0


def test_a_worse_report_exits_1_and_names_the_layer(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    report = written(tmp_path, "worse.json", record(row("a"), row("b", 10.0, born_relative_l2=0.5), row("c")))
    outputs = ["--junit", str(tmp_path / "j.xml"), "--markdown", str(tmp_path / "c.md")]
    assert run(["check", report, "--baseline", kept[1], *outputs]) == 1
    printed = capsys.readouterr()
    assert "b: 30.0 dB" in printed.out and "its own error rose" in printed.out
    assert printed.err.strip().count("\n") == 0 and "b" in printed.err
    assert "<failure" in (tmp_path / "j.xml").read_text()
    assert "`b`" in (tmp_path / "c.md").read_text()


def test_figures_of_the_task_are_part_of_the_baseline(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    def figures(value: float) -> str:
        score = {"metric": "topk", "value": value, "error": 0.01, "unit": "%"}
        return written(tmp_path, "figures.json", {"results": [{"score": score, "float_score": None, "change": None}]})

    assert run(["check", *kept[:1], "--baseline", kept[1], "--metrics", figures(0.9), "--update"]) == 0
    assert run(["check", *kept[:1], "--baseline", kept[1], "--metrics", figures(0.9)]) == 0
    assert run(["check", *kept[:1], "--baseline", kept[1], "--metrics", figures(0.7)]) == 1
    assert "topk: 0.9 -> 0.7" in capsys.readouterr().out
    assert run(["check", *kept[:1], "--baseline", kept[1], "--metrics", kept[0]]) == 2
    assert "evaluate --json" in capsys.readouterr().err


def test_tolerances_decide(kept: tuple[str, str], tmp_path: Path) -> None:
    report = written(tmp_path, "worse.json", record(row("a"), row("b", 10.0), row("c")))
    allowed = written(tmp_path, "t.toml", "[layers]\nsqnr_db = 30\n")
    assert run(["check", report, "--baseline", kept[1], "--tolerances", allowed]) == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[1]", "is no report"),
        ({"schema": 99, "layers": []}, "was written by a newer version"),
        ({"schema": 3, "layers": [1]}, "lacks what a report holds"),
        (record(layers=[]), "without verification"),
    ],
)
def test_a_bad_report_is_one_line(
    kept: tuple[str, str], tmp_path: Path, capsys: Any, content: Any, problem: str
) -> None:
    report = str(tmp_path / "none.json") if content is None else written(tmp_path, "bad.json", content)
    assert run(["check", report, "--baseline", kept[1]]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.strip().count("\n") == 0


def test_a_missing_baseline_says_how_to_make_it(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    assert run(["check", kept[0], "--baseline", str(tmp_path / "none.json")]) == 2
    assert "--update" in capsys.readouterr().err


def test_a_baseline_of_another_precision_is_refused(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    report = written(tmp_path, "f16.json", record(precision="f16"))
    assert run(["check", report, "--baseline", kept[1]]) == 2
    assert "precision int8" in capsys.readouterr().err


def test_a_failed_update_leaves_the_baseline(kept: tuple[str, str], tmp_path: Path) -> None:
    before = Path(kept[1]).read_bytes()
    bad = written(tmp_path, "bad.json", {"schema": 3, "layers": [1]})
    assert run(["check", bad, "--baseline", kept[1], "--update"]) == 2
    assert Path(kept[1]).read_bytes() == before


def test_a_projects_own_test_fails_with_the_reasons(kept: tuple[str, str], tmp_path: Path) -> None:
    testing.assert_no_regression(*kept)
    report = written(tmp_path, "worse.json", record(row("a", 10.0), row("b"), row("c")))
    with pytest.raises(AssertionError, match=r"net got worse\nlayers +a: 30\.0 dB"):
        testing.assert_no_regression(report, kept[1])
    testing.assert_no_regression(report, kept[1], update=True)
    testing.assert_no_regression(report, kept[1])


def test_pytest_has_the_option_that_renews_baselines(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getoption(testing.OPTION) is False


def test_check_is_a_function_too(kept: tuple[str, str]) -> None:
    assert not tpu_deploy.check(*kept).worse


def test_a_report_is_not_lost_to_its_own_baseline(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    report, before = Path(kept[0]), Path(kept[0]).read_bytes()
    for given in (report, report.parent):
        assert run(["check", str(given), "--baseline", str(report), "--update"]) == 2
        assert "is a file that is read" in capsys.readouterr().err
    assert report.read_bytes() == before


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_verdict_that_cannot_be_written_leaves_the_baseline_as_it_was(
    kept: tuple[str, str], tmp_path: Path, capsys: Any, option: str
) -> None:
    report, before = written(tmp_path, "new.json", record(row("a", 10.0))), Path(kept[1]).read_bytes()
    for target, told in ((tmp_path / "missing" / "file", "is no folder"), (report, "is a file that is read")):
        assert run(["check", report, "--baseline", kept[1], "--update", option, str(target)]) == 2
        assert told in capsys.readouterr().err
    assert Path(kept[1]).read_bytes() == before


def test_a_tolerance_of_no_layer_is_refused(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    allowed = written(tmp_path, "t.toml", '[layer."bb"]\nsqnr_db = 30\n')
    assert run(["check", kept[0], "--baseline", kept[1], "--tolerances", allowed]) == 2
    assert f'{allowed}: [layer."bb"] is no layer of the network; did you mean "b"?' in capsys.readouterr().err
    allowed = written(tmp_path, "t.toml", '[layer."b"]\nsqnr_db = 30\n')
    assert run(["check", kept[0], "--baseline", kept[1], "--tolerances", allowed]) == 0


def test_figures_of_which_less_is_better_are_named_rightly(kept: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    for content, told in (
        ('less_is_better = "rmse"', "must be a list of names"),
        ('less_is_better = ["rmse"]', 'less_is_better: "rmse" is no figure of the task'),
    ):
        allowed = written(tmp_path, "t.toml", f"[metric]\n{content}\n")
        assert run(["check", kept[0], "--baseline", kept[1], "--tolerances", allowed]) == 2
        assert told in capsys.readouterr().err
