from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tpu_deploy.pipeline.source import Source


def two_inputs(first: list[int | str], second: list[int | str]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("a", first), ("b", second))]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "two", values, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_only_a_batch_that_is_all_that_is_open_is_settled() -> None:
    source = Source.of(two_inputs(["N", 3, 8], ["N", "T", 8]))
    assert source.shapes_for_batch(None, 1) == {"a": (1, 3, 8)}


def test_an_input_follows_the_batch_given_for_another_by_the_name_of_the_dimension() -> None:
    assert Source.of(two_inputs(["N", 3], ["N", 3])).shapes_for_batch({"a": (4, 3)}, 1) == {"a": (4, 3)}
    assert Source.of(two_inputs(["N", 3], ["M", 3])).shapes_for_batch({"a": (4, 3)}, 1) == {"a": (4, 3), "b": (1, 3)}
    assert Source.of(two_inputs([2, 3], ["N", 3])).shapes_for_batch(None, 1) == {"b": (1, 3)}
