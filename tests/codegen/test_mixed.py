"""Compiled networks of mixed precisions give what the reference gives, and the chip model what the simulator gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from exactness import on_chip_model
from onnx_cases import CASES, feeds_for, run
from random_top_networks import random_precisions, random_top

from tpu_deploy.calibration import Threshold
from tpu_deploy.codegen.bmodel import write_bmodel
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.frontend import UnsupportedOperators, export_onnx, import_onnx
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.lowering.canonicalize import canonicalize
from tpu_deploy.lowering.to_tpu import lower_to_tpu, refusals
from tpu_deploy.pipeline.agreement import compare, rules
from tpu_deploy.quant import Scheme, make_plan
from tpu_deploy.quant.plan import FLOATS
from tpu_deploy.runtime.chip_model import ChipModel
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator import Simulator

Feeds = dict[str, np.ndarray]


def float_values(network: Network, feeds: Feeds) -> Feeds:
    names = [name_of(v) for v in network.values() if name_of(v) not in feeds]
    session = onnxruntime.InferenceSession(export_onnx(network, names).SerializeToString())
    return dict(zip(names, session.run(names, feeds), strict=True)) | feeds


def mixed(seed: int, length: int) -> tuple[Network, Feeds, Feeds]:
    """A random network of random precisions, its input, and what the float network returns."""
    network = random_top(seed, length)
    chosen, results = random_precisions(network, seed)
    feeds = feeds_for(export_onnx(network))
    values = float_values(network, feeds)
    table = {n: Threshold(float(np.abs(v).max()), float(v.min()), float(v.max())) for n, v in values.items()}
    tpu = lower_to_tpu(network, make_plan(network, table, Scheme(operations=chosen, results=results)))
    real = {n: values[name_of(v)] for n, v in zip(network.output_names, network.outputs, strict=True)}
    return tpu, feeds, real


def blame(network: Network, feeds: Feeds, real: Feeds) -> str:
    """What is wrong with the simulator's outputs."""
    found = Simulator(compile_network(network).bmodel, uninitialized="fail").run(feeds)
    return compare([found], [Reference(network, 1).run(feeds)], [real], rules(network)).blame


@pytest.mark.parametrize("seed", range(8))
def test_any_mixture_gives_what_the_reference_gives(seed: int) -> None:
    assert blame(*mixed(seed, 10)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 180, 20))
def test_many_mixtures_give_what_the_reference_gives(first: int) -> None:
    assert {seed: wrong for seed in range(first, first + 20) if (wrong := blame(*mixed(seed, 14)))} == {}


def canonical(model: onnx.ModelProto) -> Network | None:
    """The canonical network of a model; None where it cannot be compiled."""
    try:
        network = import_onnx(model)
    except UnsupportedOperators:
        return None
    canonicalize(network)
    return None if refusals(network) else network


@pytest.mark.slow
@pytest.mark.parametrize("precision", FLOATS)
def test_every_onnx_case_in_floats_gives_what_the_reference_gives(precision: str) -> None:
    wrong = {}
    for name, model in CASES.items():
        network, feeds = canonical(model), feeds_for(model)
        if network is not None:
            tpu = lower_to_tpu(network, make_plan(network, {}, Scheme(precision=precision)))
            wrong[name] = blame(tpu, feeds, run(model, feeds))
    assert len(wrong) > 0.9 * len(CASES)
    assert {name: found for name, found in wrong.items() if found} == {}


class TestOnTheChipModel:
    pytestmark = on_chip_model

    @pytest.mark.parametrize("seed", range(20, 23))
    def test_the_simulator_gives_the_chip_models_bits(self, seed: int, tmp_path: Path) -> None:
        network, feeds, _ = mixed(seed, 14)
        bmodel = compile_network(network).bmodel
        write_bmodel(bmodel, tmp_path / "network.bmodel")
        with ChipModel(tmp_path / "network.bmodel") as chip_model:
            found = chip_model.run(feeds)
        for name, array in Simulator(bmodel).run(feeds).items():
            assert found[name].tobytes() == array.tobytes(), name
