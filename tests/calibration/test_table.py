import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.calibration import CalibrationTable, Threshold
from tpu_deploy.errors import BadInput

ENTRIES = {
    "input": Threshold(2.5, -2.25, 2.5),
    "relu/1:0": Threshold(6.0, 0.0, 6.0),
    "logits": Threshold(9.5, -3, 23.5),
}

FOREIGN = """# mlir version: v1.30.2-20260831 cali version 1.0
# mlir: net.mlir
# genetated time: 2026-11-22 07:34:39.669421
# quantization threshold calculation method: ['kl']
# histogram number: 2048
# sample number: 32
###
# tune number: 5
###
# op_name    threshold    min    max
input 5.2078099 -4.9396615 5.8723555
relu_8_Relu 7.6902966 -0.0000000 8.7120829
#int4_th
relu_8_Relu 3.0 -0.0 8.7
"""

numbers = st.floats(2.0**-100, 2.0**100, width=32)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4))
def test_reading_gives_back_what_was_written_to_the_last_bit(tmp_path_factory, rows):
    entries = {f"t{index}": Threshold(t, -low, high) for index, (t, low, high) in enumerate(rows)}
    table = CalibrationTable(entries, "mse", 7, "sha256:0")
    path = tmp_path_factory.mktemp("table") / "a.table"
    table.write(path)
    assert CalibrationTable.read(path) == table
    assert list(CalibrationTable.read(path)) == list(entries)


def test_the_file_is_reproducible_and_has_the_line_format_of_the_field(tmp_path):
    table = CalibrationTable(ENTRIES, "kl", 100, "sha256:ab", tool_version="1.2.3")
    for name in ("a", "b"):
        table.write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text() == (
        "# quantization threshold calculation method: kl\n# sample number: 100\n# model: sha256:ab\n"
        "# tpu_deploy version: 1.2.3\n###\n# op_name    threshold    min    max\ninput 2.5000000 -2.2500000 2.5000000\n"
        "relu/1:0 6.0000000 0.0000000 6.0000000\nlogits 9.5000000 -3.0000000 23.5000000\n"
    )


def test_either_naming_is_read_as_the_onnx_name(tmp_path):
    theirs = {"input": "input", "relu/1:0": "relu/1:0_Relu", "logits": "logits_Gemm"}
    table = CalibrationTable(ENTRIES)
    table.write(tmp_path / "ours")
    table.write(tmp_path / "theirs", theirs)
    assert "logits_Gemm 9.5" in (tmp_path / "theirs").read_text()
    for name in ("ours", "theirs"):
        assert dict(CalibrationTable.read(tmp_path / name, theirs)) == ENTRIES
    assert "logits_Gemm" in CalibrationTable.read(tmp_path / "theirs")


def test_tables_of_tpu_mlir_are_read_up_to_the_thresholds_of_other_precisions(tmp_path):
    (tmp_path / "t").write_text(FOREIGN)
    table = CalibrationTable.read(tmp_path / "t", {"relu_8": "relu_8_Relu", "input": "input"})
    assert (table.method, table.samples) == ("kl", 32)
    assert list(table) == ["input", "relu_8"]
    assert table["input"].min == pytest.approx(-4.9396615)
    assert table["relu_8"].threshold == pytest.approx(7.6902966)


def test_names_with_blanks_are_read(tmp_path):
    CalibrationTable({"a b c": Threshold(1, -1, 1)}).write(tmp_path / "t")
    assert list(CalibrationTable.read(tmp_path / "t")) == ["a b c"]


@pytest.mark.parametrize("name", ["", "#x", "a\nb", " a", "a  b"])
def test_names_that_would_not_be_read_back_are_refused_and_no_file_is_left(tmp_path, name):
    with pytest.raises(BadInput, match="rename"):
        CalibrationTable({name: Threshold(1, -1, 1)}).write(tmp_path / "t")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "holds no thresholds"),
        ("# sample number: 3\n###\n", "holds no thresholds"),
        ("input 1.0 -1.0\n", "line 1: 'input 1.0 -1.0' is not `name threshold min max`"),
        ("input 1.0 -1.0 1.0\nrelu x 0 1\n", "line 2: the threshold of 'relu' is 'x', not a number"),
        ("input nan -1.0 1.0\n", "line 1: the threshold of 'input' is nan"),
        ("input 1.0 -inf 1.0\n", "line 1: the min of 'input' is -inf"),
        ("input 1.0 -1.0 nan\n", "line 1: the max of 'input' is nan"),
        ("input -1.0 -1.0 1.0\n", "line 1: the threshold of 'input' is -1.0, but it must be positive"),
        ("input 0 -1.0 1.0\n", "must be positive"),
        ("input 1.0 2.0 1.0\n", "line 1: the min of 'input', 2.0, is above its max, 1.0"),
        ("a 1 0 1\nb 1 0 1\na 1 0 1\n", "line 3: tensor 'a' has a line already"),
        ("\x00\x01garbage", "line 1"),
    ],
)
def test_a_malformed_table_names_file_line_and_fault(tmp_path, content, fault):
    path = tmp_path / "bad.table"
    path.write_text(content)
    with pytest.raises(BadInput) as error:
        CalibrationTable.read(path)
    assert str(path) in str(error.value)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_binary_and_folder_tables_are_bad_input(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path / "b", tmp_path):
        with pytest.raises(BadInput, match=str(path)):
            CalibrationTable.read(path)


def test_a_missing_tensor_is_named_with_the_nearest_that_is_there():
    table = CalibrationTable(ENTRIES, source="my.table")
    table.require(ENTRIES)
    with pytest.raises(BadInput, match=r"my\.table: has no line for tensor 'logit'; the nearest is 'logits'"):
        table.require([*ENTRIES, "logit"])


def test_a_table_of_another_model_is_said_to_be_one(tmp_path):
    table = CalibrationTable(ENTRIES)
    with pytest.raises(BadInput, match="another model: it has 1 of this model's 4 tensors, and not 'a'"):
        table.require(["a", "b", "c", "input"])
    table.write(tmp_path / "t")
    with pytest.raises(BadInput, match="another model"):
        CalibrationTable.read(tmp_path / "t", {"a": "a_Relu"})


def test_thresholds_are_written_without_powers_of_ten(tmp_path):
    CalibrationTable({"t": Threshold(1e-12, -3e20, float(np.float32(1e-38)))}).write(tmp_path / "t")
    assert "e" not in (tmp_path / "t").read_text().splitlines()[-1]
    assert CalibrationTable.read(tmp_path / "t")["t"].threshold == pytest.approx(1e-12)
