"""A build is held against its baseline: what got worse is named, with why; what did not is not."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import record, row

from tpu_deploy.errors import BadInput
from tpu_deploy.reports import baseline, regression_text, tolerances
from tpu_deploy.reports.baseline import Baseline
from tpu_deploy.reports.regression import CHECKS, Comparison, Verdict, compare
from tpu_deploy.reports.tolerances import (
    HashTolerance,
    LayerTolerance,
    MetricTolerance,
    RelativeTolerance,
    Tolerances,
)


def held(now: dict[str, Any], before: dict[str, Any] | None = None, **allowed: Any) -> Comparison:
    old = record() if before is None else before
    return compare(baseline.of_record(now), baseline.of_record(old), Tolerances(**allowed))


def only(found: Comparison) -> Verdict:
    assert len(found.worse) == 1, [v.subject for v in found.worse]
    return found.worse[0]


def test_the_same_build_is_never_worse() -> None:
    strict = Tolerances(
        layers=LayerTolerance(0.0, 0.0, 1e9),
        metric=MetricTolerance(0.0, 0.0),
        thresholds=RelativeTolerance(0.0),
        bmodel=HashTolerance(True),
        commands=RelativeTolerance(0.0),
        memory=RelativeTolerance(0.0),
        cycles=RelativeTolerance(0.0),
    )
    same = measured(0.9)
    found = compare(same, same, strict)
    assert not found.worse
    assert {v.check for v in found.verdicts} == set(CHECKS)


@pytest.mark.parametrize("allowed", [0.5, 2.0])
def test_a_layer_may_fall_by_its_tolerance_and_no_further(allowed: float) -> None:
    tolerance = LayerTolerance(sqnr_db=allowed)
    assert not held(record(row("a", 30 - allowed + 0.01), row("b"), row("c")), layers=tolerance).worse
    assert only(held(record(row("a", 30 - allowed - 0.01), row("b"), row("c")), layers=tolerance)).subject == "a"


def test_a_layer_that_gets_better_is_no_regression() -> None:
    assert not held(record(row("a", 45.0, cosine=1.0), row("b"), row("c"))).worse


def test_a_layer_of_its_own_tolerance_is_judged_by_that() -> None:
    now = record(row("a", 25.0), row("b", 25.0), row("c"))
    assert only(held(now, layer={"a": LayerTolerance(sqnr_db=10.0)})).subject == "b"


def test_a_layer_still_better_than_anyone_can_tell_is_let_be() -> None:
    before = record(row("a", 90.0), row("b"), row("c"))
    assert not held(record(row("a", 60.0), row("b"), row("c")), before).worse


@pytest.mark.parametrize("level", ["nan", "-inf"])
def test_a_layer_whose_level_is_no_number_any_more_is_worse(level: str) -> None:
    assert only(held(record(row("a", level), row("b"), row("c")))).subject == "a"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "uint8"}, "uint8 instead of int8"),
        ({"precision": "BF16"}, "BF16 instead of INT8"),
        ({"saturated": 0.05}, "5.00% of its values saturate"),
        ({"born_relative_l2": 0.2}, "its own error rose from 1.00% to 20.00%"),
    ],
)
def test_the_reason_is_what_changed_at_the_layer(changes: dict[str, Any], reason: str) -> None:
    now = record(row("a"), row("b", 20.0, **changes), row("c"))
    now["thresholds"]["b"]["dtype"] = "int8"
    assert reason in only(held(now)).reason


def test_layers_behind_the_first_worse_one_are_told_to_pass_it_on() -> None:
    worse = held(record(row("a"), row("b", 20.0, born_relative_l2=0.2), row("c", 20.0))).worse
    assert [v.subject for v in worse] == ["b", "c"]
    assert worse[1].reason == "it passes on what b lost"


def test_a_moved_threshold_is_named_and_is_the_reason_of_its_layer() -> None:
    now = record(row("a"), row("b", 20.0, saturated=0.1), row("c"))
    now["thresholds"]["b"]["threshold"] = 1.0
    worse = {v.check: v for v in held(now).worse}
    assert worse["thresholds"].subject == "b" and "-50.0%" in worse["thresholds"].reason
    assert worse["layers"].reason.startswith("its threshold went from 2 to 1; 10.00% of its values saturate")


def test_a_tensor_that_is_gone_is_worse() -> None:
    assert only(held(record(row("a"), row("b")))).reason == "the network has no such tensor any more"


def measured(value: float | None, error: float | None = 0.01) -> Baseline:
    """A build for which `topk` was measured, or nothing."""
    metrics = {} if value is None else {"topk": {"value": value, "error": error}}
    return replace(baseline.of_record(record()), metrics=metrics)


@pytest.mark.parametrize(("value", "worse"), [(0.895, False), (0.885, True), (0.95, False), (float("nan"), True)])
def test_a_metric_may_fall_by_a_standard_error(value: float, worse: bool) -> None:
    assert bool(compare(measured(value), measured(0.9), Tolerances()).worse) is worse


def test_a_metric_without_an_error_may_fall_by_the_drop_allowed() -> None:
    allowed = Tolerances(metric=MetricTolerance(drop=0.02))
    assert not compare(measured(0.885), measured(0.9, None), allowed).worse
    assert compare(measured(0.885), measured(0.9, None), Tolerances()).worse


def test_a_metric_that_is_no_longer_measured_is_worse() -> None:
    assert only(compare(measured(None), measured(0.9), Tolerances())).check == "metric"


@pytest.mark.parametrize(
    ("changes", "check", "subject"),
    [
        ({"timing": {"cycles": 10_200}}, "cycles", "cycles"),
        ({"memory": {"coefficients": 4096, "context": 9000, "local_peak": 100000}}, "memory", "context"),
        ({"commands": {"TIU": {"total": 110}, "GDMA": {"total": 200}}}, "commands", "TIU"),
    ],
)
def test_figures_that_grow_are_named(changes: dict[str, Any], check: str, subject: str) -> None:
    found = only(held(record(**changes)))
    assert (found.check, found.subject) == (check, subject)


def test_other_bytes_are_worse_only_where_the_same_are_wanted() -> None:
    now = record(bmodel={"file": "net.bmodel", "sha256": "cd" * 32, "bytes": 1000})
    assert not held(now).worse
    assert only(held(now, bmodel=HashTolerance(True))).check == "bmodel"


@settings(max_examples=30, derandomize=True)
@given(st.floats(0, 40), st.floats(0, 10))
def test_a_wider_tolerance_never_names_more(fall: float, allowed: float) -> None:
    now = record(row("a", 40 - fall), row("b"), row("c"))
    few = held(now, layers=LayerTolerance(sqnr_db=allowed + 1)).worse
    many = held(now, layers=LayerTolerance(sqnr_db=allowed)).worse
    assert {v.subject for v in few} <= {v.subject for v in many}


def test_a_baseline_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = baseline.of_record(record())
    baseline.write(tmp_path / "b.json", written)
    assert baseline.read(tmp_path / "b.json") == written


def test_tolerances_are_read_over_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(
        '[layers]\nsqnr_db = 3\n[layer."x/y:0"]\ncosine = 0.5\n[bmodel]\nmust_match = true\n'
    )
    found = tolerances.read(tmp_path / "t.toml")
    assert found.layers == LayerTolerance(sqnr_db=3)
    assert found.of_layer("x/y:0") == LayerTolerance(sqnr_db=3, cosine=0.5)
    assert found.bmodel.must_match and found.cycles == Tolerances().cycles


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[layers", "is no TOML"),
        ("[speed]\nx = 1", "unknown section [speed]"),
        ("[layers]\ndb = 1", "unknown key db"),
        ("[cycles]\nrelative = -1", "zero or more"),
        ('[cycles]\nrelative = "1%"', "must be a number"),
        ("[cycles]\nrelative = nan", "must be a number"),
        ("cycles = 3", "must be a table"),
        ("[bmodel]\nmust_match = 1", "must be true or false"),
    ],
)
def test_bad_tolerances_are_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(BadInput, match=r"t\.toml") as error:
        tolerances.read(tmp_path / "t.toml")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_junit_counts_what_failed_and_says_why() -> None:
    found = held(record(row("a"), row("b <&>", 20.0), row("c")), record(row("a"), row("b <&>"), row("c")))
    root = ElementTree.fromstring(regression_text.junit(found))
    assert root.attrib["failures"] == "1" and root.attrib["tests"] == str(len(found.verdicts))
    failed = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert [case.attrib["name"] for case in failed] == ["b <&>"]


def test_markdown_is_a_table_whose_cells_hold_no_bars() -> None:
    text = regression_text.markdown(held(record(row("a|x", 20.0)), record(row("a|x"))))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert "a\\|x" in text


def test_a_long_list_is_cut_and_counted() -> None:
    before, now = ([row(f"t{k}", level) for k in range(50)] for level in (30.0, 10.0))
    text = regression_text.terminal(held(record(*now), record(*before)))
    assert len(text.splitlines()) == regression_text.LISTED + 1 and "and 30 more" in text


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(deeper for key, each in inner for deeper in _paths(each, (*path, key)))]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from(["gone", None, "a", -1, True, 1e400, [], [1], {}, {"a": 1}]))
def test_a_damaged_file_is_refused_by_name_or_compares(data: st.DataObject, whole: bool, value: Any) -> None:
    content = record() if whole else measured(0.9).to_json()
    *way, last = data.draw(st.sampled_from(_paths(content)[1:]))
    node: Any = content
    for key in way:
        node = node[key]
    if value == "gone":
        del node[last]
    else:
        node[last] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "damaged.json")
        file.write_text(json.dumps(content))
        try:
            found = baseline.read(file)
        except BadInput as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error) and "object" not in str(error)
            return
        for pair in ((found, measured(0.9)), (measured(0.9), found)):
            comparison = compare(*pair, Tolerances())
            ElementTree.fromstring(regression_text.junit(comparison))
            assert regression_text.markdown(comparison) and regression_text.terminal(comparison)


def test_names_of_any_characters_make_sound_xml() -> None:
    odd = 'a\x01<&">\ud7ff\x0b\U0001f600 \n'
    found = held(record(row(odd, 10.0), row("b"), row("c")), record(row(odd), row("b"), row("c")))
    cases = ElementTree.fromstring(regression_text.junit(found)).iter("testcase")
    assert next(cases).get("name") == 'a?<&">\ud7ff?\U0001f600 \n'


def test_an_error_of_the_task_may_rise_no_further_than_its_tolerance() -> None:
    tolerance = MetricTolerance(drop=0.05, standard_errors=0.0, less_is_better=("topk",))
    for now, worse in ((0.94, False), (0.96, True), (0.5, False)):
        found = compare(measured(now), measured(0.9), Tolerances(metric=tolerance))
        assert [v.subject for v in found.worse] == (["topk"] if worse else []), now
