"""What an import keeps: names, weights, outputs; and what overriding the batch changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_cases import IMAGE, N, assert_close, feeds_for, ints, model, number, positive, run, single, weight

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx, import_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of


def names(network: Network) -> list[str]:
    return [name_of(v) for v in network.values()]


def test_values_and_weights_keep_their_onnx_names() -> None:
    nodes = [N("Conv", ["x", "conv.weight"], ["conv/out:0"]), N("Relu", ["conv/out:0"], ["y"])]
    network = import_onnx(model(nodes, {"x": IMAGE}, {"conv.weight": weight(4, 6, 3, 3)}))
    assert names(network) == ["x", "conv/out:0", "y"]
    assert list(network.weights) == ["conv.weight"]
    assert network.output_names == ["y"]


def test_helper_names_avoid_those_of_the_model() -> None:
    nodes = [N("Relu", ["x"], ["y_image"]), N("Conv", ["y_image", "w"], ["y"])]
    network = import_onnx(model(nodes, {"x": (1, 3, 9)}, {"w": weight(4, 3, 3)}))
    assert len(set(names(network))) == len(names(network)) == 5


def test_weights_are_shared_not_copied() -> None:
    nodes = [N("Conv", ["x", "w"], ["a"]), N("Conv", ["a", "w"], ["y"])]
    network = import_onnx(model(nodes, {"x": IMAGE}, {"w": weight(6, 6, 1, 1)}))
    assert list(network.weights) == ["w"]
    assert not network.weights["w"].flags.owndata


def test_initializers_listed_as_inputs_are_weights() -> None:
    proto = single("Conv", IMAGE, weight(4, 6, 3, 3))
    proto.graph.input.append(helper.make_tensor_value_info("c0", 1, [4, 6, 3, 3]))
    assert [name_of(v) for v in import_onnx(proto).inputs] == ["x"]


def test_an_input_that_nobody_reads_stays_an_input() -> None:
    network = import_onnx(model([N("Relu", ["x"], ["y"])], {"x": IMAGE, "unread": (1, 2)}))
    assert [name_of(v) for v in network.inputs] == ["x", "unread"]


def test_an_identity_leaves_the_output_its_name() -> None:
    network = import_onnx(model([N("Relu", ["x"], ["a"]), N("Identity", ["a"], ["y"])], {"x": IMAGE}))
    assert names(network) == ["x", "a"]
    assert network.output_names == ["y"]
    assert [o.name for o in export_onnx(network).graph.output] == ["y"]


def test_double_weights_become_float32() -> None:
    nodes = [N("Cast", ["x"], ["d"], to=11), N("Add", ["d", "w"], ["e"]), N("Cast", ["e"], ["y"], to=1)]
    proto = model(nodes, {"x": (2, 3)}, {"w": weight(3).astype(np.float64)})
    network = import_onnx(proto)
    assert {a.dtype for a in network.weights.values()} == {np.dtype(np.float32)}
    assert_close(run(export_onnx(network), feeds_for(proto)), run(proto, feeds_for(proto)))


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("my", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 13)])
    proto = model([N("Twice", ["x"], ["y"], domain="my")], {"x": IMAGE})
    proto.opset_import.append(helper.make_opsetid("my", 1))
    proto.functions.append(function)
    assert [op.name for op in import_onnx(proto).operations] == ["top.Relu", "top.MulConst"]


def test_chosen_values_can_be_exported() -> None:
    nodes = [N("Conv", ["x", "w"], ["a"]), N("Relu", ["a"], ["b"]), N("Identity", ["b"], ["y"])]
    network = import_onnx(model(nodes, {"x": IMAGE}, {"w": weight(4, 6, 3, 3)}))
    exported = export_onnx(network, ["a", "x", "a", "y"])
    assert [o.name for o in exported.graph.output] == ["a", "x", "y"]
    results = run(exported, feeds_for(exported))
    np.testing.assert_array_equal(results["y"], np.maximum(results["a"], 0))


def test_a_weight_may_have_the_name_of_a_value() -> None:
    network = Network.create("net", [("x", (2, 3))])
    operands = [network.inputs[0], network.add_weight("y", np.ones(3, np.float32))]
    added = network.append("top.Add", operands, [network.inputs[0].type], ["y"])
    network.finish(added.results, ["y"])
    np.testing.assert_array_equal(run(export_onnx(network), {"x": np.zeros((2, 3), np.float32)})["y"], 1)


# ---- another batch size than the model fixes


@pytest.mark.parametrize(
    ("target", "result"),
    [((1, -1), (4, 432)), ((1, 432), (4, 432)), ((-1, 432), (4, 432)), ((0, -1), (4, 432)), ((1, 6, 72), (4, 6, 72))],
)
def test_a_fixed_batch_in_a_reshape_follows_the_new_one(target: tuple[int, ...], result: tuple[int, ...]) -> None:
    proto = single("Reshape", (1, 6, 9, 8), ints(*target))
    network = import_onnx(proto, {"x": (4, 6, 9, 8)})
    assert shape_of(network.outputs[0]) == result


def test_a_reshape_that_hides_the_batch_is_refused_by_name() -> None:
    proto = single("Reshape", (1, 6, 9, 8), ints(6, 72))
    proto.graph.node[0].name = "flat"
    with pytest.raises(BadInput, match=r"node flat \(Reshape\): \(4, 6, 9, 8\) cannot be reshaped to \[6, 72\]"):
        import_onnx(proto, {"x": (4, 6, 9, 8)})


def test_rows_of_a_larger_batch_are_those_of_single_runs() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["a"]),
        N("GlobalAveragePool", ["a"], ["b"]),
        N("Reshape", ["b", "flat"], ["c"]),
        N("Gemm", ["c", "g"], ["y"]),
    ]
    constants = {"w": weight(5, 6, 3, 3), "flat": ints(1, 5), "g": weight(5, 3)}
    proto = model(nodes, {"x": (1, 6, 9, 8)}, constants)
    feed = weight(4, 6, 9, 8, seed=1)
    whole = run(export_onnx(import_onnx(proto, {"x": (4, 6, 9, 8)})), {"x": feed})["y"]
    rows = [run(proto, {"x": feed[i : i + 1]})["y"] for i in range(4)]
    np.testing.assert_allclose(whole, np.concatenate(rows), rtol=1e-5, atol=1e-6)


# ---- constants


def test_external_weights_are_mapped_not_read(tmp_path: Path) -> None:
    proto = single("Conv", (1, 64, 4, 4), np.zeros((64, 64, 3, 3), np.float32))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin")
    array = import_onnx(tmp_path / "m.onnx").weights["c0"]
    while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


def test_a_number_from_a_chain_of_constants_is_folded() -> None:
    nodes = [N("Sqrt", ["four"], ["two"]), N("Div", ["one", "two"], ["half"]), N("Mul", ["x", "half"], ["y"])]
    network = import_onnx(model(nodes, {"x": IMAGE}, {"four": number(4), "one": number(1)}))
    (op,) = network.operations
    assert op.name == "top.MulConst"


def test_a_constant_node_that_cannot_be_evaluated_is_named() -> None:
    proto = model(
        [N("MatMul", ["a", "b"], ["w"], name="bad"), N("Add", ["x", "w"], ["y"])],
        {"x": (2, 3)},
        {"a": positive(2, 4), "b": positive(5, 3)},
    )
    with pytest.raises(BadInput, match=r"constant node bad \(MatMul\) cannot be evaluated"):
        import_onnx(proto)


def test_the_package_imports_without_onnx() -> None:
    import subprocess
    import sys

    code = "import sys, tpu_deploy.frontend; sys.exit('onnx' in sys.modules or 'xdsl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
