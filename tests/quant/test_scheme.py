"""A plan gives each tensor the type its range asks for, and tied tensors one type."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.add_scales import eight_bit_multiplier, gain_error
from tpu_deploy.quant.plan import TensorQuantization
from tpu_deploy.quant.ranges import Range
from tpu_deploy.quant.scheme import quantization_of

SHAPE = (1, 4, 6, 6)
WINDOW = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4}


class Row:
    def __init__(self, threshold: float, low: float | None = None, high: float | None = None) -> None:
        self.threshold = threshold
        self.min = -threshold if low is None else low
        self.max = threshold if high is None else high


class Top:
    """A TOP network whose values are named by the test."""

    def __init__(self) -> None:
        self.network = Network.create("net", [("x", SHAPE)])
        self.x = self.network.inputs[0]

    def op(self, kind: str, name: str, *operands: SSAValue, shape: tuple[int, ...] = SHAPE, **attributes: Any) -> Any:
        types = [tensor_type(shape, Float32Type())]
        return self.network.append(f"top.{kind}", list(operands), types, [name], attributes).results[0]

    def conv(self, name: str, x: SSAValue, **attributes: Any) -> SSAValue:
        weights = self.network.add_weight("w", np.ones((4, shape_of(x)[1], 1, 1), np.float32))
        return self.op("Conv", name, x, weights, self.network.absent(), dilations=[1, 1], **WINDOW, **attributes)

    def plan(self, *outputs: SSAValue, scheme: Scheme | None = None, **rows: Row) -> QuantizationPlan:
        self.network.finish(list(outputs), [f"out{i}" for i in range(len(outputs))])
        self.network.verify()
        given = {name_of(v): Row(1.0) for v in self.network.values()} | rows
        return make_plan(self.network, given, scheme)


@pytest.mark.parametrize(
    "values, wanted",
    [
        (Range(-1, 1, 1), TensorQuantization("int8", 1 / 127)),
        (Range(0, 2, 1.5), TensorQuantization("uint8", 1.5 / 255)),
        (Range(-0.001, 1, 1), TensorQuantization("uint8", 1 / 255)),
        (Range(-0.003, 1, 1), TensorQuantization("int8", 1 / 127)),
        (Range(0, 0, 0), TensorQuantization("uint8", 1 / 255)),
    ],
)
def test_a_range_gives_a_symmetric_type(values: Range, wanted: TensorQuantization) -> None:
    assert quantization_of(values) == wanted


@pytest.mark.parametrize("low, high, threshold", [(-1, 3, 3), (-5, 1, 5), (-5, 9, 2), (-4, -1, 4)])
def test_an_asymmetric_type_covers_range_and_zero(low: float, high: float, threshold: float) -> None:
    kind = quantization_of(Range(low, high, threshold), asymmetric=True)
    step = kind.scale
    assert kind.low <= max(low, -threshold) + step / 2 + 1e-9
    assert kind.high >= max(min(high, threshold), 0) - step / 2 - 1e-9
    assert kind.scale < threshold / 127


def test_relu_limits_cut_the_threshold() -> None:
    top = Top()
    y = top.conv("y", top.x, do_relu=True, relu_limit=6.0)
    plan = top.plan(y, y=Row(8.0, 0.0, 8.0))
    assert plan.tensors["y"] == TensorQuantization("uint8", 6.0 / 255)


def test_what_no_reader_tells_apart_is_cut_from_the_range() -> None:
    def scale(*readers: str) -> float:
        top = Top()
        a = top.conv("a", top.x)
        extra = {"Elu": {"alpha": 1.0}}
        outputs = [top.op(reader, f"y{i}", a, **extra.get(reader, {})) for i, reader in enumerate(readers)]
        return top.plan(*outputs, a=Row(16.0, -16.0, 1.0)).tensors["a"].scale

    assert scale("HardSwish") == scale("HardSwish", "Relu") == 3.0 / 127
    assert scale("Relu") == 1.0 / 255
    assert scale("HardSwish", "Elu") == scale("Elu") == 16.0 / 127


def test_pools_and_movements_share_the_widest_range() -> None:
    top = Top()
    a = top.conv("a", top.x)
    b = top.op("MaxPool", "b", a, **WINDOW)
    c = top.op("Reshape", "c", b, shape=(1, 144))
    plan = top.plan(c, top.conv("d", a), a=Row(2.0), b=Row(2.5))
    assert plan.tensors["a"] == plan.tensors["b"] == plan.tensors["c"] == TensorQuantization("int8", 2.5 / 127)
    assert plan.tensors["d"].scale == 1 / 127


def test_a_padding_value_widens_the_range_unless_it_marks_what_to_skip() -> None:
    def scale(value: float) -> float:
        top = Top()
        padded = top.op(
            "Pad", "p", top.x, top.network.absent(), shape=(1, 4, 7, 6), paddings=[0, 0, 1, 0, 0, 0, 0, 0], val=value
        )
        return top.plan(top.conv("y", padded)).tensors["x"].scale

    assert scale(0.0) == scale(-math.inf) == scale(-1e9) == 1 / 127
    assert scale(3.0) == 3 / 127


def test_a_concat_takes_in_operands_that_only_it_reads() -> None:
    top = Top()
    a, b = top.conv("a", top.x), top.conv("b", top.x)
    joined = top.op("Concat", "c", a, b, shape=(1, 8, 6, 6), axis=1)
    plan = top.plan(joined, top.conv("d", b), a=Row(0.1), b=Row(0.2), c=Row(5.0))
    assert plan.tensors["a"] == plan.tensors["c"] == TensorQuantization("int8", 5.0 / 127)
    assert plan.tensors["b"] == TensorQuantization("int8", 0.2 / 127)


def test_a_concat_takes_in_shared_operands_of_a_similar_range() -> None:
    top = Top()
    a, b = top.conv("a", top.x), top.conv("b", top.x)
    joined = top.op("Concat", "c", a, b, shape=(1, 8, 6, 6), axis=1)
    plan = top.plan(joined, top.conv("d", b), a=Row(0.9), b=Row(0.8), c=Row(1.0))
    assert plan.tensors["a"] == plan.tensors["b"] == plan.tensors["c"]


def test_softmax_and_what_follows_it_to_the_output_stay_float() -> None:
    top = Top()
    y = top.op("Softmax", "s", top.conv("a", top.x), axis=1)
    z = top.op("Reshape", "r", y, shape=(1, 144))
    plan = top.plan(z)
    assert plan.operations == {"a": "INT8", "s": "F32", "r": "F32"}
    assert not plan.tensors["s"].is_quantized and not plan.tensors["r"].is_quantized


def test_a_float_value_that_int8_reads_has_a_type_for_the_cast() -> None:
    top = Top()
    y = top.conv("a", top.op("Softmax", "s", top.x, axis=1))
    plan = top.plan(y, s=Row(0.4, 0.0, 0.4))
    assert plan.tensors["s"] == TensorQuantization("uint8", 0.4 / 255)
    assert not plan.tensors["x"].is_quantized


def test_bounded_functions_need_no_row_but_others_are_named() -> None:
    top = Top()
    y = top.op("Sigmoid", "s", top.conv("a", top.x))
    top.network.finish([y], ["y"])
    assert make_plan(top.network, {"x": Row(1.0), "a": Row(1.0)}).tensors["s"] == TensorQuantization("uint8", 1 / 255)
    with pytest.raises(BadInput, match="no threshold for a;"):
        make_plan(top.network, {"x": Row(1.0)})


@pytest.mark.parametrize("row", [Row(-1.0), Row(math.nan), Row(1.0, math.nan), Row(1.0, 2.0, 1.0)])
def test_a_row_that_is_no_range_names_its_tensor(row: Row) -> None:
    top = Top()
    with pytest.raises(BadInput, match="calibration table: a has"):
        top.plan(top.conv("a", top.x), a=row)


def test_a_tensor_to_make_asymmetric_must_exist() -> None:
    top = Top()
    with pytest.raises(BadInput, match="asymmetric tensor nope"):
        top.plan(top.conv("a", top.x), scheme=Scheme(asymmetric={"nope"}))


def test_only_named_tensors_get_a_zero_point() -> None:
    top = Top()
    plan = top.plan(top.conv("a", top.x), scheme=Scheme(asymmetric={"a"}), a=Row(3.0, -1.0, 3.0), x=Row(3.0, -1.0, 3.0))
    assert plan.tensors["a"].zero_point == -64 and plan.tensors["a"].scale == pytest.approx(4 / 255)
    assert plan.tensors["x"].zero_point == 0


def test_a_plan_reads_back_from_json() -> None:
    top = Top()
    plan = top.plan(top.conv("a", top.x))
    assert QuantizationPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_eight_bit_multipliers_are_the_nearest() -> None:
    for ratio in np.geomspace(1e-3, 30, 500):
        assert gain_error(ratio) <= 0.5 / 128 + 1e-12
        assert gain_error(-ratio) <= 0.5 / 64 + 1e-12
        assert 128 <= eight_bit_multiplier(ratio)[0] <= 255
        assert -128 <= eight_bit_multiplier(-ratio)[0] <= -64


def residual_chain(length: int) -> tuple[QuantizationPlan, list[tuple[str, str]], dict[str, float]]:
    """A chain y[k + 1] = y[k] + branch[k] with random thresholds: plan, operand pairs by result, and thresholds."""
    top, rng = Top(), np.random.default_rng(3)
    y, pairs = top.conv("y0", top.x), []
    for k in range(length):
        branch = top.conv(f"b{k}", y)
        y = top.op("Add", f"y{k + 1}", y, branch)
        pairs += [(f"y{k}", f"y{k + 1}"), (f"b{k}", f"y{k + 1}")]
    thresholds = {name_of(v): float(t) for v, t in zip(top.network.values(), rng.uniform(0.5, 4, 99), strict=False)}
    return top.plan(y, **{n: Row(t) for n, t in thresholds.items()}), pairs, thresholds


def test_multipliers_of_a_chain_of_residual_additions_are_exact_to_a_thousandth() -> None:
    plan, pairs, _ = residual_chain(16)
    errors = [gain_error(plan.tensors[a].scale / plan.tensors[y].scale) for a, y in pairs]
    assert max(errors) < 1e-3


def test_scales_around_additions_move_by_half_a_percent_at_most() -> None:
    plan, _, thresholds = residual_chain(16)
    moves = [abs(plan.tensors[n].scale / (t / 127) - 1) for n, t in thresholds.items()]
    assert max(moves) <= 0.005 + 1e-9
    assert max(moves) > 0


def test_an_addition_of_two_settled_tensors_takes_the_scale_that_errs_least() -> None:
    top = Top()
    a, b = top.conv("a", top.x), top.conv("b", top.x)
    both = top.op("Add", "c", a, b)
    again = top.op("Sub", "d", both, a)
    plan = top.plan(again, a=Row(1.1), b=Row(0.7), c=Row(1.7), d=Row(0.9))
    scale = {n: t.scale for n, t in plan.tensors.items()}
    assert gain_error(scale["a"] / scale["c"]) < 1e-3
    assert max(gain_error(scale["c"] / scale["d"]), gain_error(-scale["a"] / scale["d"])) < 0.01
