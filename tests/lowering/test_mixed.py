"""Networks of any mixture of precisions are lowered to what they are in float, with one cast wherever types meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_top_networks import random_precisions, random_top
from top_networks import Top
from xdsl.dialects.builtin import Float16Type, Float32Type

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, element_of, name_of, shape_of
from tpu_deploy.ir.text import from_text, to_text
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.quant import Scheme, make_plan
from tpu_deploy.runtime.reference import Reference

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    threshold: float
    min: float
    max: float


def feeds_of(network: Network) -> Feeds:
    rng = np.random.default_rng(0)
    return {name_of(v): rng.standard_normal(shape_of(v)).astype(np.float32) for v in network.inputs}


def float_values(network: Network, feeds: Feeds) -> Feeds:
    names = [name_of(v) for v in network.values() if name_of(v) not in feeds]
    session = onnxruntime.InferenceSession(export_onnx(network, names).SerializeToString())
    return dict(zip(names, session.run(names, feeds), strict=True)) | feeds


def table_of(values: Feeds) -> dict[str, Row]:
    return {n: Row(float(np.abs(v).max()), float(v.min()), float(v.max())) for n, v in values.items()}


def lowered(network: Network, scheme: Scheme, quantized_io: bool = False) -> Network:
    values = float_values(network, feeds_of(network))
    return lower_to_tpu(network, make_plan(network, table_of(values), scheme), quantized_io=quantized_io)


def operations(network: Network) -> list[str]:
    return [op.name.removeprefix("tpu.") for op in network.operations]


def worst_cosine(network: Network, tpu: Network) -> float:
    feeds = feeds_of(network)
    wanted, got = float_values(network, feeds), Reference(tpu).run(feeds)
    pairs = [
        (wanted[name_of(v)].reshape(-1).astype(float), got[n].reshape(-1))
        for v, n in zip(network.outputs, network.output_names, strict=True)
    ]
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if a.any() else 1.0 for a, b in pairs)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_mixture_computes_what_the_float_network_does(seed: int) -> None:
    network = random_top(seed)
    chosen, results = random_precisions(network, seed)
    tpu = lowered(network, Scheme(operations=chosen, results=results))
    text = to_text(tpu)
    assert to_text(from_text(text, tpu.weights)) == text
    assert [element_of(v) for v in tpu.outputs] == [Float32Type()] * len(tpu.outputs)
    assert worst_cosine(network, tpu) > 0.9


@pytest.mark.parametrize("precision, gate", [("F32", 0.99999), ("F16", 0.9999), ("BF16", 0.995)])
@settings(derandomize=True, max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_float_network_needs_no_ranges_and_passes_its_gate(precision: str, gate: float, seed: int) -> None:
    network = random_top(seed)
    tpu = lower_to_tpu(network, make_plan(network, {}, Scheme(precision=precision)))
    assert worst_cosine(network, tpu) > gate
    if precision == "F32":
        assert not {"Cast", "Quantize", "Dequantize"} & set(operations(tpu))


def chain() -> Network:
    top = Top()
    first = top.conv("first", top.x)
    second = top.conv("second", first)
    return top.finish(top.op("Add", "sum", second, top.op("HardSwish", "act", second)))


def test_readers_of_one_precision_share_a_cast() -> None:
    precisions = {"sum": "F16", "act": "F16"}
    tpu = lowered(chain(), Scheme(operations=precisions))
    assert operations(tpu) == ["Quantize", "Conv2D", "Conv2D", "Dequantize", "HardSwish", "FloatAdd", "Cast"]


def test_between_16_bit_types_a_value_passes_through_float32() -> None:
    top = Top()
    network = top.finish(top.op("Tanh", "b", top.op("Sigmoid", "a", top.x)))
    tpu = lowered(network, Scheme(operations={"a": "F16", "b": "BF16"}))
    assert operations(tpu) == ["Cast", "Sigmoid", "Cast", "Cast", "Tanh", "Cast"]


def test_sums_of_integers_reach_a_float_reader_without_8_bits() -> None:
    scheme = Scheme(operations={"sum": "F16", "act": "F16"}, results={"second": "F16"})
    tpu = lowered(chain(), scheme)
    assert operations(tpu) == ["Quantize", "Conv2D", "DequantizedConv2D", "HardSwish", "FloatAdd", "Cast"]
    second = next(op for op in tpu.operations if op.name == "tpu.DequantizedConv2D")
    assert element_of(second.results[0]) == Float16Type()
    assert worst_cosine(chain(), tpu) > worst_cosine(chain(), lowered(chain(), Scheme()))


def test_a_float_sum_is_quantized_for_the_int8_operations_that_read_it() -> None:
    tpu = lowered(chain(), Scheme(results={"first": "F32", "second": "F32"}))
    assert operations(tpu).count("DequantizedConv2D") == 2
    assert operations(tpu).count("Quantize") == 3
    assert worst_cosine(chain(), tpu) > 0.99


def test_movements_between_floats_stay_float_beside_an_int8_reader() -> None:
    top = Top()
    moved = top.op("Permute", "moved", top.op("Tanh", "t", top.x), shape=(2, 6, 8, 9), order=[0, 1, 3, 2])
    network = top.finish(top.op("Sigmoid", "s", moved), top.conv("c", moved))
    plan = make_plan(network, table_of(float_values(network, feeds_of(network))), Scheme(operations={"c": "INT8"}))
    assert plan.operations["moved"] == "INT8"
    scheme = Scheme(precision="F16", operations={"c": "INT8"})
    plan = make_plan(network, table_of(float_values(network, feeds_of(network))), scheme)
    assert plan.operations == {"t": "F16", "moved": "F16", "s": "F16", "c": "INT8"}


def test_quantized_outputs_are_those_made_in_8_bits() -> None:
    top = Top()
    network = top.finish(top.conv("whole", top.x), top.op("Tanh", "half", top.x))
    tpu = lowered(network, Scheme(operations={"half": "F16"}), quantized_io=True)
    assert [str(element_of(v))[:14] for v in tpu.outputs] == ["!quant.uniform", "f32"]


@pytest.mark.parametrize(
    "scheme, message",
    [
        ({"precision": "FP8"}, "precision FP8 of the network: is unknown; choose INT8, F16, BF16, F32"),
        (
            {"operations": {"frist": "F16"}},
            "precision of frist: the network has no such operation; did you mean first?",
        ),
        ({"results": {"first": "INT8"}}, "precision INT8 of first: is unknown; choose F16, BF16, F32"),
        (
            {"results": {"sum": "F16"}},
            "float result of sum: is a Add; only INT8 operations Conv, MatMul, Scale have one",
        ),
        (
            {"precision": "F16", "results": {"first": "F16"}},
            "float result of first: is computed in F16 anyway; give one of the two",
        ),
    ],
)
def test_precisions_that_are_not_there_are_refused(scheme: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_plan(chain(), {}, Scheme(**scheme))
    assert str(caught.value) == message
