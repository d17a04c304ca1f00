import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.ir.geometry import output_size
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.runtime.reference.accumulation import FLOAT32_EXACT, exact_ranges

WINDOW = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}


def quantized(draw: st.DrawFn) -> UniformType:
    dtype = draw(st.sampled_from([np.int8, np.uint8]))
    limits = np.iinfo(dtype)
    zero = draw(st.sampled_from([0, int(limits.min), int(limits.max)]) | st.integers(int(limits.min), int(limits.max)))
    return UniformType.of(dtype, 0.1, zero)


def result_size(x, w, window):
    return tuple(
        output_size(
            x.shape[2 + i], w.shape[2 + i], window["strides"][i], sum(window["pads"][i::2]), window["dilations"][i]
        )
        for i in range(2)
    )


def accumulators(x, zero, w, bias, window):
    """Sums position by position, over an explicitly padded array, without the zero-point term of the bias."""
    (top, left, bottom, right), group = window["pads"], window["group"]
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    oc, per_group, kh, kw = w.shape
    height, width = result_size(x, w, window)
    sums = np.empty((x.shape[0], oc, height, width), np.int64)
    for o in range(oc):
        first = o // (oc // group) * per_group
        for i in range(height):
            for j in range(width):
                rows = i * window["strides"][0] + window["dilations"][0] * np.arange(kh)
                columns = j * window["strides"][1] + window["dilations"][1] * np.arange(kw)
                patch = padded[:, first : first + per_group, rows][..., columns]
                sums[:, o, i, j] = (patch * w[o].astype(np.int64)).sum((1, 2, 3)) + bias[o]
    return sums


def stored_integers(rng, dtype, shape, style):
    limits = np.iinfo(dtype)
    if style == "extremes":
        return rng.choice([limits.min, limits.max], shape).astype(dtype)
    if style == "all max":
        return np.full(shape, limits.max, dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


@st.composite
def cases(draw: st.DrawFn):
    group = draw(st.sampled_from([1, 1, 2, 3, 16]))
    per_group = draw(st.sampled_from([1, 2, 5])) if group > 1 else draw(st.sampled_from([1, 3, 16, 33]))
    outputs = group * draw(st.integers(1, 3)) if group > 1 else draw(st.sampled_from([1, 7, 16, 32]))
    size = [draw(st.integers(1, 9)) for _ in range(2)]
    pads = [draw(st.integers(0, 3)) for _ in range(4)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    kernel = []
    for axis in range(2):
        room = (size[axis] + pads[axis] + pads[axis + 2] - 1) // dilations[axis] + 1
        kernel.append(draw(st.integers(1, min(4, room))))
    window = {
        "strides": [draw(st.integers(1, 3)) for _ in range(2)], "pads": pads, "dilations": dilations, "group": group,
    }  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind, result = quantized(draw), quantized(draw)
    style = draw(st.sampled_from(["any", "extremes", "all max"]))
    x = stored_integers(rng, kind.dtype, (draw(st.integers(1, 3)), group * per_group, *size), style)
    w = stored_integers(rng, np.int8, (outputs, per_group, *kernel), style)
    spread = max(1, int(np.abs(w.astype(int)).sum((1, 2, 3)).max()))
    multiplier = rng.integers(2**22, 2**23, outputs) * rng.choice([1, 1, 1, -1], outputs)
    shift = rng.integers(22, 26, outputs) + int(np.log2(spread))
    bias = rng.integers(-10 * spread, 10 * spread + 1, outputs)
    return x, kind, w, bias, multiplier, shift, result, window


@settings(derandomize=True, deadline=None, max_examples=120)
@given(cases())
def test_convolution_of_any_geometry_is_the_sum_over_the_padded_input(evaluate, requantized, case):
    x, kind, w, bias, multiplier, shift, result, window = case
    constants = [each.astype(np.int32) for each in (bias, multiplier, shift)]
    sums = accumulators(x, kind.zero_point, w, bias, window)
    y = evaluate("tpu.Conv2D", [(x, kind), w, *constants], sums.shape, result, kernel_shape=list(w.shape[2:]), **window)
    expected = requantized(sums, multiplier.reshape(-1, 1, 1), shift.reshape(-1, 1, 1), result)
    np.testing.assert_array_equal(y, expected)


def every_bit(evaluate, x, kind, w, window):
    """The convolution with a bias that brings each output near zero, where the lowest bits of the sums show."""
    plain = accumulators(x, kind.zero_point, w, np.zeros(len(w), np.int64), window)
    bias = -plain.reshape(*plain.shape[:2], -1)[0, :, 0] + np.arange(len(w)) % 5
    ones, zeros = np.ones(len(w), np.int32), np.zeros(len(w), np.int32)
    result = UniformType.of(np.int16, 1.0)
    operands = [(x, kind), w, bias.astype(np.int32), ones, zeros]
    y = evaluate("tpu.Conv2D", operands, plain.shape, result, kernel_shape=list(w.shape[2:]), **window)
    np.testing.assert_array_equal(y, np.clip(plain + bias.reshape(-1, 1, 1), -32768, 32767))


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "group", "size"),
    [
        (700, 3, 3, 1, 3),  # cut into ranges of channels
        (512, 16, 3, 1, 7),
        (1200, 4, 1, 1, 24),  # a plane large enough for the plain layout
        (1400, 2, 3, 2, 3),  # groups: cut by masks
        (2, 2, 24, 2, 24),  # a single channel is beyond float32
        (1, 1, 24, 1, 25),
    ],
)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_sums_beyond_the_integers_of_float32_are_exact(evaluate, channels, outputs, kernel, group, size, dtype):
    rng = np.random.default_rng(channels)
    kind = UniformType.of(dtype, 0.1, int(np.iinfo(dtype).min) if dtype == np.int8 else 0)
    x = np.full((2, channels, size, size), np.iinfo(dtype).max, dtype)
    x[1] = rng.integers(100, 127, x[1].shape)
    w = rng.choice([125, 126, 127], (outputs, channels // group, kernel, kernel)).astype(np.int8)
    assert w[0].astype(np.int64).sum() * 255 > FLOAT32_EXACT
    every_bit(evaluate, x, kind, w, WINDOW | {"group": group})


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "group", "size", "stride"),
    [
        (3, 32, 5, 1, 12, 2),
        (64, 64, 3, 1, 6, 1),
        (64, 64, 1, 1, 26, 1),
        (64, 48, 1, 1, 5, 2),
        (32, 32, 3, 32, 9, 1),
        (33, 66, 3, 33, 5, 1),
        (32, 64, 3, 4, 5, 1),
        (17, 9, 3, 1, 6, 1),
    ],
)
def test_onnxruntime_sums_exactly_up_to_the_bound(evaluate, channels, outputs, kernel, group, size, stride):
    """Just below 2**24 every integer is still a float32: no kernel or fusion may lose or reorder into a lost bit."""
    rng = np.random.default_rng(outputs)
    terms = channels // group * kernel * kernel
    w = rng.choice([-127, 127], (outputs, channels // group, kernel, kernel))
    limits = np.iinfo(np.int16)
    kind = UniformType.of(np.int16, 0.1)
    largest = min(limits.max, FLOAT32_EXACT // (terms * 127))
    x = rng.integers(-largest, largest + 1, (2, channels, size, size)).astype(np.int16)
    x[0] = np.where(rng.random(x[0].shape) < 0.9, largest, -largest)
    window = WINDOW | {"strides": [stride] * 2, "pads": [1, 0, 0, 1] if kernel > 1 else [0] * 4, "group": group}
    every_bit(evaluate, x, kind, w.astype(np.int8), window)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_threads_and_batch_do_not_change_a_bit(evaluate, threads, images):
    rng = np.random.default_rng(0)
    kind = UniformType.of(np.uint8, 0.1, 7)
    x = rng.integers(0, 256, (images, 16, 40, 40)).astype(np.uint8)
    w = rng.integers(-127, 128, (64, 16, 1, 1)).astype(np.int8)
    bias = rng.integers(-1000, 1000, 64).astype(np.int32)
    operands = [(x, kind), w, bias, np.full(64, 2**22, np.int32), np.full(64, 33, np.int32)]
    sums = np.einsum("nchw,oc->nohw", x.astype(np.int64), w[:, :, 0, 0].astype(np.int64)) + bias.reshape(-1, 1, 1)
    result = UniformType.of(np.int8, 1.0)
    y = evaluate("tpu.Conv2D", operands, sums.shape, result, threads, kernel_shape=[1, 1], **WINDOW)
    np.testing.assert_array_equal(y, np.clip((sums * 2**22 + 2**32) >> 33, -128, 127))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**16), low=st.integers(-255, 0), high=st.integers(0, 255), size=st.integers(1, 400))
def test_ranges_cover_all_terms_and_no_choice_of_them_leaves_float32(seed, low, high, size):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (3, size, 20)) * rng.choice([1, 16], (3, size, 1))
    ranges = exact_ranges(weights, low, high)
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])] and ranges[-1][1] == size
    for start, stop in ranges:
        terms = weights[:, start:stop].reshape(3, -1)
        most = np.maximum(terms * low, terms * high).sum(1)
        least = np.minimum(terms * low, terms * high).sum(1)
        assert most.max() <= FLOAT32_EXACT and -least.min() <= FLOAT32_EXACT


def test_a_unit_beyond_float32_has_no_ranges():
    assert exact_ranges(np.full((1, 2, 600), 127), 0, 255) is None
