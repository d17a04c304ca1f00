"""Weights fitted on samples: what is executed is what is lowered, rows are those of the operation, errors shrink."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.calibration.thresholds import Threshold
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline import tuning_execution as execution
from tpu_deploy.pipeline import tuning_targets as targets
from tpu_deploy.pipeline import tuning_weights as weights
from tpu_deploy.pipeline.float_model import FloatNetwork
from tpu_deploy.pipeline.tuning_rows import Rows, has_rows
from tpu_deploy.pipeline.tuning_weights import fit_weights
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.fitting import PASSES, Product
from tpu_deploy.quant.plan import FLOAT32, TensorQuantization
from tpu_deploy.runtime.reference import Reference

Feeds = list[dict[str, np.ndarray]]


class Top:
    """A TOP network of one input under construction."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.network = Network.create("net", [("x", shape)])
        self.x = self.network.inputs[0]
        self.rng = np.random.default_rng(seed)

    def op(self, kind: str, name: str, operands: list[SSAValue], shape: tuple[int, ...], **attributes: Any) -> SSAValue:
        result = tensor_type(shape, Float32Type())
        return self.network.append(f"top.{kind}", operands, [result], [name], attributes).results[0]

    def weight(self, *shape: int, gain: float = 1.0) -> SSAValue:
        return self.network.add_weight("w", (self.rng.standard_normal(shape) * gain).astype(np.float32))

    def conv(self, name: str, x: SSAValue, channels: int, kernel: int = 1, group: int = 1, stride: int = 1,
             dilation: int = 1, **attributes: Any) -> SSAValue:  # fmt: skip
        n, c, h, w = shape_of(x)
        pad = dilation * (kernel // 2)
        filters = self.weight(channels, c // group, kernel, kernel, gain=(c // group * kernel**2) ** -0.5)
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "dilations": [dilation] * 2}
        size = tuple((n + stride - 1) // stride for n in (h, w))
        operands = [x, filters, self.weight(channels, gain=0.3)]
        return self.op("Conv", name, operands, (n, channels, *size), group=group, **window, **attributes)

    def finish(self, *outputs: SSAValue) -> Network:
        self.network.finish(outputs, [name_of(v) for v in outputs])
        self.network.verify()
        return self.network


def every_kind(batch: int = 2) -> Network:
    """Dense, depthwise, grouped, dilated, strided convolutions, an addition, a Scale, a table and a matrix product."""
    top = Top(batch, 3, 12, 12)
    a = top.conv("a", top.x, 8, kernel=3, stride=2, do_relu=True, relu_limit=6.0)
    b = top.conv("b", a, 8, kernel=3, group=8, do_relu=True)
    c = top.conv("c", b, 8, kernel=3, group=2, dilation=2)
    d = top.op("Add", "d", [a, c], shape_of(a))
    e = top.op("Scale", "e", [d, top.weight(8), top.weight(8)], shape_of(a))
    f = top.op("HardSwish", "f", [top.op("AddConst", "g", [e], shape_of(a), const_val=0.1)], shape_of(a))
    pooled = top.op("AvgPool", "p", [f], (batch, 8, 1, 1), kernel_shape=[6, 6], strides=[1, 1], pads=[0] * 4)
    flat = top.op("Reshape", "flat", [pooled], (batch, 8))
    return top.finish(top.op("MatMul", "y", [flat, top.weight(8, 5), top.weight(5)], (batch, 5)))


def feeds_of(network: Network, count: int, seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape_of(network.inputs[0])).astype(np.float32)} for _ in range(count)]


def ranges(network: Network, feeds: Feeds) -> dict[str, Threshold]:
    floats = FloatNetwork(network)
    seen: dict[str, list[np.ndarray]] = {name_of(v): [] for v in network.values()}
    for feed in feeds:
        values = floats.values(feed)
        for name, arrays in seen.items():
            arrays.append(values[name])
    ends = {name: (float(np.min(a)), float(np.max(a))) for name, a in seen.items()}
    return {name: Threshold(max(-low, high), low, high) for name, (low, high) in ends.items()}


@pytest.fixture(scope="module")
def planned() -> tuple[Network, QuantizationPlan, Feeds]:
    network = every_kind()
    feeds = feeds_of(network, 24)
    asymmetric = Scheme(asymmetric={"d", "c"})
    return network, make_plan(network, ranges(network, feeds), asymmetric), feeds


def noise(network: Network, plan: QuantizationPlan, feeds: Feeds, name: str = "y") -> float:
    floats, reference = FloatNetwork(network), Reference(lower_to_tpu(network, plan))
    return sum(float(((floats.values(f)[name] - reference.run(f)[name]) ** 2).sum()) for f in feeds)


def test_every_product_of_a_network_gets_weights(planned: tuple[Network, QuantizationPlan, Feeds]) -> None:
    network, plan, feeds = planned
    fitted = fit_weights(network, plan, feeds)
    assert list(fitted.weights) == ["a", "b", "c", "e", "y"]
    assert fitted.tensors == plan.tensors
    assert not plan.weights


def test_all_passes_bring_outputs_nearer_on_samples_not_fitted_on(
    planned: tuple[Network, QuantizationPlan, Feeds],
) -> None:
    network, plan, feeds = planned
    fresh = feeds_of(network, 24, seed=9)
    assert noise(network, fit_weights(network, plan, feeds), fresh) < 0.9 * noise(network, plan, fresh)


def test_without_passes_the_weights_are_those_of_the_plan_s_method(
    planned: tuple[Network, QuantizationPlan, Feeds],
) -> None:
    network, plan, feeds = planned
    feed = feeds[0]
    plain, same = (Reference(lower_to_tpu(network, p)).run(feed) for p in (plan, fit_weights(network, plan, feeds, ())))
    assert np.array_equal(plain["y"], same["y"])


def test_what_is_executed_while_fitting_is_what_the_fitted_plan_computes(
    planned: tuple[Network, QuantizationPlan, Feeds],
) -> None:
    network, plan, feeds = planned
    seen: dict[str, list[np.ndarray]] = {}

    def choose(op: Any, product: Product, stored: Any) -> None:
        seen[name_of(op)] = [array.copy() for array in stored]

    execution.Execution(network, fit_weights(network, plan, feeds), "bm1684x", feeds, choose).run()
    reference = Reference(lower_to_tpu(network, fit_weights(network, plan, feeds)))
    read = {name_of(op): name_of(op.operands[0]) for op in reference.network.operations if op.operands}
    for feed in range(2):
        values = dict(reference.run_all(feeds[feed]))
        for name in ("b", "c", "e"):
            assert np.array_equal(seen[name][feed], values[read[name]].reshape(seen[name][feed].shape))


def test_fitting_is_deterministic_and_reads_back(
    planned: tuple[Network, QuantizationPlan, Feeds], tmp_path: Any
) -> None:
    network, plan, feeds = planned
    first, second = (fit_weights(network, plan, feeds) for _ in range(2))
    assert first == second
    first.save(tmp_path / "plan.json")
    assert QuantizationPlan.load(tmp_path / "plan.json") == first


def test_wanted_results_are_the_same_however_many_runs_compute_them(
    planned: tuple[Network, QuantizationPlan, Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _, feeds = planned
    products = [op for op in network.operations if has_rows(network, op)]
    rows = {name_of(op): Rows.of(network, op, 48, 0) for op in products}
    whole = targets.FloatTargets(network, feeds, rows)
    monkeypatch.setattr(targets, "HELD_BYTES", 1)
    divided = targets.FloatTargets(network, feeds, rows)
    for name in rows:
        # onnxruntime fuses what no output asks for, which may change the last bit.
        for a, b in zip(whole.take(name), divided.take(name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_fewer_samples_are_used_where_values_would_take_too_much_memory(
    planned: tuple[Network, QuantizationPlan, Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, plan, feeds = planned
    monkeypatch.setattr(weights, "HELD_BYTES", 4 * execution.frontier_bytes(network, plan))
    assert fit_weights(network, plan, feeds) == fit_weights(network, plan, feeds[::6])


@pytest.mark.parametrize("passes", [PASSES, ("bias",), ("affine",)])
def test_a_single_sample_is_enough_to_go_on(passes: tuple[str, ...]) -> None:
    network = every_kind(batch=1)
    feeds = feeds_of(network, 1)
    plan = make_plan(network, ranges(network, feeds))
    assert np.isfinite(noise(network, fit_weights(network, plan, feeds, passes), feeds))


WINDOWS = [
    {"kernel": 1},
    {"kernel": 3, "stride": 2},
    {"kernel": 3, "dilation": 2},
    {"kernel": 3, "group": 2},
    {"kernel": 3, "group": 4, "stride": 2},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_rows_times_weights_are_the_results_of_the_convolution(window: dict[str, int]) -> None:
    top = Top(2, 4, 9, 8)
    network = top.finish(top.conv("y", top.x, 8, do_relu=True, **window))
    op = network.operations[0]
    rows = Rows.of(network, op, 2, 7)
    x = TensorQuantization("int8", 0.05, -3)
    stored = np.random.default_rng(0).integers(-128, 128, (2, 4, 9, 8)).astype(np.int8)
    reals = ((stored.astype(np.float32) + 3) * np.float32(0.05)).astype(np.float32)
    filters, bias = (network.weight(v) for v in op.operands[1:])
    product = Product.of(filters, bias, 0, rows.groups, x, x)
    read = rows.read(5, stored, x)
    got = np.einsum("gjk,krg->jrg", product.weights, read) + product.bias.T[:, None, :]
    before = export_onnx(network).graph.node[-1].input[0]
    model = export_onnx(network)
    model.graph.output[0].name = before
    wanted = rows.wanted(5, _run(model, reals))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def _run(model: Any, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def test_rows_of_a_matrix_product_are_those_of_its_operand() -> None:
    top = Top(2, 7, 4)
    network = top.finish(top.op("MatMul", "y", [top.x, top.weight(4, 3), network_absent(top)], (2, 7, 3)))
    rows = Rows.of(network, network.operations[0], 2, 0)
    x = TensorQuantization("int8", 0.5)
    stored = np.arange(56, dtype=np.int8).reshape(2, 7, 4)
    assert np.array_equal(rows.read(0, stored, x)[:, :, 0].T, stored.reshape(14, 4) * np.float32(0.5))


def network_absent(top: Top) -> SSAValue:
    return top.network.absent()


def test_factors_of_channels_and_float_results_are_honoured(planned: tuple[Network, QuantizationPlan, Feeds]) -> None:
    network, plan, feeds = planned
    factors = tuple(float(f) for f in np.linspace(0.4, 1.0, 8))
    tensors = {**plan.tensors, "b": replace(plan.tensors["b"], factors=factors), "y": FLOAT32}
    scaled = replace(plan, tensors=tensors, results={"y": "F32"})
    fresh = feeds_of(network, 24, seed=9)
    fitted = fit_weights(network, scaled, feeds)
    assert set(fitted.weights) == {"a", "b", "c", "e", "y"}
    assert noise(network, fitted, fresh) < noise(network, scaled, fresh)
