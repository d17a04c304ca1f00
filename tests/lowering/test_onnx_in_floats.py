"""Every supported ONNX operator in floating point computes what onnxruntime does, up to the precision's rounding."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_cases import CASES, feeds_for, run

from tpu_deploy.frontend import UnsupportedOperators, import_onnx
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.canonicalize import canonicalize
from tpu_deploy.lowering.to_tpu import lower_to_tpu, refusals
from tpu_deploy.quant import Scheme, make_plan
from tpu_deploy.quant.plan import FLOATS
from tpu_deploy.runtime.reference import Reference

GATES = {"F32": 0.999999, "F16": 0.9999, "BF16": 0.995}
"""Tighter than those of whole networks: these are one or a few operations."""


def canonical(model: onnx.ModelProto) -> Network:
    network = import_onnx(model)
    canonicalize(network)
    return network


def cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    a, b = actual.reshape(-1).astype(np.float64), expected.reshape(-1).astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))


@pytest.mark.parametrize("precision", FLOATS)
def test_every_case_passes_its_gate(precision: str) -> None:
    worst = {}
    for name, model in CASES.items():
        try:
            network, feeds = canonical(model), feeds_for(model)
        except UnsupportedOperators:
            continue
        if refusals(network):
            continue
        tpu = lower_to_tpu(network, make_plan(network, {}, Scheme(precision=precision)))
        found, expected = Reference(tpu, 1).run(feeds), run(model, feeds)
        assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in expected.items()}, name
        worst[name] = min(cosine(found[n], expected[n]) for n in expected)
    assert len(worst) > 0.9 * len(CASES)
    assert {name: value for name, value in worst.items() if value < GATES[precision]} == {}
