"""A quantization plan with chosen weights reads back bit for bit, and its products are those weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tpu_deploy.errors import BadInput
from tpu_deploy.quant.plan import ChosenWeights, QuantizationPlan, TensorQuantization, weights_path
from tpu_deploy.quant.weights import ACCUMULATOR_LIMIT, accumulator_reach, chosen_product

X, Y = TensorQuantization("int8", 0.02, -7), TensorQuantization("uint8", 0.5)


def chosen(channels: int = 5, inner: int = 12) -> ChosenWeights:
    rng = np.random.default_rng(3)
    integers = rng.integers(-127, 128, (channels, inner)).astype(np.int8)
    return ChosenWeights(integers, rng.uniform(1e-3, 2e-3, channels), rng.standard_normal(channels))


def test_a_plan_with_chosen_weights_reads_back_bit_for_bit(tmp_path: Path) -> None:
    plan = QuantizationPlan({"x": X, "y": Y}, {"y": "INT8"}, "max", {"block/conv.1": chosen(), "y": chosen(1, 1)})
    plan.save(tmp_path / "plan.json")
    assert QuantizationPlan.load(tmp_path / "plan.json") == plan
    first = [p.read_bytes() for p in sorted(tmp_path.iterdir())]
    plan.save(tmp_path / "plan.json")
    assert [p.read_bytes() for p in sorted(tmp_path.iterdir())] == first


def test_plans_that_differ_in_a_weight_are_not_equal() -> None:
    plan = QuantizationPlan({}, {}, weights={"y": chosen()})
    other = chosen()
    other.bias[0] = np.nextafter(other.bias[0], 9)
    assert plan != replace(plan, weights={"y": other})


def test_a_plan_without_chosen_weights_writes_one_file(tmp_path: Path) -> None:
    QuantizationPlan({"x": X}, {}).save(tmp_path / "plan.json")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"tensors": {}}', '{"tensors": {"x": {"dtype": 3, "wide": 1}}}'])
def test_what_is_no_plan_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"plan\.json: is no quantization plan"):
        QuantizationPlan.load(path)


def test_a_plan_whose_weights_are_gone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    QuantizationPlan({}, {}, weights={"y": chosen()}).save(path)
    weights_path(path).unlink()
    with pytest.raises(BadInput, match=r"weights\.npz"):
        QuantizationPlan.load(path)


def test_a_chosen_product_computes_the_weights_times_their_scales() -> None:
    weights = chosen()
    stored = np.random.default_rng(1).integers(-128, 128, (50, 12))
    integers = chosen_product(weights, 0, X, Y)
    sums = stored @ integers.weights.astype(np.int64).T + integers.bias
    got = sums * np.ldexp(integers.multiplier.astype(float), -integers.rshift) * Y.scale
    real = (stored - X.zero_point) * X.scale @ weights.weights.T.astype(float) * weights.scales + weights.bias
    np.testing.assert_allclose(got, real, atol=0.5 * X.scale * 2e-3, rtol=1e-6)


def test_chosen_sums_that_could_leave_the_accumulator_are_refused() -> None:
    weights = chosen()
    wide = replace(weights, bias=ACCUMULATOR_LIMIT * X.scale * weights.scales)
    assert (accumulator_reach(weights, 0, X) < ACCUMULATOR_LIMIT).all()
    with pytest.raises(ValueError, match="channel"):
        chosen_product(wide, 0, X, Y)
