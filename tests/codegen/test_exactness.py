"""Compiled random networks compute what the reference computes, bit for bit."""

import numpy as np
import pytest
from exactness import assert_exact, assert_exact_on_chip_model, differing, extremes, noise, on_chip_model
from network_parts import Parts, bouquet, tangle
from random_networks import ANY_RANK, OPERATIONS, chain, single

from tpu_deploy.codegen.bmodel import write_bmodel
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator import Simulator


@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_every_operation_is_exact(kind):
    for seed in range(3):
        assert_exact(single(kind, seed))


@pytest.mark.parametrize("seed", range(8))
def test_chains_of_operations_are_exact(seed):
    assert_exact(chain(seed))


@pytest.mark.parametrize("seed", range(16))
def test_graphs_of_operations_are_exact(seed):
    assert_exact(tangle(seed))


@pytest.mark.parametrize("seed", range(2))
def test_extreme_inputs_are_exact(seed):
    network = bouquet(seed)
    assert_exact(network, *(feeds for _, feeds in extremes(network)))


def test_a_compiled_file_serves_any_number_of_inputs(tmp_path):
    network = chain(3)
    path = tmp_path / "chain.bmodel"
    write_bmodel(compile_network(network, optimize=0).bmodel, path)
    simulator, reference = Simulator(path), Reference(network, 1)
    for seed in (1, 2, 1):
        feeds = noise(network, seed)
        assert differing(reference.run(feeds), simulator.run(feeds)) == []


def test_outputs_are_not_trivial():
    """Guards the tests above: networks whose outputs were constant would prove nothing."""
    for kind in OPERATIONS:
        network = single(kind, 1)
        (output,) = Reference(network, 1).run(noise(network)).values()
        assert len(np.unique(output)) > min(3, output.size // 2), kind


def float_island(seed: int) -> Parts:
    """Softmax over each axis of a quantized tensor, float32 values moved around it."""
    parts = Parts((2, 11, 5, 7), seed=seed)
    x = parts.dequantize(parts.lut(parts.start()))
    moved = parts.permute(parts.concat(1, x, x), 0, 2, 1, 3)
    return parts.returning(*(parts.softmax(x, axis) for axis in range(4)), parts.softmax(moved, -1), moved)


def test_softmax_is_exact_on_every_axis():
    network = float_island(1)
    assert_exact(network, noise(network), *(feeds for _, feeds in extremes(network)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_many_networks_of_every_operation_are_exact(kind):
    for seed in range(100, 140):
        assert_exact(single(kind, seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1200, 20))
def test_many_chains_are_exact(first):
    for seed in range(first, first + 20):
        network = chain(seed, length=12)
        assert_exact(network, noise(network), *(feeds for _, feeds in extremes(network)))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 200, 10))
def test_many_graphs_are_exact(first):
    for seed in range(first, first + 10):
        assert_exact(tangle(seed))
        assert_exact(tangle(seed, 16, 600_000))


class TestOnTheChipModel:
    pytestmark = on_chip_model

    @pytest.mark.parametrize("seed", range(2))
    def test_every_operation_is_exact(self, seed, tmp_path):
        assert_exact_on_chip_model(bouquet(seed), tmp_path)

    def test_every_operation_of_other_ranks_is_exact(self, tmp_path):
        for seed, shape in enumerate(((3, 50), (2, 70, 9), (2, 3, 4, 5, 6))):
            parts = Parts(shape, seed=seed)
            x = parts.start()
            assert_exact_on_chip_model(parts.finish(*(add(parts, x) for add in ANY_RANK.values())), tmp_path)

    def test_extreme_inputs_one_after_another_are_exact(self, tmp_path):
        network = bouquet(3)
        assert_exact_on_chip_model(network, tmp_path, *(feeds for _, feeds in extremes(network)))

    def test_softmax_is_exact_on_every_axis(self, tmp_path):
        network = float_island(2)
        assert_exact_on_chip_model(network, tmp_path, noise(network), *(feeds for _, feeds in extremes(network)))

    @pytest.mark.slow
    @pytest.mark.parametrize("first", range(2000, 2040, 10))
    def test_many_networks_are_exact(self, first, tmp_path):
        for seed in range(first, first + 10):
            assert_exact_on_chip_model(chain(seed, length=12), tmp_path)
            assert_exact_on_chip_model(tangle(seed), tmp_path)
            assert_exact_on_chip_model(bouquet(seed), tmp_path)
