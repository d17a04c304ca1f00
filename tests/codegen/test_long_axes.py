"""Axes and filters too long for a lane are dealt out to the lanes or taken in blocks, with the same bits."""

import pytest
from exactness import assert_exact, assert_exact_on_chip_model, extremes, noise, on_chip_model
from network_parts import Parts

from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.emitters import conv, depthwise, softmax
from tpu_deploy.codegen.emitters.registry import EMITTERS
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network

SOFTMAXES = {
    "one element more than the lanes": ((1, 65), 1),
    "a power of two": ((2, 256), 1),
    "a length that is no multiple of the lanes": ((3, 1000), -1),
    "one above a power of two, in pieces": ((2, 1, 4097), 2),
    "one below a power of two, in pieces": ((5, 8191), 1),
    "the first axis": ((130, 7), 0),
    "the only axis": ((300,), 0),
    "the second of four axes": ((2, 200, 3, 5), 1),
    "the third of four axes": ((2, 3, 333, 7), 2),
    "pieces of many rows": ((2, 700, 20, 3), 1),
    "the last axis that is not 1": ((2, 500, 1, 1), 1),
    "tiles of some rows": ((260, 513), 1),
}

LONG_SOFTMAXES = {
    "21841 classes": ((1, 21841), 1),
    "some rows of 21841 classes": ((5, 21841), 1),
    "200000 elements": ((1, 200_000), 1),
    "the third of four axes": ((2, 3, 17_011, 2), 2),
}

DEPTHWISE = {
    "rows": ((1, 5, 70, 60), {"kernel": (64, 50)}),
    "rows and columns": ((2, 3, 6, 1600), {"kernel": (5, 1500)}),
    "several groups of channels and positions": ((2, 130, 24, 24), {"kernel": (21, 19), "strides": (3, 2)}),
    "blocks wholly in padding": ((1, 3, 30, 50), {"kernel": (60, 40), "pads": (31, 20, 40, 3)}),
    "apart": ((1, 4, 90, 90), {"kernel": (20, 16), "dilations": (4, 5), "pads": (1, 7, 0, 2)}),
    "strides larger than fields can hold": ((1, 4, 60, 64), {"kernel": (40, 44), "strides": (17, 20)}),
}

LARGE_DEPTHWISE = {
    "a filter larger than a lane": ((1, 3, 600, 500), {"kernel": (600, 500)}),
    "one longer than sizes can be": ((1, 2, 1, 80_000), {"kernel": (1, 79_990)}),
    "one that reads more than a lane": ((2, 70, 601, 603), {"kernel": (41, 41), "dilations": (15, 15)}),
}


def softmax_network(shape, axis) -> Network:
    p = Parts(shape)
    return p.returning(p.softmax(p.dequantize(p.start()), axis))


def depthwise_network(shape, window, seed=1) -> Network:
    p = Parts(shape, seed=seed)
    return p.finish(p.conv(p.start(), shape[1], group=shape[1], **window))


@pytest.fixture
def dealt(monkeypatch):
    monkeypatch.setitem(EMITTERS, "tpu.Softmax", lambda op, chip: [softmax.dealt_variant(op, chip)])


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(conv, "depthwise_variants", lambda *given: [depthwise.blocks_variant(*given)])
    monkeypatch.setattr(depthwise, "BLOCK_SHARE", 256)


@pytest.mark.usefixtures("dealt")
@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_dealt_out_to_the_lanes_is_exact(name):
    network = softmax_network(*SOFTMAXES[name])
    assert_exact(network, noise(network), *(feeds for _, feeds in extremes(network)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_a_depthwise_convolution_in_blocks_is_exact(name, seed):
    network = depthwise_network(*DEPTHWISE[name], seed)
    assert_exact(network, noise(network), *(feeds for _, feeds in extremes(network)))


def test_some_of_these_narrow_their_sums_and_some_do_not():
    networks = (depthwise_network(*each, seed) for each in DEPTHWISE.values() for seed in (1, 2))
    shifts = {attributes_of(op)["acc_shift"] for n in networks for op in n.operations if op.name == "tpu.Conv2D"}
    assert min(shifts) < 0
    assert {0, 1, 2} < shifts


@pytest.mark.parametrize("name", LONG_SOFTMAXES)
def test_a_softmax_too_long_for_a_lane_is_exact(name):
    assert_exact(softmax_network(*LONG_SOFTMAXES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_DEPTHWISE)
def test_a_depthwise_convolution_too_large_for_a_lane_is_exact(name):
    assert_exact(depthwise_network(*LARGE_DEPTHWISE[name]))


def test_a_softmax_too_long_for_all_lanes_is_refused():
    with pytest.raises(BadInput, match=r"no tile of tpu\.Softmax .* fits"):
        compile_network(softmax_network((1, 2_000_000), 1))


@pytest.mark.slow
class TestOnTheChipModel:
    pytestmark = on_chip_model

    @pytest.mark.usefixtures("dealt")
    @pytest.mark.parametrize("name", SOFTMAXES)
    def test_a_dealt_softmax(self, name, tmp_path):
        assert_exact_on_chip_model(softmax_network(*SOFTMAXES[name]), tmp_path)

    @pytest.mark.usefixtures("small_blocks")
    @pytest.mark.parametrize("name", DEPTHWISE)
    def test_a_depthwise_convolution_in_blocks(self, name, tmp_path):
        assert_exact_on_chip_model(depthwise_network(*DEPTHWISE[name]), tmp_path)

    @pytest.mark.parametrize("name", LONG_SOFTMAXES)
    def test_a_long_softmax(self, name, tmp_path):
        assert_exact_on_chip_model(softmax_network(*LONG_SOFTMAXES[name]), tmp_path)

    @pytest.mark.parametrize("name", LARGE_DEPTHWISE)
    def test_a_large_depthwise_convolution(self, name, tmp_path):
        assert_exact_on_chip_model(depthwise_network(*LARGE_DEPTHWISE[name]), tmp_path)
