"""Compiled float operations against the reference: the same bits, sums within what any order of adding allows."""

import numpy as np
import pytest
from exactness import Feeds, differing, noise, on_chip_model
from float_networks import EXACT, FLOATS, OPERATIONS, SUMMED, FloatMaker, single

from tpu_deploy.codegen.bmodel import write_bmodel
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.emitters import dense
from tpu_deploy.ir.network import Network
from tpu_deploy.numbers import BFLOAT16
from tpu_deploy.runtime.chip_model import ChipModel
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator import Simulator

LAST_PLACE = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float16): 2.0**-10, BFLOAT16: 2.0**-7}
"""The last place of a result of each type, as a share of it."""

RELU = {"do_relu": True, "relu_limit": 6.0}

APART = 2.0**-23
"""How far apart sums may be that are added in another order, as a share of the sum of magnitudes of their terms."""


def simulated(network: Network, feeds: Feeds) -> Feeds:
    return Simulator(compile_network(network).bmodel, uninitialized="fail").run(feeds)


def assert_close(network: Network, dtype, magnitude: float = 1e4) -> None:
    """Results differ by a last place, and where sums of so large terms are taken by what their order changes."""
    feeds = noise(network)
    expected, found = Reference(network, 1).run(feeds), simulated(network, feeds)
    for name, array in expected.items():
        allowed = APART * magnitude + LAST_PLACE[dtype] * np.abs(array)
        assert (np.abs(found[name] - array) <= allowed).all(), network.name


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", EXACT)
def test_operations_without_long_sums_are_exact(name, kind):
    network = single(name, kind, 1)
    feeds = noise(network)
    assert differing(Reference(network, 1).run(feeds), simulated(network, feeds)) == []


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", SUMMED)
def test_sums_of_products_differ_by_the_order_of_adding_alone(name, kind):
    for seed in range(2):
        assert_close(single(name, kind, seed), FLOATS[kind])


@pytest.mark.parametrize("kind", FLOATS)
def test_parts_of_a_large_convolution_read_the_rows_that_they_need(kind):
    maker = FloatMaker(5, (2, 8, 112, 112), kind)
    x = maker.start()
    assert_close(
        maker.finish(maker.conv(x, oc=96, kernel=[1, 1], strides=[1, 1], pads=[0] * 4, relu=RELU)), FLOATS[kind]
    )


@pytest.mark.parametrize("is_nan", [False, True])
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ["conv", "add", "affine", "Clip", "HardSwish", "max_pool", "average_pool"])
def test_nothing_masks_infinity_or_nan(name, kind, is_nan):
    maker = FloatMaker(2, (1, 3, 9, 9), kind)
    x = maker.start()
    shape = maker.type((1, 3, 9, 9))
    y = maker.op("tpu.FloatAdd", [x, x], shape)
    if is_nan:
        y = maker.op("tpu.FloatAdd", [x, maker.op("tpu.FloatSub", [y, y], shape)], shape)
    network = maker.finish(y, OPERATIONS[name](maker, y))
    feeds = noise(network)
    feeds["x"][0, 1, 4, 4] = 3e38
    expected, found = Reference(network, 1).run(feeds), simulated(network, feeds)
    assert np.isnan(expected["out0"]).any() == is_nan and not np.isfinite(expected["out0"]).all()
    for output, array in expected.items():
        assert np.array_equal(np.isnan(array), np.isnan(found[output]))
        assert np.array_equal(np.isinf(array), np.isinf(found[output]))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_float_operations_that_follow_each_other_keep_their_tensors_in_local_memory(kind):
    maker = FloatMaker(3, (1, 16, 20, 20), kind)
    x = maker.start()
    y = maker.conv(x, oc=70, kernel=[3, 3], strides=[1, 1], pads=[1] * 4, dilations=[1, 1])
    y = maker.conv(y, oc=70, kernel=[3, 3], strides=[1, 1], pads=[1] * 4, dilations=[1, 1], group=70)
    z = maker.function("tpu.HardSwish", y)
    compiled = compile_network(maker.finish(maker.op("tpu.FloatAdd", [y, z], maker.type((1, 70, 20, 20)))))
    assert len(compiled.groups) == 1
    assert compiled.memory.context <= 4 * (16 + 70) * 400 + 2 * 4096, "the input and the output alone"


@pytest.mark.parametrize("images", [1, 3])
def test_filters_that_come_in_pieces_give_the_same_bits(images, monkeypatch):
    for kind in ("f32", "f16"):
        maker = FloatMaker(7, (images, 70, 9, 11), kind)
        network = maker.finish(maker.conv(maker.start(), oc=300, kernel=[3, 3], strides=[1, 1], dilations=[1, 1]))
        whole = simulated(network, noise(network))
        with monkeypatch.context() as small:
            small.setattr(dense, "LARGE", 1000)
            small.setattr(dense, "PIECE_BYTES", 3000)
            compiled = compile_network(network)
            assert differing(whole, Simulator(compiled.bmodel, uninitialized="fail").run(noise(network))) == []


def large(kind: str) -> dict[str, Network]:
    """Operations of which not even an image fits local memory."""
    found = {}
    maker = FloatMaker(1, (1, 3, 600, 700), kind)
    found["image"] = maker.finish(maker.conv(maker.start(), oc=40, kernel=[3, 3], strides=[2, 2], pads=[1] * 4))
    maker = FloatMaker(2, (1, 6000), kind)
    found["row"] = maker.finish(maker.matmul(maker.start(), columns=1100))
    maker = FloatMaker(3, (1, 2100, 7, 7), kind)
    found["channels"] = maker.finish(maker.conv(maker.start(), oc=80, kernel=[3, 3], strides=[1, 1], pads=[1] * 4))
    maker = FloatMaker(4, (2, 96, 160, 170), kind)
    found["function"] = maker.finish(maker.function("tpu.SiLU", maker.start()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOATS)
def test_tensors_larger_than_local_memory_are_cut(kind):
    for network in large(kind).values():
        assert_close(network, FLOATS[kind], magnitude=1e5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_many_float_networks(name, kind):
    for seed in range(100, 115):
        assert_close(single(name, kind, seed), FLOATS[kind])


class TestOnTheChipModel:
    pytestmark = on_chip_model

    @pytest.mark.parametrize("kind", FLOATS)
    @pytest.mark.parametrize("name", ["conv", "depthwise", "matmul", "dequantized_conv", "average_pool", "GELU", "add"])
    def test_the_simulator_gives_the_chip_models_bits(self, name, kind, tmp_path):
        network = single(name, kind, 3)
        feeds, path = noise(network), tmp_path / "network.bmodel"
        bmodel = compile_network(network).bmodel
        write_bmodel(bmodel, path)
        with ChipModel(path) as chip_model:
            assert differing(chip_model.run(feeds), Simulator(bmodel).run(feeds)) == []
