"""Quantize tables are read as TPU-MLIR writes them, and what we write it skips or understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpu_deploy.errors import BadInput
from tpu_deploy.quant.plan import QuantizationPlan
from tpu_deploy.quant.qtable import QuantizeTable

THEIRS = """# generated time: 2024-08-01 17:00:00
# sample number: 100
# chip: BM1684X
# total layers: 3 (unique list blow)
###
# op_name   quantize_mode
# pattern layers
# shape layers
# custom layers
conv1_Conv F16
output_Gemm   bf16

relu with blanks_Relu F32
"""


def test_a_table_of_tpu_mlir_is_read(tmp_path: Path) -> None:
    (tmp_path / "q").write_text(THEIRS)
    table = QuantizeTable.read(tmp_path / "q")
    assert table.operations == {"conv1_Conv": "F16", "output_Gemm": "BF16", "relu with blanks_Relu": "F32"}
    assert table.results == {}


def test_a_written_table_reads_back(tmp_path: Path) -> None:
    table = QuantizeTable({"a/b.1": "F16", "c": "INT8", "d": "INT8"}, {"c": "F32"})
    table.write(tmp_path / "q")
    assert QuantizeTable.read(tmp_path / "q") == table


def test_float_results_stand_in_comments_and_every_other_line_is_a_name_and_a_mode() -> None:
    text = QuantizeTable({"a": "F16", "b": "BF16"}, {"c": "F16"}).text({"a": "a_Conv", "c": "c_Conv"})
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["a_Conv F16", "b BF16"]
    assert "# float_result c_Conv F16" in text.splitlines()


def test_the_table_of_a_plan_names_what_differs_from_the_default() -> None:
    plan = QuantizationPlan({}, {"a": "INT8", "b": "F16", "s": "F32"}, results={"a": "F16"})
    assert QuantizeTable.of(plan) == QuantizeTable({"b": "F16", "s": "F32"}, {"a": "F16"})
    assert QuantizeTable.of(plan, "F16").operations == {"a": "INT8", "s": "F32"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("conv1\n", "q, line 1: 'conv1' is not `name precision`"),
        ("# x\na W8F16\n", "q, line 2: the precision of 'a' is 'W8F16'; choose INT8, F16, BF16, F32"),
        ("a F16\na F32\n", "q, line 2: 'a' has F16 already; remove one of the lines"),
        ("# float_result a INT8\n", "q, line 1: the precision of 'a' is 'INT8'; choose F16, BF16, F32"),
        ("# nothing\n", "q: names no operation; give a quantize table"),
    ],
)
def test_other_text_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q").write_text(text)
    with pytest.raises(BadInput) as caught:
        QuantizeTable.read(tmp_path / "q")
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file; give a quantize table"):
        QuantizeTable.read(tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as a quantize table"):
        QuantizeTable.read(tmp_path / "bytes")


@pytest.mark.parametrize("name", ["", "# a", "a  b"])
def test_names_that_would_not_read_back_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot stand in a quantize table"):
        QuantizeTable({name: "F16"}).text()
