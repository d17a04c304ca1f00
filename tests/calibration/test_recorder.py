import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.calibration.histogram import BINS
from tpu_deploy.calibration.recorder import Recorder, stride


def recorded(arrays: list[np.ndarray], values_per_tensor: int, cutoff: float = math.inf):
    recorder = Recorder(["t"], values_per_tensor, cutoffs=[cutoff])
    for sample, array in enumerate(arrays):
        recorder.record(0, array, sample)
    return recorder.statistics("")


@pytest.mark.parametrize("size", [16000, 16007])
@pytest.mark.parametrize("signed", [False, True])
def test_all_values_beyond_the_cutoff_are_counted_and_those_below_by_estimate(size, signed):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=size).astype(np.float32) for _ in range(20)]
    arrays = arrays if signed else [np.abs(array) for array in arrays]
    full, sampled = recorded(arrays, 0), recorded(arrays, 500, cutoff=3.0)
    assert full.exponent[0] == 3
    beyond = np.abs(np.arange(-BINS, BINS)) > 3 * BINS // 8
    assert full.counts[0, beyond].sum() > 100
    assert np.array_equal(sampled.counts[0, beyond], full.counts[0, beyond])
    assert sampled.counts.sum() == pytest.approx(full.counts.sum(), rel=0.01)
    assert not np.array_equal(sampled.counts, full.counts)


@pytest.mark.parametrize("cutoff", [0.0, 1e-5, 1.0, math.inf])
def test_the_estimate_is_unbiased_however_many_values_are_beyond_the_cutoff(cutoff):
    rng = np.random.default_rng(1)
    arrays = [np.maximum(rng.normal(0.3, 1, size=20000), 0).astype(np.float32) for _ in range(20)]
    full, sampled = recorded(arrays, 0), recorded(arrays, 1000, cutoff)
    assert sampled.zeros[0] == pytest.approx(full.zeros[0], rel=0.05)
    for part in (slice(0, BINS + 200), slice(BINS + 200, BINS + 1000), slice(BINS + 1000, None)):
        assert sampled.counts[0, part].sum() == pytest.approx(full.counts[0, part].sum(), rel=0.1)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(1, 10**7), st.integers(1, 10**5))
def test_a_stride_takes_about_the_wanted_values_and_shares_no_divisor_with_the_size(size, wanted):
    step = stride(size, wanted)
    assert math.gcd(step, size) == 1
    if size >= 4 * wanted:
        assert wanted / 3 <= size / step <= 1.4 * wanted


def test_sampling_visits_every_column_of_a_picture():
    step = stride(96 * 112 * 112, 4096)
    columns = {position % 112 for sample in range(4) for position in range(sample * 40503 % step, 96 * 112 * 112, step)}
    assert len(columns) == 112


def test_a_tensor_without_elements_leaves_the_range_empty():
    statistics = recorded([np.zeros((1, 0), np.float32)], 0)
    assert statistics.minimum[0] > statistics.maximum[0]
    assert statistics.magnitude[0] == 0
