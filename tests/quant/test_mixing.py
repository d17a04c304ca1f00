"""A plan with parts of it in float is what it was everywhere else, and the chip computes it exactly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_cases import feeds_for
from random_top_networks import random_precisions, random_top
from top_networks import Top

from tpu_deploy.calibration import Threshold
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.network import Network, name_of, shape_of, uniform_of
from tpu_deploy.lowering.activation import is_unary
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.agreement import compare, rules
from tpu_deploy.pipeline.tuning_weights import fit_weights
from tpu_deploy.quant import QuantizationPlan, Scheme, make_plan
from tpu_deploy.quant.factor_groups import channel_axis, factor_groups
from tpu_deploy.quant.mixing import mixed_plan
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator import Simulator

Feeds = dict[str, np.ndarray]


class Subject:
    """A network, a plan with all that tuning can give it, and what it is to compute."""

    def __init__(self, network: Network, seed: int, floats: Collection[str] = ()) -> None:
        self.network, self.feeds = network, feeds_for(export_onnx(network))
        names = [name_of(v) for v in network.values() if name_of(v) not in self.feeds]
        session = onnxruntime.InferenceSession(export_onnx(network, names).SerializeToString())
        self.values = dict(zip(names, session.run(names, self.feeds), strict=True)) | self.feeds
        self.plan = self._tuned(np.random.default_rng(seed), floats)

    def _tuned(self, rng: np.random.Generator, floats: Collection[str]) -> QuantizationPlan:
        """Zero points, some float operations, factors of channels wherever they may be, and fitted weights."""
        table = {n: Threshold(float(np.abs(v).max()), float(v.min()), float(v.max())) for n, v in self.values.items()}
        scheme = Scheme(asymmetric=True, operations=dict.fromkeys(floats, "F32"))
        plan = make_plan(self.network, table, scheme)
        tensors, sizes = dict(plan.tensors), {name_of(v): (shape_of(v), channel_axis(v)) for v in self.network.values()}
        for group in factor_groups(self.network, plan, lambda op: is_unary(self.network, op)):
            shape, axis = sizes[group[0]]
            assert axis is not None
            factors = rng.uniform(0.3, 1.0, shape[axis])
            factors[rng.integers(len(factors))] = 1.0
            tensors |= {n: replace(tensors[n], factors=tuple(factors), axis=axis) for n in group}
        return fit_weights(self.network, replace(plan, tensors=tensors), [self.feeds], ("rounding", "bias"))

    def blame(self, plan: QuantizationPlan) -> str:
        """What is wrong with what the commands of a plan compute."""
        tpu, outputs = lower_to_tpu(self.network, plan), self.network.outputs
        real = {n: self.values[name_of(v)] for n, v in zip(self.network.output_names, outputs, strict=True)}
        found = Simulator(compile_network(tpu, optimize=0).bmodel, uninitialized="fail").run(self.feeds)
        return compare([found], [Reference(tpu, 1).run(self.feeds)], [real], rules(tpu)).blame

    def noise(self, plan: QuantizationPlan) -> float:
        """The worst output's error over the output."""
        found = Reference(lower_to_tpu(self.network, plan)).run(self.feeds)
        pairs = zip(self.network.outputs, self.network.output_names, strict=True)
        wanted = {n: self.values[name_of(v)] for v, n in pairs}
        return max(float(np.linalg.norm(found[n] - y) / max(np.linalg.norm(y), 1e-9)) for n, y in wanted.items())


def random_subject(seed: int, length: int = 9) -> tuple[Subject, Scheme]:
    """A random network with a tuned plan, and a mixture of it."""
    network = random_top(seed, length)
    earlier, _ = random_precisions(network, seed + 1)
    few = [n for n, p in earlier.items() if p != "INT8"][:: 4 if seed % 2 else 100]
    subject = Subject(network, seed, few)
    chosen, results = random_precisions(network, seed)
    operations = {n: p for n, p in chosen.items() if p != "INT8" or subject.plan.operations[n] == "INT8"}
    results = {n: p for n, p in results.items() if subject.plan.operations[n] == "INT8"}
    return subject, Scheme(operations=operations, results=results)


@settings(derandomize=True, max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_mixture_of_a_tuned_plan_is_computed_exactly(seed: int) -> None:
    subject, scheme = random_subject(seed)
    assert subject.blame(mixed_plan(subject.network, subject.plan, scheme)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 40))
def test_many_mixtures_of_tuned_plans_are_computed_exactly(first: int) -> None:
    wrong = {}
    for seed in range(first, first + 40):
        subject, scheme = random_subject(seed, 14)
        found = subject.blame(mixed_plan(subject.network, subject.plan, scheme))
        if found:
            wrong[seed] = found
    assert wrong == {}


@settings(derandomize=True, max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_stays_in_8_bits_keeps_its_type_and_its_weights(seed: int) -> None:
    subject, scheme = random_subject(seed)
    plan = subject.plan
    floats = {name: precision for name, precision in scheme.operations.items() if precision != "INT8"}
    mixed = mixed_plan(subject.network, plan, Scheme(operations=floats, results=scheme.results))
    assert mixed_plan(subject.network, plan, Scheme()) == plan
    table = QuantizeTable.of(mixed)
    assert mixed_plan(subject.network, plan, Scheme(operations=table.operations, results=table.results)) == mixed
    for name, kind in mixed.tensors.items():
        assert kind == plan.tensors[name] or not kind.is_quantized
    assert set(mixed.weights) == {name for name in plan.weights if mixed.operations[name] == "INT8"}
    for name, each in mixed.weights.items():
        assert np.array_equal(each.weights, plan.weights[name].weights)
        assert each == plan.weights[name] or (mixed.made_in(name) != "INT8" == plan.made_in(name))


def branch() -> Network:
    """Two products added up, one of which another product reads as well."""
    top = Top()
    first = top.conv("first", top.x)
    second = top.conv("second", first, pad=1)
    return top.finish(top.conv("last", top.op("Add", "sum", first, second)))


def test_factors_stay_where_floats_meet_them() -> None:
    subject = Subject(branch(), 1)
    assert all(subject.plan.tensors[name].factors for name in ("first", "second", "sum"))
    mixed = mixed_plan(subject.network, subject.plan, Scheme(operations={"sum": "F32"}, results={"second": "F32"}))
    tpu = lower_to_tpu(subject.network, mixed)
    casts = {name_of(op): op for op in tpu.operations if op.name in ("tpu.Quantize", "tpu.Dequantize")}
    read, rounded = uniform_of(casts["first_float32"].operands[0]), uniform_of(casts["sum_quantized"].results[0])
    assert read is not None and read.is_per_axis and rounded is not None and rounded.is_per_axis
    assert "second_float32" not in casts
    assert subject.blame(mixed) == ""
    assert subject.noise(mixed) < subject.noise(subject.plan)


def test_float_sums_of_fitted_weights_are_those_weights_sums() -> None:
    subject = Subject(branch(), 1)
    mixed = mixed_plan(subject.network, subject.plan, Scheme(operations={"last": "F32"}, results={"second": "F32"}))
    chosen, factors = subject.plan.weights["second"], subject.plan.tensors["second"].factors
    assert np.array_equal(mixed.weights["second"].scales, chosen.scales * factors)
    assert np.array_equal(mixed.weights["second"].bias, chosen.bias * factors)
    assert "last" not in mixed.weights
    assert subject.noise(mixed) < subject.noise(subject.plan)


def test_the_schemes_own_precision_is_that_of_all_it_does_not_name() -> None:
    subject = Subject(branch(), 1)
    mixed = mixed_plan(subject.network, subject.plan, Scheme(precision="F16", operations={"second": "INT8"}))
    assert mixed.operations == {"first": "F16", "second": "INT8", "sum": "F16", "last": "F16"}
    assert mixed.weights == {"second": subject.plan.weights["second"]}
    assert subject.blame(mixed) == ""


@pytest.mark.parametrize(
    "scheme, message",
    [
        (Scheme(operations={"sum": "INT8"}), "precision of sum: was tuned to be F32, there are no types for it"),
        (Scheme(operations={"summ": "F16"}), "precision of summ: the network has no such operation; did you mean sum"),
        (Scheme(results={"first": "F16"}), "float result of first: is computed in F32 anyway; leave it out"),
    ],
)
def test_what_a_tuned_plan_cannot_be_is_refused(scheme: Scheme, message: str) -> None:
    subject = Subject(branch(), 1, ["sum", "first"])
    with pytest.raises(BadInput) as caught:
        mixed_plan(subject.network, subject.plan, scheme)
    assert str(caught.value).startswith(message)
