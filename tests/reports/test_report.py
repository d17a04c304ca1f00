from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.errors import BadInput
from tpu_deploy.reports import page, text
from tpu_deploy.reports.findings import findings
from tpu_deploy.reports.layers import Layer, first_below
from tpu_deploy.reports.plain_data import number, plain
from tpu_deploy.reports.record import read
from tpu_deploy.reports.similarity import Similarity


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    model = saved(small_model(), folder / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_MLIR_HOME", str(folder / "no-chip-model"))
        tpu_deploy.deploy(model, data=feeds(4), output=folder / "m.bmodel", report=folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def record(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "report.json").read_text())
    return found


def test_a_report_is_three_files(report: Path) -> None:
    assert sorted(path.name for path in report.iterdir()) == ["index.html", "layers.csv", "report.json"]


def test_the_record_has_a_version_and_all_parts(record: dict[str, Any]) -> None:
    assert record["schema"] == 3
    parts = {"schema", "tool", "model", "chip", "precision", "options", "bmodel", "inputs", "outputs", "calibration"}
    parts |= {"gate", "verification", "layers", "thresholds", "tuning", "commands", "memory", "timing", "findings"}
    assert parts | {"advice", "trials", "search", "distributions", "weights", "profile"} == set(record)
    assert [check["verdict"] for check in record["verification"]["checks"]] == ["ok"] * 5 + ["absent"]


def test_the_same_build_gives_the_same_report(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_MLIR_HOME", str(tmp_path / "no-chip-model"))
    folder = report.parent
    tpu_deploy.deploy(folder / "model.onnx", data=feeds(4), output=folder / "m.bmodel", report=tmp_path / "again")
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_layers_stand_in_the_order_of_the_network_in_all_files(report: Path, record: dict[str, Any]) -> None:
    names = [layer["name"] for layer in record["layers"]]
    assert names == ["image", "relu1", "conv2", "relu2", "pool", "flat", "scores"]
    rows = list(csv.DictReader(io.StringIO((report / "layers.csv").read_text())))
    assert [row["name"] for row in rows] == names
    assert [float(row["cosine"]) for row in rows] == [layer["cosine"] for layer in record["layers"]]


def test_pandas_reads_the_layers_back_as_they_were_written(report: Path, record: dict[str, Any]) -> None:
    read = pandas.read_csv(report / "layers.csv")
    kinds = {column: read[column].dtype.kind for column in read}
    for column, value in record["layers"][1].items():
        wanted = {bool: "b", int: "i", float: "f", str: "O"}[type(value)]
        assert kinds[column] == wanted or (wanted, value) in (("O", "inf"), ("O", "-inf")), column
    assert list(read["shape"]) == [row["shape"] for row in record["layers"]]
    assert read["sqnr_db"].tolist() == [number(row["sqnr_db"]) for row in record["layers"]]


def test_what_the_page_draws_from_is_in_the_record(record: dict[str, Any]) -> None:
    found = record["distributions"]["relu1"]
    assert len(found["counts"]) == 64 and sum(found["counts"]) > 0 and found["low"] <= 0 < found["high"]
    assert found["represented"][0] == 0 and 0 <= found["clipped"] < 0.05
    assert set(record["weights"]) == {"relu1", "conv2", "scores"}
    weights = record["weights"]["conv2"]
    assert weights["channels"] == len(weights["minimum"]) == len(weights["step"]) == 8
    assert all(low < 0 < high for low, high in zip(weights["minimum"], weights["maximum"], strict=True))
    assert record["thresholds"]["relu1"]["dtype"] == "uint8" and record["thresholds"]["relu1"]["threshold"] > 0
    assert record["commands"]["TIU"]["total"] > 0


def test_a_record_is_read_back_and_anything_else_refused(report: Path, record: dict[str, Any], tmp_path: Path) -> None:
    assert read(report) == read(report / "report.json") == record
    for content, told in (
        ("{", "is no JSON"),
        ("[]", "is no report"),
        ('{"schema": 4, "layers": []}', "newer version"),
    ):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(BadInput, match=told):
            read(tmp_path)
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path / "absent")


def test_every_key_and_column_is_documented(record: dict[str, Any]) -> None:
    told = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    columns = list(record["layers"][0])
    assert [name for name in [*record, *columns] if f"`{name}`" not in told] == []


def test_cycles_by_tensor_add_up_to_those_of_the_engines(record: dict[str, Any]) -> None:
    timing = record["timing"]
    assert sum(row["tiu_cycles"] for row in timing["by_tensor"]) == timing["tiu_busy"]
    assert sum(row["gdma_cycles"] for row in timing["by_tensor"]) == timing["gdma_busy"]
    assert {"relu1", "conv2", "relu2"} <= {row["name"] for row in timing["by_tensor"]}


class Tags(html.parser.HTMLParser):
    """What a page refers to, and whether its tags are closed."""

    VOID = frozenset({"meta", "br", "input", "line", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(report: Path) -> None:
    content = (report / "index.html").read_text()
    tags = Tags()
    tags.feed(content)
    assert tags.open == []
    assert all(each.startswith("#") and f'id="{each[1:]}"' in content for each in tags.references)
    assert not re.search(r"https?://|@import|url\(", content)


def test_the_page_shows_every_layer_and_check(report: Path, record: dict[str, Any]) -> None:
    content = (report / "index.html").read_text()
    for layer in record["layers"]:
        assert f'<td class="name" title="{layer["name"]}">{layer["name"]}</td>' in content
    for check in record["verification"]["checks"]:
        assert check["stage"] in content and check["verdict"] in content


def test_names_of_tensors_cannot_break_the_page(record: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(record))
    hostile["layers"][0]["name"] = "<script>alert('x')</script>\"&"
    content = page.render(hostile)
    assert "<script>alert" not in content and "&lt;script&gt;alert" in content


def test_a_page_can_be_drawn_without_verification_and_with_numbers_json_lacks(record: dict[str, Any]) -> None:
    bare = json.loads(json.dumps(record)) | {"verification": None, "layers": [], "findings": [], "advice": []}
    assert "not verified" in page.render(bare)
    strange = json.loads(json.dumps(record))
    strange["layers"][1] |= {"cosine": "nan", "sqnr_db": "nan", "max_error": "inf"}
    assert "NaN" in page.render(strange)


def test_numbers_json_lacks_are_spelt() -> None:
    assert plain({"a": (math.inf, -math.inf, math.nan, 1.5)}) == {"a": ["inf", "-inf", "nan", 1.5]}


def layer(**changes: Any) -> Layer:
    """A perfect int8 layer but for `changes`, of the layer or of its similarity."""
    figures = {
        "samples": 1, "elements": 10, "cosine": 1.0, "pooled_cosine": 1.0, "sqnr_db": math.inf, "relative_l2": 0.0,
        "max_error": 0.0, "mean_error": 0.0, "gain": 1.0, "expected_rms": 0.5,
        "saturated_low": 0.0, "saturated_high": 0.0, "not_finite": 0, "expected_min": -1.0, "expected_max": 1.0,
        "is_constant": False, "expected_is_constant": False,
    }  # fmt: skip
    own = {
        "index": 0,
        "name": "y",
        "operation": "Conv2D",
        "shape": (10,),
        "dtype": "int8",
        "scale": 0.01,
        "zero_point": 0,
    }
    for name, value in changes.items():
        (figures if name in figures else own)[name] = value
    return Layer(**own, similarity=Similarity(**figures))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"not_finite": 2}, "y: 2 of 10 values are NaN or infinite"),
        ({"saturated_high": 0.1}, "y: 10.0% of its values saturate"),
        ({"expected_min": -0.001, "expected_max": 0.004}, "y: all its values round to zero"),
        ({"is_constant": True}, "y: is an output and constant"),
        ({"is_constant": True, "name": "inner"}, "inner: is constant over all samples"),
        ({"gain": 0.95, "pooled_cosine": 0.9998}, "y: its values are 5.0% too small, which its cosine of 0.9998"),
        ({"expected_min": 0.0, "expected_max": 0.0}, "y: is almost zero on all samples"),
        ({"expected_rms": 0.002}, "y: is almost zero on all samples"),
    ],
)
def test_what_a_person_should_know_is_a_finding(changes: dict[str, Any], told: str) -> None:
    (line,) = findings([layer(**changes)], ["y"])
    assert str(line).startswith(told)


def test_a_good_layer_is_no_finding() -> None:
    both = {"is_constant": True, "expected_is_constant": True}
    assert findings([layer(), layer(saturated_low=0.005), layer(**both), layer(gain=1.01)], ["y"]) == []


def test_the_first_layer_below_the_gate_is_found_even_when_it_is_nan() -> None:
    layers = [layer(), layer(name="b", cosine=math.nan), layer(name="c", cosine=0.1)]
    found = first_below(layers, 0.9)
    assert found is not None and found.name == "b"
    assert first_below(layers[:1], 0.9) is None


def test_a_cosine_is_never_rounded_up_to_one() -> None:
    assert text.cosine(0.99999999) == "0.999999" and text.cosine(1.0) == "1" and text.cosine(math.nan) == "NaN"


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes_have_units(count: int, told: str) -> None:
    assert text.size(count) == told


def test_columns_line_up() -> None:
    assert text.columns([("a", "10"), ("bbb", "5")], ("x", "n"), frozenset({1})) == "x     n\na    10\nbbb   5"
