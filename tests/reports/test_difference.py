"""Two builds compared: what came nearer and what went away, which thresholds moved, what it costs."""

from __future__ import annotations

import copy
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.reports import difference_page, difference_text
from tpu_deploy.reports.difference import compared
from tpu_deploy.reports.record import read


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("difference")
    model = saved(small_model(), folder / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_MLIR_HOME", str(folder / "no-chip-model"))
        tpu_deploy.report(model, folder / "report", data=feeds(4))
    return read(folder / "report")


def changed(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a build in which conv2 is worse, scores better, a threshold and the cycles other."""
    other = copy.deepcopy(record)
    rows = {row["name"]: row for row in other["layers"]}
    rows["conv2"]["sqnr_db"] -= 6
    rows["relu2"]["sqnr_db"] = "nan"
    rows["scores"]["sqnr_db"] += 3
    rows["pool"]["sqnr_db"] += 0.1
    other["thresholds"]["relu1"]["threshold"] *= 2
    other["timing"]["cycles"] += 100
    other["options"]["method"] = "kl"
    other["layers"] = [row for row in other["layers"] if row["name"] != "flat"]
    other["findings"] = [{"severity": "warning", "kind": "gain", "tensor": "conv2", "message": "is too small"}]
    return other


def test_a_build_does_not_differ_from_itself(record: dict[str, Any]) -> None:
    found = compared(record, record)
    assert found.is_same_model and not found.nearer and not found.farther and not found.options
    assert all(each.better is None for each in found.figures)
    assert not any(each.threshold_changed for each in found.layers)
    told = difference_text.terminal(found)
    assert "no layer is farther from float" in told and "thresholds changed: 0 of 7" in told


def test_what_moved_is_named(record: dict[str, Any]) -> None:
    found = compared(record, changed(record), ("a", "b"))
    assert [each.name for each in found.farther] == ["relu2", "conv2"]
    assert [each.name for each in found.nearer] == ["scores"]
    assert [each.name for each in found.layers if each.threshold_changed] == ["relu1"]
    assert found.options == {"method": ("mse", "kl")}
    figures = {each.name: each.better for each in found.figures}
    assert figures["cycles"] is False and figures["scores, signal to noise"] is True
    assert next(each for each in found.layers if each.name == "flat").after_dtype is None
    told = difference_text.terminal(found)
    assert "option method: mse → kl" in told and "-6.0 dB" in told and "new finding: conv2: is too small" in told
    assert told.startswith("before  a: model, INT8")


def test_layers_that_lie_alike_are_matched_under_another_name(record: dict[str, Any]) -> None:
    other = json.loads(json.dumps(changed(record)).replace('"conv2"', '"conv_two"').replace('"scores"', '"logits"'))
    found = compared(record, other)
    assert {each.name: each.earlier for each in found.layers if each.earlier} == {"conv_two": "conv2"}
    assert {each.name: each.gain_db for each in found.farther}["conv_two"] == pytest.approx(-6)
    assert [each.name for each in found.layers if not each.is_in_both] == ["logits", "flat", "scores"]
    told = difference_text.terminal(found)
    assert "renamed: conv2 → conv_two" in told and "only before: flat, scores" in told and "only after: logits" in told


def test_another_precision_is_told(record: dict[str, Any]) -> None:
    other = copy.deepcopy(record)
    next(row for row in other["layers"] if row["name"] == "conv2")["dtype"] = "float16"
    other["thresholds"]["relu1"]["scale"] *= 1.1
    found = compared(record, other)
    assert [each.name for each in found.layers if each.type_changed] == ["relu1", "conv2"]
    told = difference_text.terminal(found)
    assert "types or scales changed: 2 of 7" in told and "other type: conv2 int8 → float16" in told


def test_a_difference_is_json_and_a_page_that_needs_nothing_else(record: dict[str, Any]) -> None:
    found = compared(record, changed(record))
    plain = json.loads(found.to_json())
    assert plain["schema"] == 2 and [each["name"] for each in plain["layers"]][-1] == "flat"
    content = difference_page.render(found)
    html.parser.HTMLParser().feed(content)
    assert "conv2" in content and "NaN" in content and "-6.0 dB" in content
    assert not re.search(r"https?://|@import|url\(", content)


def test_hostile_names_cannot_break_the_page(record: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(record).replace("conv2", "<script>alert(1)</script>"))
    assert "<script>alert" not in difference_page.render(compared(hostile, hostile))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("memory", "device", None), ("memory", "coefficients", "a"), ("commands", "TIU", []), ("timing", "cycles", {})],
)
def test_a_report_that_lacks_something_is_named(
    record: dict[str, Any], tmp_path: Path, part: str, key: str, value: Any
) -> None:
    (tmp_path / "good.json").write_text(json.dumps(record))
    (tmp_path / "bad.json").write_text(json.dumps({**record, part: {**record[part], key: value}}))
    for pair in (("good", "bad"), ("bad", "good")):
        with pytest.raises(tpu_deploy.BadInput, match=r"bad\.json: lacks what a report holds; write it anew with"):
            tpu_deploy.diff(*(tmp_path / f"{name}.json" for name in pair))


def test_files_are_written_on_demand(record: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(record))
    tpu_deploy.diff(tmp_path / "a", tmp_path / "b" / "report.json", tmp_path / "difference")
    assert sorted(each.name for each in (tmp_path / "difference").iterdir()) == ["difference.html", "difference.json"]
    with pytest.raises(tpu_deploy.BadInput, match="cannot be read"):
        tpu_deploy.diff(tmp_path / "a", tmp_path / "absent")
