"""What stored weights stand for is what the float network has, whatever scales the channels around them have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from top_networks import Top

from tpu_deploy.calibration import Threshold
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline.stored_weights import weights_of_reals
from tpu_deploy.quant import make_plan

FACTORS = (1.0, 0.25, 0.4, 0.1, 0.7, 0.3)


def chain() -> Network:
    """A dense and a depthwise convolution between others, and a matrix product."""
    top = Top()
    first = top.conv("first", top.x, outputs=6)
    each = top.conv("each", first, outputs=6, group=6)
    pooled = top.op("Reshape", "flat", top.conv("last", each), shape=(2, 24))
    return top.finish(top.matmul("y", pooled))


@pytest.mark.parametrize("name", ["first", "each", "last"])
def test_weights_are_those_of_real_values(name: str) -> None:
    network = chain()
    table = {name_of(value): Threshold(4.0, -4.0, 4.0) for value in network.values()}
    plan = make_plan(network, table)
    factored = {n: replace(plan.tensors[n], factors=FACTORS) for n in ("first", "each")}
    tpu = lower_to_tpu(network, replace(plan, tensors={**plan.tensors, **factored}))
    found = weights_of_reals(tpu, next(op for op in tpu.operations if name_of(op) == name))
    exact = network.weight(next(op for op in network.operations if name_of(op) == name).operands[1])
    assert exact is not None
    steps = np.expand_dims(found.steps, (1, 2, 3)) / min(FACTORS)
    assert (np.abs(found.weights - exact) <= steps).all()
