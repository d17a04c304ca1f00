"""Tensors larger than local memory, and windows larger than what one instruction expresses, are cut, never refused."""

import numpy as np
import pytest
from exactness import assert_exact, assert_exact_on_chip_model, extremes, on_chip_model
from network_parts import Parts

from tpu_deploy.ir.network import Network

LARGE = {}
LARGER = {}


def large(build):
    """Registers a network whose name is the claim that it is exact."""
    LARGE[build.__name__.replace("_", " ")] = build
    return build


def larger(build):
    """The same for one that takes more than a second."""
    LARGER[build.__name__.replace("_", " ")] = build
    return build


@larger
def the_first_layers_of_a_detector_at_640x640() -> Network:
    p = Parts((1, 3, 640, 640))
    x = p.conv(p.start(), 16, (3, 3), (2, 2), (1, 1, 1, 1))
    x = p.max_pool(p.lut(p.conv(x, 32, (3, 3), (2, 2), (1, 1, 1, 1))), (2, 2), (2, 2))
    return p.finish(p.add(x, p.same_conv(x, 32)))


@larger
def a_batch_of_16_images() -> Network:
    p = Parts((16, 3, 160, 160))
    x = p.conv(p.start(), 32, (3, 3), (2, 2), (1, 1, 1, 1))
    x = p.conv(p.same_conv(x, 32, group=32), 64)
    return p.finish(p.add(x, x), p.average_pool(x, (80, 80)))


@larger
def a_matrix_product_over_25088_elements() -> Network:
    p = Parts((3, 512, 7, 7))
    return p.finish(p.matmul(p.reshape(p.start(), 3, 25088), 300))


@larger
def a_matrix_product_over_100352_elements() -> Network:
    p = Parts((2, 100352))
    return p.finish(p.matmul(p.start(), 70))


@larger
def a_matrix_product_whose_columns_do_not_fit_a_lane() -> Network:
    p = Parts((1, 300000))
    return p.finish(p.matmul(p.start(), 3))


@larger
def a_matrix_product_to_100000_columns() -> Network:
    p = Parts((2, 8))
    return p.finish(p.matmul(p.start(), 100000))


@larger
def a_matrix_product_of_20000_rows() -> Network:
    p = Parts((20000, 6))
    return p.finish(p.matmul(p.start(), 5))


@large
def a_convolution_of_2048_channels() -> Network:
    p = Parts((1, 2048, 7, 7))
    return p.finish(p.conv(p.same_conv(p.start(), 256), 2048))


@larger
def groups_of_more_weights_than_local_memory_holds() -> Network:
    p = Parts((1, 2 * 65, 15, 16))
    return p.finish(p.conv(p.start(), 2 * 601, (15, 15), group=2))


@larger
def filters_larger_than_a_lane() -> Network:
    p = Parts((1, 512, 31, 31))
    return p.finish(p.conv(p.start(), 10, (31, 31)))


@large
def an_image_wider_than_sizes_can_be() -> Network:
    p = Parts((1, 3, 2, 70001))
    x = p.start()
    return p.finish(p.conv(x, 5, (1, 3), pads=(0, 1, 0, 1)), p.max_pool(x, (2, 3), (1, 2)))


@large
def an_image_higher_than_sizes_can_be() -> Network:
    p = Parts((1, 2, 70001, 1))
    x = p.start()
    return p.finish(p.conv(x, 5, (3, 1), pads=(1, 0, 1, 0)), p.max_pool(x, (3, 1), (2, 1)), p.same_conv(x, 2, group=2))


@larger
def more_channels_than_sizes_can_be() -> Network:
    p = Parts((1, 70001))
    x = p.start()
    return p.finish(p.mul(x, p.slice(x, (0, 5), (1, 1))), p.add(x, p.slice(x, (0, 7), (1, 1))))


@large
def more_images_than_sizes_can_be() -> Network:
    p = Parts((70001, 2))
    x = p.start()
    return p.finish(p.mul(x, p.slice(x, (0, 1), (70001, 1))))


@large
def a_vector_of_a_prime_number_of_elements() -> Network:
    p = Parts((1, 1, 1, 131071))
    x = p.start()
    return p.finish(p.lut(x), p.add(x, x))


@large
def a_table_a_channel_over_large_channels() -> Network:
    p = Parts((1, 2, 330, 330))
    x = p.start()
    table = p.weight(p.rng.integers(0, 256, (2, 256)).astype(np.uint8))
    return p.finish(p.op("tpu.Lut", [x, table], p.unsigned((1, 2, 330, 330))))


@large
def an_average_over_a_window_larger_than_local_memory() -> Network:
    p = Parts((1, 10, 500, 600))
    x = p.start()
    return p.finish(p.average_pool(x, (500, 600)), p.max_pool(x, (500, 600)))


@larger
def padded_windows_larger_than_local_memory() -> Network:
    p = Parts((1, 5, 600, 600))
    x = p.start()
    return p.finish(
        p.average_pool(x, (640, 640), pads=(20, 20, 20, 20)), p.max_pool(x, (590, 615), (3, 7), (8, 17, 9, 18))
    )


@large
def pooling_over_rows_longer_than_sizes_can_be() -> Network:
    p = Parts((1, 4, 1, 100000))
    x = p.start()
    return p.finish(p.average_pool(x, (1, 100000)), p.max_pool(x, (1, 100000)))


@larger
def pooling_over_rows_longer_than_a_lane() -> Network:
    p = Parts((1, 2, 1, 300000))
    x = p.start()
    return p.finish(p.average_pool(x, (1, 300000)), p.max_pool(x, (1, 150000), (1, 150000)))


@large
def pads_larger_than_fields_can_hold() -> Network:
    p = Parts((1, 20, 40, 40))
    x = p.start()
    return p.finish(
        p.conv(x, 32, (31, 31), pads=(20, 17, 3, 40)), p.conv(x, 20, (25, 3), pads=(24, 0, 16, 2), group=20)
    )


@large
def tiles_wholly_in_padding() -> Network:
    p = Parts((1, 3, 8, 600))
    x = p.start()
    return p.finish(
        p.conv(x, 64, pads=(0, 0, 15, 0)), p.conv(x, 64, (3, 3), pads=(40, 1, 40, 1)),
        p.conv(p.slice(x, (0, 0, 0, 0), (1, 3, 2, 30)), 64, (3, 3), pads=(1, 3000, 1, 3000)),
        p.conv(x, 3, (1, 2), (2, 2), pads=(9, 0, 15, 0), group=3),
    )  # fmt: skip


@large
def strides_larger_than_fields_can_hold() -> Network:
    p = Parts((1, 6, 64, 64))
    x = p.start()
    return p.finish(
        p.average_pool(x, (64, 64), (64, 64)), p.max_pool(x, (16, 16), (16, 16)), p.conv(x, 9, (16, 16), (16, 16)),
        p.conv(x, 6, (3, 3), (20, 1), group=6), p.max_pool(x, (5, 20), (1, 22), (2, 19, 2, 3)),
    )  # fmt: skip


@large
def dilations_larger_than_fields_can_hold() -> Network:
    p = Parts((1, 8, 64, 64))
    x = p.start()
    return p.finish(
        p.conv(x, 8, (3, 3), pads=(18,) * 4, dilations=(18, 18)), p.conv(x, 8, (1, 3), dilations=(30, 3)),
        p.conv(x, 8, (2, 3), pads=(5, 31, 0, 31), dilations=(17, 31), group=8),
    )  # fmt: skip


@larger
def softmax_over_12000_classes() -> Network:
    p = Parts((2, 12_000))
    return p.returning(p.softmax(p.dequantize(p.start()), 1))


@larger
def softmax_over_few_of_many() -> Network:
    p = Parts((1, 5, 120, 130))
    return p.returning(p.softmax(p.dequantize(p.start()), 1))


@pytest.mark.parametrize("name", LARGE)
def test_exact(name):
    assert_exact(LARGE[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_exact_too(name):
    assert_exact(LARGER[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_exact_at_extremes(name):
    network = LARGE[name]()
    assert_exact(network, *(feeds for _, feeds in extremes(network)))


@pytest.mark.slow
class TestOnTheChipModel:
    pytestmark = on_chip_model

    @pytest.mark.parametrize("name", [*LARGE, *LARGER])
    def test_exact(self, name, tmp_path):
        assert_exact_on_chip_model({**LARGE, **LARGER}[name](), tmp_path)
