"""Constants as rows of bytes for the lanes: every number is found where instructions look for it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.chips import chip
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.dense import merge_groups
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides
from tpu_deploy.numbers import BFLOAT16

CHIP = chip("bm1684x")
PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)
counts = st.sampled_from([1, 2, 5, 63, 64, 65, 128, 150])


@PROPERTY
@given(counts, st.integers(1, 9))
def test_channel_c_lies_in_lane_c_mod_64_behind_the_lanes_earlier_channels(count, width):
    channels = np.random.default_rng(count).integers(0, 256, (count, width)).astype(np.uint8)
    rows = packing.rows_by_lane(channels, CHIP)
    assert rows.shape == (min(count, CHIP.lanes), -(-count // CHIP.lanes) * width)
    for c in range(count):
        slot, lane = divmod(c, CHIP.lanes)
        assert (rows[lane, slot * width : (slot + 1) * width] == channels[c]).all()


@PROPERTY
@given(
    st.integers(1, 4), st.sampled_from([1, 3, 31, 33, 64, 65, 200]), st.integers(1, 3), st.integers(1, 3),
    st.sampled_from([np.int8, np.float16, BFLOAT16, np.float32]),
)  # fmt: skip
def test_filters_hold_blocks_of_channels_and_in_each_the_taps(oc, ic, kh, kw, dtype):
    weights = np.random.default_rng(ic).integers(-128, 128, (oc, ic, kh, kw)).astype(dtype)
    itemsize = weights.dtype.itemsize
    block = {1: 64, 2: 32, 4: 1}[itemsize]
    packed = packing.conv_filter(weights, CHIP)
    assert packed.shape == (oc, packing.conv_filter_bytes(ic, kh, kw, itemsize, CHIP))
    found = packed.view(weights.dtype).reshape(oc, -1, kh, kw, block)
    channels = found.transpose(0, 1, 4, 2, 3).reshape(oc, -1, kh, kw)
    assert (channels[:, :ic] == weights).all() and not channels[:, ic:].any()


def test_a_record_holds_multiplier_minus_shift_zero_point_and_bias():
    multiplier, rshift, bias = (np.array(k, np.int32) for k in ([3, 1 << 30], [5, 40], [-9, 8]))
    records = packing.requant_records(multiplier, rshift, -7, bias)
    assert records.shape == (2, packing.RECORD_BYTES)
    assert records.view(np.int32).tolist() == [[3, -5, -7, -9], [1 << 30, -40, -7, 8]]
    assert records.view(np.int32)[0, packing.BIAS_OFFSET // 4] == -9


@PROPERTY
@given(
    st.integers(1, 3), st.sampled_from([1, 7, 64, 70, 130]), st.integers(1, 7), st.integers(1, 33),
    st.sampled_from([np.int8, np.int16, np.float32]),
)  # fmt: skip
def test_an_aligned_tensor_has_its_elements_at_the_strides_of_the_layout(n, c, h, w, dtype):
    array = np.random.default_rng(c).integers(-100, 100, (n, c, h, w)).astype(dtype)
    rows = packing.aligned_tensor(array, CHIP)
    itemsize = array.dtype.itemsize
    assert rows.shape == (min(c, CHIP.lanes), aligned_bytes(array.shape, itemsize, CHIP))
    strides = aligned_strides(array.shape, itemsize, CHIP)
    for index in {(0, 0, 0, 0), (n - 1, c - 1, h - 1, w - 1), (n // 2, c // 2, h // 2, w // 3)}:
        slot, lane = divmod(index[1], CHIP.lanes)
        start = np.dot((index[0], slot, index[2], index[3]), strides) * itemsize
        assert rows[lane, start : start + itemsize].view(dtype)[0] == array[index]


@PROPERTY
@given(
    st.sampled_from([1, 2, 3, 4, 6, 32, 60]), st.integers(1, 3), st.sampled_from([1, 2, 5, 40]),
    st.sampled_from([64, 32, 1]),
)  # fmt: skip
def test_merged_groups_compute_what_the_groups_compute(groups, outputs, inputs, block):
    rng = np.random.default_rng(groups)
    filters = rng.integers(-128, 128, (groups * outputs, inputs, 2, 1)).astype(np.int8)
    merged, count = merge_groups(filters, groups, block, CHIP.lanes)
    x = rng.integers(-128, 128, (groups * inputs, 2, 1))
    assert groups % count == 0 and merged.shape[1] * count == groups * inputs
    assert (grouped_sums(merged, x, count) == grouped_sums(filters, x, groups)).all()


def grouped_sums(filters, x, groups):
    parts = filters.astype(np.int64).reshape(groups, -1, *filters.shape[1:])
    return np.einsum("goikl,gikl->go", parts, x.reshape(groups, -1, *x.shape[1:])).reshape(-1)
