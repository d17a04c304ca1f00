"""Each bad model or shape ends in one line that names the culprit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_cases import IMAGE, N, ints, model, positive, single, weight

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import UnsupportedOperators, find_unsupported, import_onnx, import_supported
from tpu_deploy.frontend.model_file import newest_versions
from tpu_deploy.ir.network import name_of


def refusal(source: str | Path | onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None) -> str:
    """The message of the BadInput that importing raises."""
    with pytest.raises(BadInput) as raised:
        import_onnx(source, shapes)
    message = str(raised.value)
    assert "\n" not in message
    return message


CONV = single("Conv", IMAGE, weight(4, 6, 3, 3))


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "no.onnx: cannot be read" in refusal(tmp_path / "no.onnx")


def test_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    assert "m.onnx: is empty" in refusal(tmp_path / "m.onnx")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    content = CONV.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: int(len(content) * keep)])
    assert "m.onnx" in refusal(tmp_path / "m.onnx")


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_are_refused(tmp_path: Path, seed: int) -> None:
    (tmp_path / "m.onnx").write_bytes(np.random.default_rng(seed).bytes(1000 * seed + 7))
    assert "m.onnx: is not an ONNX model" in refusal(tmp_path / "m.onnx")


def test_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("<html>404 not found</html>")
    assert "m.onnx: is not an ONNX model" in refusal(tmp_path / "m.onnx")


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight lies in m.bin beside it."""
    path = tmp_path / "m.onnx"
    proto = single("Conv", IMAGE, weight(4, 6, 3, 3))
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    return path


def test_external_data_is_read(external: Path) -> None:
    array = next(iter(import_onnx(external).weights.values()))
    np.testing.assert_array_equal(array, weight(4, 6, 3, 3))


def test_missing_external_data_is_named(external: Path) -> None:
    (external.parent / "m.bin").unlink()
    assert "c0" in (message := refusal(external)) and "m.bin, which is missing" in message


def test_short_external_data_is_named(external: Path) -> None:
    content = (external.parent / "m.bin").read_bytes()
    (external.parent / "m.bin").write_bytes(content[:-4])
    assert "c0" in (message := refusal(external)) and "m.bin has 860 bytes, 864 are needed" in message


def test_external_data_outside_the_folder_is_refused(external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    (external.parent / "below").mkdir()
    proto.graph.initializer[0].external_data[0].value = "../m.bin"
    moved = external.parent / "below" / "m.onnx"
    moved.write_bytes(proto.SerializeToString())
    assert "c0" in (message := refusal(moved)) and "not below the model's folder" in message


def test_a_message_cannot_have_external_data(external: Path) -> None:
    assert "give the path of the model" in refusal(onnx.load(external, load_external_data=False))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite_is_named(value: float) -> None:
    bad = weight(4, 6, 3, 3)
    bad[1, 2, 0, 0] = value
    assert "weight c0 has NaN or Inf" in refusal(single("Conv", IMAGE, bad))


@pytest.mark.filterwarnings("error")
def test_weight_that_a_factor_takes_beyond_float32_is_named() -> None:
    big = np.full((3, 5), 3e38, np.float32)
    assert "NaN or Inf" in refusal(single("Gemm", (1, 3), big, alpha=2.0))
    assert "weight c has NaN or Inf" in refusal(
        model([N("Cast", ["k"], ["c"], to=1), N("Mul", ["x", "c"], ["y"])], {"x": (1, 3)}, {"k": np.full(3, 1e300)})
    )


def test_weight_of_large_finite_values_is_accepted() -> None:
    import_onnx(single("Conv", IMAGE, np.full((4, 6, 3, 3), 3e38, np.float32)))


def test_weight_with_missing_bytes_is_named() -> None:
    proto = single("Conv", IMAGE, weight(4, 6, 3, 3))
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    assert "weight c0 cannot be read" in refusal(proto)


# ---- shapes


def test_dynamic_batch_is_refused_with_the_option_to_give() -> None:
    proto = single("Relu", ("N", 3, 224, 224))  # type: ignore[arg-type]
    assert "give --input-shape x=1,3,224,224" in refusal(proto)
    assert import_onnx(proto, {"x": (4, 3, 224, 224)}).inputs[0].type.get_shape() == (4, 3, 224, 224)


def test_dynamic_image_is_refused_with_a_likely_size() -> None:
    assert "(N,3,?,?); give --input-shape x=1,3,224,224" in refusal(single("Relu", ("N", 3, None, None)))  # type: ignore[arg-type]


def test_a_dimension_name_means_the_same_size_everywhere() -> None:
    proto = model([N("Add", ["x", "z"], ["y"])], {"x": ("N", 3), "z": ("N", 3)})
    assert [v.type.get_shape() for v in import_onnx(proto, {"x": (5, 3)}).inputs] == [(5, 3), (5, 3)]


def test_wrong_rank_is_refused() -> None:
    assert "has 3 dimensions where the model has 4" in refusal(CONV, {"x": (6, 9, 8)})


def test_wrong_channels_are_refused() -> None:
    assert "the model fixes axis 1 to 6" in refusal(CONV, {"x": (2, 3, 9, 8)})


def test_wrong_channels_of_a_dynamic_input_are_refused_where_they_do_not_fit() -> None:
    proto = single("Conv", ("N", "C", "H", "W"), weight(4, 6, 3, 3))  # type: ignore[arg-type]
    assert "its weight takes 6 channels, input x has 3" in refusal(proto, {"x": (1, 3, 9, 8)})


@pytest.mark.parametrize("shape", [(0, 6, 9, 8), (-1, 6, 9, 8)])
def test_sizes_below_one_are_refused(shape: tuple[int, ...]) -> None:
    assert "every size must be at least 1" in refusal(CONV, {"x": shape})


def test_unknown_input_is_refused_with_the_nearest_name() -> None:
    proto = model([N("Relu", ["image"], ["y"])], {"image": IMAGE})
    assert "imagee, which is not an input of the model; did you mean image?" in refusal(proto, {"imagee": IMAGE})


def test_image_smaller_than_the_kernel_is_refused() -> None:
    assert "larger than its input (2, 2)" in refusal(single("Conv", (1, 6, 2, 2), weight(4, 6, 3, 3)))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.STRING])
def test_inputs_that_are_not_float32_are_named(kind: int) -> None:
    proto = single("Relu", IMAGE)
    proto.graph.input[0].type.tensor_type.elem_type = kind
    name = TensorProto.DataType.Name(kind).lower()
    assert f"input x is {name}; export the network with float32 inputs" in refusal(proto)


# ---- versions


def test_opset_newer_than_onnxruntime_is_refused() -> None:
    newest = newest_versions()[0]
    import_onnx(single("Relu", IMAGE, opset=newest))
    message = refusal(single("Relu", IMAGE, opset=newest + 1))
    assert f"uses opset {newest + 1}, newer than the installed onnxruntime runs ({newest})" in message


def test_opset_before_11_is_refused() -> None:
    assert "uses opset 10, 11 is the oldest" in refusal(single("Relu", IMAGE, opset=10))


def test_newer_file_version_is_refused() -> None:
    proto = single("Relu", IMAGE)
    proto.ir_version = newest_versions()[1] + 1
    assert "IR version" in refusal(proto)


# ---- nodes


def broken_reference() -> onnx.ModelProto:
    return model([N("Relu", ["nowhere"], ["y"])], {"x": IMAGE})


def unknown_attribute() -> onnx.ModelProto:
    return single("Relu", IMAGE, slope=2)


def too_few_inputs() -> onnx.ModelProto:
    return model([N("Add", ["x"], ["y"])], {"x": IMAGE})


def repeated_weight() -> onnx.ModelProto:
    proto = single("Add", IMAGE, weight(8))
    proto.graph.initializer.append(proto.graph.initializer[0])
    return proto


@pytest.mark.parametrize("make", [broken_reference, unknown_attribute, too_few_inputs, repeated_weight])
def test_invalid_onnx_is_refused(make: Callable[[], onnx.ModelProto]) -> None:
    refusal(make())


@pytest.mark.parametrize(
    ("proto", "told"),
    [
        (single("MatMul", (3, 7), weight(8, 5)), "its constant has 8 rows where the other factor has 7 columns"),
        (single("Add", IMAGE, weight(5)), "do not broadcast"),
        (single("Reshape", IMAGE, ints(5, -1)), "cannot be reshaped to [5, -1]"),
        (single("Transpose", IMAGE, perm=[0, 1, 2]), "no order of 4 axes"),
        (single("Squeeze", IMAGE, ints(1)), "not all of size 1"),
        (single("Softmax", (2, 3), axis=2), "axis 2 does not exist"),
        (single("Div", IMAGE, np.zeros(1, np.float32)), "its divisor holds a zero"),
        (single("Split", IMAGE, ints(1, 2), axis=1), "do not make up axis 1"),
        (single("BatchNormalization", IMAGE, *[-positive(6)] * 4), "its variance c3 is negative"),
        (single("BatchNormalization", IMAGE, *[weight(5)] * 4), "its scale has shape (5,), 6 values are needed"),
    ],
)
def test_operands_that_do_not_fit_are_refused_by_node(proto: onnx.ModelProto, told: str) -> None:
    proto.graph.node[0].name = "culprit"
    assert told in (message := refusal(proto)) and "node culprit (" in message


def test_output_that_depends_on_no_input_is_refused() -> None:
    nodes = [N("Relu", ["x"], ["y"]), N("Relu", ["w"], ["fixed"])]
    proto = model(nodes, {"x": IMAGE}, {"w": weight(3)}, outputs=("y", "fixed"))
    assert "output fixed does not depend on any input" in refusal(proto)


# ---- unsupported operators


def several_unsupported() -> onnx.ModelProto:
    nodes = [
        N("Conv", ["x", "w"], ["a"], name="fine"),
        N("Det", ["a"], ["b"], name="first"),
        N("Sin", ["a"], ["c"], name="second"),
        N("MatMul", ["c", "a"], ["d"], name="third"),
        N("Sin", ["d"], ["e"]),
        N("Foo", ["e"], ["f"], name="custom", domain="my.domain"),
        N("NonZero", ["x"], ["dead"], name="unread"),
    ]
    proto = model(nodes, {"x": (2, 3, 4, 4)}, {"w": weight(3, 3, 1, 1)}, outputs=("b", "f"))
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    return proto


def test_all_unsupported_operators_are_reported_at_once_by_name() -> None:
    with pytest.raises(UnsupportedOperators) as raised:
        import_onnx(several_unsupported())
    found = [(f.node, f.op_type, f.tensor) for f in raised.value.findings]
    assert found == [
        ("first", "Det", "b"),
        ("second", "Sin", "c"),
        ("third", "MatMul", "d"),
        ("", "Sin", "e"),
        ("custom", "my.domain.Foo", "f"),
    ]
    message = str(raised.value)
    assert "\n" not in message
    for place in ("first", "second", "third", "the node producing e", "custom"):
        assert place in message


def test_what_is_supported_of_a_model_is_imported_with_its_outputs_and_loose_ends() -> None:
    nodes = [N("Relu", ["x"], ["a"]), N("Neg", ["a"], ["b"]), N("Sin", ["b"], ["c"]), N("Relu", ["c"], ["d"])]
    proto = model([*nodes, N("Sin", ["d"], ["y"], name="last")], {"x": IMAGE}, outputs=("a", "y"))
    network, findings = import_supported(proto)
    assert [f.tensor for f in findings] == ["c", "y"]
    assert [name_of(op) for op in network.operations] == ["a", "b", "d"]
    assert [name_of(value) for value in network.inputs] == ["x", "c", "y"]
    assert network.output_names == ["a", "y", "b", "d"]
    network.verify()


def test_findings_say_why() -> None:
    reasons = {f.tensor: f.reason for f in find_unsupported(several_unsupported())}
    assert reasons["c"] == "this operator is not supported"
    assert reasons["d"] == "both factors are computed by the network, one must be constant"


def test_inspection_assumes_sizes_that_the_model_leaves_open() -> None:
    assert find_unsupported(single("Conv", ("N", 6, "H", "W"), weight(4, 6, 3, 3))) == []  # type: ignore[arg-type]
    proto = model(
        [N("Flatten", ["x"], ["a"]), N("MatMul", ["a", "w"], ["b"]), N("Sin", ["b"], ["y"], name="bad")],
        {"x": ("N", 3, "H", "W")},
        {"w": weight(100, 5)},
    )
    assert [f.node for f in find_unsupported(proto)] == ["bad"]


@pytest.mark.parametrize(
    ("proto", "told"),
    [
        (model([N("Conv", ["x", "z"], ["y"])], {"x": IMAGE, "z": (4, 6, 3, 3)}), "its weight is computed"),
        (model([N("Gemm", ["x", "z"], ["y"])], {"x": (3, 8), "z": (8, 5)}), "both factors are computed"),
        (single("MatMul", (2, 3, 8), weight(2, 8, 5)), "holds several matrices"),
        (single("Conv", (1, 2, 5, 5, 5), weight(4, 2, 3, 3, 3)), "3 spatial dimensions"),
        (single("PRelu", IMAGE, weight(8)), "varies along other axes than the channels"),
        (single("Expand", (1, 3), ints(4, 3)), "it repeats elements"),
        (model([N("Concat", ["x", "w"], ["y"], axis=1)], {"x": (2, 3)}, {"w": weight(2, 3)}), "joins a constant"),
        (model([N("Max", ["x", "z"], ["y"])], {"x": IMAGE, "z": IMAGE}), "only a tensor and one number"),
        (model([N("Div", ["x", "z"], ["y"])], {"x": IMAGE, "z": IMAGE}), "its divisor is computed"),
        (model([N("Cast", ["x"], ["a"], to=7), N("Cast", ["a"], ["y"], to=1)], {"x": IMAGE}), "makes integers"),
        (single("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]), "dilated"),
        (single("BatchNormalization", IMAGE, *[weight(6)] * 4, opset=14, training_mode=1), "training mode"),
        (single("Slice", IMAGE, ints(5), ints(2), ints(1)), "its result is empty"),
        (single("Resize", IMAGE, None, None, ints(2, 6, 18, 16), mode="linear"), "its mode is linear"),
        (
            single("Resize", IMAGE, None, None, ints(2, 6, 13, 16)),
            "resizes (2, 6, 9, 8) to (2, 6, 13, 16); only height",
        ),
        (single("Resize", IMAGE, None, None, ints(2, 12, 9, 8)), "only height and width can be repeated"),
        (single("Pow", IMAGE, weight(1)), "only 1, 2 and 3 are supported"),
        (model([N("MaxPool", ["x"], ["a", "y"], kernel_shape=[2, 2])], {"x": IMAGE}), "its output y cannot"),
    ],
)
def test_forms_that_cannot_be_compiled_are_findings(proto: onnx.ModelProto, told: str) -> None:
    (finding,) = find_unsupported(proto)
    assert told in finding.reason


def test_sparse_weights_are_named() -> None:
    proto = single("Add", (3,), weight(3))
    dense = proto.graph.initializer.pop()
    dense.name = "sparse"
    places = helper.make_tensor("places", TensorProto.INT64, [3], range(3))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(dense, places, [3]))
    assert "weight sparse is stored sparsely" in refusal(proto)
