"""Every TOP operation, lowered with ranges of its own float run, gives what the float network gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of, tensor_type, uniform_of
from tpu_deploy.lowering.registry import RULES, lowers
from tpu_deploy.lowering.to_tpu import lower_to_tpu, refusals, supported_operations
from tpu_deploy.numbers import quantize
from tpu_deploy.quant import Scheme, make_plan
from tpu_deploy.runtime.reference import Reference

IMAGE = (2, 5, 9, 8)


@dataclass(frozen=True)
class Row:
    threshold: float
    min: float
    max: float


class Top:
    """A TOP network under construction."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.network = Network.create("net", [(f"x{i}", s) for i, s in enumerate(shapes)])
        self.rng = np.random.default_rng(len(shapes))
        self.count = 0

    @property
    def inputs(self) -> list[SSAValue]:
        return self.network.inputs

    def weight(self, *shape: int, gain: float = 1.0) -> SSAValue:
        array = (self.rng.standard_normal(shape) * gain).astype(np.float32)
        return self.network.add_weight("w", array)

    def absent(self) -> SSAValue:
        return self.network.absent()

    def op(self, name: str, operands: list[SSAValue], shape: tuple[int, ...], **attributes: Any) -> SSAValue:
        self.count += 1
        kind = tensor_type(shape, Float32Type())
        return self.network.append(f"top.{name}", operands, [kind], [f"{name}{self.count}"], attributes).results[0]

    def unary(self, name: str, x: SSAValue, **attributes: Any) -> SSAValue:
        return self.op(name, [x], shape_of(x), **attributes)

    def conv(self, x: SSAValue, channels: int, kernel: int = 1, group: int = 1, **attributes: Any) -> SSAValue:
        n, c, h, w = shape_of(x)
        pad = kernel // 2
        filters = self.weight(channels, c // group, kernel, kernel, gain=(c // group * kernel**2) ** -0.5)
        window = {"kernel_shape": [kernel] * 2, "strides": [1, 1], "pads": [pad] * 4, "dilations": [1, 1]}
        operands = [x, filters, self.weight(channels, gain=0.3)]
        return self.op("Conv", operands, (n, channels, h, w), group=group, **window, **attributes)

    def finish(self, *outputs: SSAValue) -> Network:
        self.network.finish(outputs, [f"y{i}" for i in range(len(outputs))])
        self.network.verify()
        return self.network


def float_values(network: Network, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [name_of(v) for v in network.values()]
    model = export_onnx(network, [n for n in names if n not in feeds])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = [o.name for o in session.get_outputs()]
    return dict(zip(results, session.run(results, dict(feeds)), strict=True)) | dict(feeds)


def feeds_of(network: Network, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name_of(v): rng.standard_normal(shape_of(v)).astype(np.float32) for v in network.inputs}


def table_of(values: Mapping[str, np.ndarray]) -> dict[str, Row]:
    return {n: Row(float(np.abs(v).max()), float(v.min()), float(v.max())) for n, v in values.items()}


@dataclass(frozen=True)
class Outcome:
    tpu: Network
    wanted: list[np.ndarray]
    got: list[np.ndarray]

    def worst_sqnr(self) -> float:
        """Signal to noise of the worst output, in dB."""
        pairs = zip(self.wanted, self.got, strict=True)
        return min(10 * float(np.log10((w**2).sum() / max(((w - g) ** 2).sum(), 1e-20))) for w, g in pairs)

    def operations(self) -> list[str]:
        return [op.name.removeprefix("tpu.") for op in self.tpu.operations]


def run(network: Network, scheme: Scheme | None = None) -> Outcome:
    """Lowers with the ranges of a float run and runs both on the same input."""
    feeds = feeds_of(network)
    values = float_values(network, feeds)
    tpu = lower_to_tpu(network, make_plan(network, table_of(values), scheme))
    found = Reference(tpu).run(feeds)
    wanted = [values[name_of(v)] for v in network.outputs]
    return Outcome(tpu, wanted, [found[n] for n in network.output_names])


WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 1]}
POOLED = (2, 5, 4, 4)

Build = Callable[[Top, SSAValue], SSAValue]
UNARY: dict[str, dict[str, Any]] = {
    "LeakyRelu": {"alpha": 0.1},
    "Clip": {"min": -0.7, "max": 1.1},
    "Sigmoid": {},
    "Tanh": {},
    "Erf": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "HardSwish": {},
    "SiLU": {},
    "Mish": {},
    "Softplus": {},
    "Elu": {"alpha": 0.8},
    "GELU": {},
    "AddConst": {"const_val": 0.4},
    "SubConst": {"const_val": 0.4, "is_reverse": True},
    "MulConst": {"const_val": -1.7},
    "Relu": {"relu_limit": 1.5},
}
BUILDS: dict[str, Build] = {
    "Conv": lambda t, x: t.conv(x, 7, 3),
    "Conv relu": lambda t, x: t.conv(x, 7, 3, do_relu=True, relu_limit=1.0),
    "Conv depthwise": lambda t, x: t.conv(x, 5, 3, group=5),
    "Conv after relu": lambda t, x: t.conv(t.unary("Relu", x), 7),
    "Scale": lambda t, x: t.op("Scale", [x, t.weight(1, 5, 1, 1), t.weight(1, 5, 1, 1)], IMAGE),
    "PRelu": lambda t, x: t.op("PRelu", [x, t.weight(1, 5, 1, 1)], IMAGE),
    "PRelu of one slope": lambda t, x: t.op("PRelu", [x, t.weight(1)], IMAGE),
    "Add": lambda t, x: t.op("Add", [x, t.unary("Relu", t.conv(x, 5))], IMAGE),
    "Add with relu": lambda t, x: t.op("Add", [x, t.conv(x, 5)], IMAGE, do_relu=True),
    "Add of unsigned": lambda t, x: t.op("Add", [t.unary("Relu", x), t.unary("Sigmoid", x)], IMAGE),
    "Add of three with coefficients": lambda t, x: t.op("Add", [x, t.conv(x, 5), x], IMAGE, coeff=[0.5, -1.0, 2.0]),
    "Add of channels": lambda t, x: t.op("Add", [x, t.weight(1, 5, 1, 1)], IMAGE),
    "Add of a tensor": lambda t, x: t.op("Add", [t.weight(2, 5, 9, 8), x], IMAGE),
    "Add of a scalar": lambda t, x: t.op("Add", [t.weight(1), x], IMAGE),
    "Add of two and a scalar": lambda t, x: t.op("Add", [t.weight(1), x, t.conv(x, 5)], IMAGE),
    "Sub": lambda t, x: t.op("Sub", [x, t.conv(x, 5)], IMAGE),
    "Sub reversed": lambda t, x: t.op("Sub", [x, t.unary("Relu", t.conv(x, 5))], IMAGE, is_reverse=True),
    "Sub from a constant": lambda t, x: t.op("Sub", [t.weight(5, 1, 1), x], IMAGE),
    "Mul": lambda t, x: t.op("Mul", [x, t.conv(x, 5)], IMAGE),
    "Mul of unsigned": lambda t, x: t.op("Mul", [t.unary("Sigmoid", x), t.conv(x, 5)], IMAGE, do_relu=True),
    "Mul of three": lambda t, x: t.op("Mul", [x, t.unary("Sigmoid", x), t.conv(x, 5)], IMAGE),
    "Mul by channels": lambda t, x: t.op("Mul", [x, t.weight(5, 1, 1)], IMAGE),
    "Mul by columns": lambda t, x: t.op("Mul", [t.weight(8), x], IMAGE),
    "Mul by a scalar": lambda t, x: t.op("Mul", [x, t.weight(1)], IMAGE, do_relu=True),
    "MaxPool": lambda t, x: t.op("MaxPool", [x], POOLED, **WINDOW),
    "MaxPool relu": lambda t, x: t.op("MaxPool", [x], POOLED, do_relu=True, **WINDOW),
    "AvgPool": lambda t, x: t.op("AvgPool", [x], POOLED, **WINDOW),
    "AvgPool with padding": lambda t, x: t.op("AvgPool", [x], POOLED, count_include_pad=True, **WINDOW),
    "AvgPool relu": lambda t, x: t.op("AvgPool", [x], POOLED, do_relu=True, **WINDOW),
    "Concat": lambda t, x: t.op("Concat", [x, t.unary("Sigmoid", x), t.conv(x, 3)], (2, 13, 9, 8), axis=1),
    "Concat of a constant": lambda t, x: t.op("Concat", [x, t.weight(2, 1, 9, 8)], (2, 6, 9, 8), axis=1),
    "Concat relu": lambda t, x: t.op("Concat", [x, t.conv(x, 3)], (2, 8, 9, 8), axis=1, do_relu=True),
    "Slice": lambda t, x: t.op(
        "Slice",
        [x, *[t.absent() for _ in range(3)]],
        (2, 5, 4, 8),
        offset=[0, 0, -8, 0],
        steps=[1, 1, 2, 1],
        ends=[2, 5, 9, 8],
    ),
    "Pad": lambda t, x: t.op("Pad", [x, t.absent()], (2, 5, 12, 9), paddings=[0, 0, 1, 0, 0, 0, 2, 1], val=0.8),
    "Pad reflect": lambda t, x: t.op(
        "Pad", [x, t.absent()], (2, 5, 12, 9), paddings=[0, 0, 1, 0, 0, 0, 2, 1], mode="reflect"
    ),
    "Pad edge": lambda t, x: t.op(
        "Pad", [x, t.absent()], (2, 5, 12, 9), paddings=[0, 0, 1, 0, 0, 0, 2, 1], mode="edge"
    ),
    "Reshape": lambda t, x: t.op("Reshape", [x], (2, 360)),
    "Squeeze": lambda t, x: t.op("Squeeze", [t.op("Unsqueeze", [x], (2, 1, 5, 9, 8), axes=[1])], IMAGE, axes=[1]),
    "Permute": lambda t, x: t.op("Permute", [x], (2, 8, 5, 9), order=[0, 3, 1, 2]),
    "Softmax": lambda t, x: t.op("Softmax", [t.conv(x, 5)], IMAGE, axis=1),
    "MatMul": lambda t, x: t.op(
        "MatMul", [t.op("Reshape", [x], (2, 5, 72)), t.weight(72, 11), t.weight(11)], (2, 5, 11)
    ),
    "MatMul relu": lambda t, x: t.op(
        "MatMul", [t.op("Reshape", [x], (10, 72)), t.weight(72, 11), t.absent()], (10, 11), do_relu=True
    ),
} | {name: (lambda t, x, n=name, a=a: t.unary(n, x, **a)) for name, a in UNARY.items()}


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_an_operation_keeps_25_db_of_signal(build: Build, asymmetric: bool) -> None:
    top = Top(IMAGE)
    outcome = run(top.finish(build(top, top.inputs[0])), Scheme(asymmetric=asymmetric))
    assert outcome.worst_sqnr() > 25


@pytest.mark.parametrize("precision, decibels", [("F32", 110), ("F16", 60), ("BF16", 42)])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_an_operation_in_floats_errs_by_its_rounding_only(build: Build, precision: str, decibels: float) -> None:
    top = Top(IMAGE)
    outcome = run(top.finish(build(top, top.inputs[0])), Scheme(precision=precision))
    assert outcome.worst_sqnr() > decibels
    assert not {"Quantize", "Dequantize"} & set(outcome.operations())


def test_every_operation_that_can_be_lowered_is_tried_here() -> None:
    tried = {key.split(" ")[0] for key in BUILDS} | {"Unsqueeze", "Split"}
    assert {f"top.{name}" for name in tried} == set(supported_operations())


def test_split_makes_one_slice_per_piece() -> None:
    top = Top(IMAGE)
    types = [tensor_type((2, c, 9, 8), Float32Type()) for c in (2, 3)]
    pieces = top.network.append(
        "top.Split", top.inputs, types, ["a", "b"], {"axis": 1, "num": 2, "split_size": [2, 3]}
    ).results
    outcome = run(top.finish(*pieces))
    assert outcome.operations().count("Slice") == 2
    assert outcome.worst_sqnr() > 40


def test_a_chain_of_functions_is_one_table_rounded_once() -> None:
    top = Top(IMAGE)
    x = top.unary("MulConst", top.unary("Sigmoid", top.unary("AddConst", top.inputs[0], const_val=0.2)), const_val=3.0)
    outcome = run(top.finish(x))
    assert outcome.operations() == ["Quantize", "Lut", "Dequantize"]
    assert outcome.worst_sqnr() > 40


def test_a_function_with_two_readers_keeps_its_own_table() -> None:
    top = Top(IMAGE)
    inner = top.unary("Tanh", top.inputs[0])
    outcome = run(top.finish(top.unary("Sigmoid", inner), top.unary("Elu", inner, alpha=1.0)))
    assert outcome.operations().count("Lut") == 3


def test_an_output_is_not_absorbed_into_the_table_of_its_reader() -> None:
    top = Top(IMAGE)
    inner = top.unary("Tanh", top.inputs[0])
    outcome = run(top.finish(top.unary("Sigmoid", inner), inner))
    assert outcome.operations().count("Lut") == 2
    assert outcome.worst_sqnr() > 30


@pytest.mark.parametrize(
    "name, attributes", [("Relu", {}), ("Clip", {"min": 0.0, "max": 1.0}), ("MulConst", {"const_val": 2.0})]
)
def test_what_saturation_does_alone_needs_no_table(name: str, attributes: dict[str, Any]) -> None:
    top = Top(IMAGE)
    outcome = run(top.finish(top.unary(name, top.inputs[0], **attributes)))
    assert outcome.operations() == ["Quantize", "Requantize", "Dequantize"]


def test_a_relu_whose_result_shares_a_signed_type_still_clips() -> None:
    top = Top(IMAGE)
    x = top.inputs[0]
    clipped = top.conv(x, 5, do_relu=True, relu_limit=0.2)
    joined = top.op("Concat", [clipped, x], (2, 10, 9, 8), axis=1)
    outcome = run(top.finish(joined))
    assert outcome.got[0][:, :5].min() == 0
    assert outcome.got[0][:, :5].max() < 0.22
    assert outcome.worst_sqnr() > 30


def test_values_keep_their_names_and_outputs_own_theirs() -> None:
    top = Top(IMAGE)
    hidden = top.conv(top.inputs[0], 5)
    result = top.op("Softmax", [top.conv(hidden, 4)], (2, 4, 9, 8), axis=1)
    network = top.finish(result, hidden)
    tpu = run(network).tpu
    kinds = {name_of(v): uniform_of(v) for v in tpu.values()}
    assert kinds["x0"] is None and kinds["x0_quantized"] is not None
    assert kinds[name_of(result)] is None
    assert kinds[name_of(hidden)] is None and kinds[f"{name_of(hidden)}_int8"] is not None
    assert len(kinds) == sum(1 for _ in tpu.values())


def test_an_input_that_is_an_output_twice_passes_unchanged() -> None:
    top = Top(IMAGE)
    outcome = run(top.finish(top.inputs[0], top.conv(top.inputs[0], 3), top.inputs[0]))
    assert np.array_equal(outcome.got[0], outcome.wanted[0])
    assert np.array_equal(outcome.got[2], outcome.wanted[2])


def test_quantized_io_has_the_planned_types_and_the_same_integers() -> None:
    top = Top(IMAGE)
    x = top.inputs[0]
    network = top.finish(top.conv(x, 4, do_relu=True), x)
    feeds = feeds_of(network)
    plan = make_plan(network, table_of(float_values(network, feeds)))
    tpu = lower_to_tpu(network, plan, quantized_io=True)
    assert {op.name for op in tpu.operations} == {"tpu.Conv2D"}
    assert [dtype_of(v) for v in tpu.outputs] == [np.uint8, np.int8]
    source = plan.tensors["x0"]
    stored = {"x0": quantize(feeds["x0"], source.scale, source.zero_point, source.numpy_dtype)}
    integers = Reference(tpu).run(stored)
    floats = Reference(lower_to_tpu(network, plan)).run(feeds)
    assert np.allclose(integers["y0"] * plan.tensors[name_of(network.outputs[0])].scale, floats["y0"], rtol=1e-6)


def test_the_source_network_is_left_as_it_was() -> None:
    top = Top(IMAGE)
    network = top.finish(top.conv(top.inputs[0], 4))
    before = str(network.module)
    run(network)
    assert str(network.module) == before


def test_all_operations_that_cannot_be_lowered_are_named_at_once() -> None:
    top = Top((2, 3, 8), (2, 8, 4))
    product = top.op("MatMul", [*top.inputs, top.absent()], (2, 3, 4))
    slopes = top.op("PRelu", [product, top.weight(3, 4)], (2, 3, 4))
    network = top.finish(slopes)
    assert [r.name for r in refusals(network)] == ["MatMul1", "PRelu2"]
    plan = make_plan(network, {name_of(v): Row(1.0, -1.0, 1.0) for v in network.values()})
    with pytest.raises(BadInput, match=r"MatMul1 \(MatMul\): its right operand.*PRelu2 \(PRelu\): its slope"):
        lower_to_tpu(network, plan)


def test_registering_a_lowering_twice_is_an_error() -> None:
    before = dict(RULES)
    with pytest.raises(ValueError, match="twice"):
        lowers("Conv")(lambda builder, op: None)
    assert before == RULES


def _sum_reach(tpu: Network) -> int:
    """The largest sum of absolute terms and offset over the additions of a network."""
    worst = 0
    for op in tpu.operations:
        if op.name != "tpu.Add":
            continue
        a = attributes_of(op)
        total = abs(a["offset"])
        for operand, m, r in zip(op.operands, a["multipliers"], a["rshifts"], strict=True):
            constant = tpu.weight(operand)
            limits = np.iinfo(dtype_of(operand))
            reach = max(-limits.min, limits.max) if constant is None else int(np.abs(constant.astype(int)).max())
            assert -128 <= m <= 255 and 0 <= r <= 31
            total += (reach * abs(m) + (1 << r >> 1)) >> r
        worst = max(worst, total)
    return worst


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    gains=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
    offset=st.floats(-1e4, 1e4),
    asymmetric=st.booleans(),
)
def test_sums_of_any_scales_stay_within_16_bits(gains: list[float], offset: float, asymmetric: bool) -> None:
    top = Top(IMAGE)
    terms = [top.conv(top.unary("MulConst", top.inputs[0], const_val=g), 5) for g in gains]
    constant = top.network.add_weight("c", np.full((1, 5, 1, 1), offset, np.float32))
    outcome = run(top.finish(top.op("Add", [*terms, constant], IMAGE)), Scheme(asymmetric=asymmetric))
    assert _sum_reach(outcome.tpu) <= 32767
    assert outcome.worst_sqnr() > 20


def test_a_sum_far_beyond_its_result_saturates_rather_than_wraps() -> None:
    top = Top(IMAGE)
    network = top.finish(
        top.op("Add", [top.inputs[0], top.conv(top.inputs[0], 5), top.weight(5, 1, 1, gain=100)], IMAGE)
    )
    feeds = feeds_of(network)
    values = float_values(network, feeds)
    table = table_of(values) | {name_of(network.outputs[0]): Row(1e-3, -1e-3, 1e-3)}
    tpu = lower_to_tpu(network, make_plan(network, table))
    assert _sum_reach(tpu) <= 32767
    got, wanted = Reference(tpu).run(feeds)["y0"], values[name_of(network.outputs[0])]
    clear = np.abs(wanted) > 10
    assert np.array_equal(np.sign(got[clear]), np.sign(wanted[clear]))


def depthwise(gains: np.ndarray) -> tuple[int, Outcome]:
    """`acc_shift` of a depthwise convolution whose channels have weights of the given gains, and its outcome."""
    top = Top((1, 8, 9, 9))
    filters = top.rng.standard_normal((8, 1, 3, 3)) * gains.reshape(8, 1, 1, 1)
    weight = top.network.add_weight("w", filters.astype(np.float32))
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 8}
    outcome = run(top.finish(top.op("Conv", [*top.inputs, weight, top.absent()], (1, 8, 9, 9), **window)))
    shift = next(attributes_of(op)["acc_shift"] for op in outcome.tpu.operations if op.name == "tpu.Conv2D")
    return shift, outcome


def test_sums_of_depthwise_convolutions_are_narrowed_where_that_costs_nothing() -> None:
    shift, outcome = depthwise(np.ones(8))
    assert shift >= 0
    assert outcome.worst_sqnr() > 33


def test_a_channel_that_dominates_keeps_depthwise_sums_wide_or_exact_enough() -> None:
    for spread in (1e1, 1e2, 1e4, 1e8):
        _, outcome = depthwise(np.geomspace(1 / spread, 1, 8))
        assert outcome.worst_sqnr() > 33
    _, outcome = depthwise(np.array([1, 0, 0, 0, 0, 0, 0, 0]))
    assert outcome.worst_sqnr() > 33
