import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.calibration.extremes import SampleExtremes
from tpu_deploy.calibration.histogram import Histogram
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.calibration.thresholds import METHODS, SMALLEST_THRESHOLD, Magnitudes, by_divergence, thresholds
from tpu_deploy.errors import BadInput


def statistics_of(*tensors: np.ndarray) -> Statistics:
    tensors = tuple(values.astype(np.float32) for values in tensors)
    histograms = []
    for values in tensors:
        histogram = Histogram()
        histogram.add(values, float(np.abs(values).max()))
        histograms.append(histogram)
    return Statistics(
        names=tuple(f"t{index}" for index in range(len(tensors))),
        minimum=np.array([float(values.min()) for values in tensors]),
        maximum=np.array([float(values.max()) for values in tensors]),
        exponent=np.array([histogram.exponent for histogram in histograms], np.int32),
        counts=np.stack([histogram.counts for histogram in histograms]),
        zeros=np.array([histogram.zeros for histogram in histograms], np.int64),
        even_counts=np.stack([histogram.counts for histogram in histograms]),
        even_zeros=np.array([histogram.zeros for histogram in histograms], np.int64),
        extremes=SampleExtremes.none(len(tensors)),
        samples=1,
        model_hash="m",
    )


def squared_error(values: np.ndarray, threshold: float) -> float:
    levels = 255 if values.min() >= 0 else 127
    step = threshold / levels
    steps = np.clip(np.rint(values / step), 0 if levels == 255 else -levels, levels)
    return float(((values - steps * step) ** 2).mean())


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=40000)
    return {
        "normal": normal,
        "rectified": np.maximum(normal, 0),
        "clipped": np.clip(rng.normal(2, 3, 40000), 0, 6),
        "heavy": rng.standard_t(2.5, 40000),
        "uniform": rng.uniform(-3, 3, 40000),
        "shifted": rng.uniform(0, 5, 40000),
        "outlier": np.append(normal, 100.0),
    }


@pytest.mark.parametrize("name", distributions())
def test_mse_reaches_the_least_error_any_threshold_has_on_the_integer_grid(name):
    values = distributions()[name].astype(np.float32).astype(np.float64)
    found = thresholds(statistics_of(values), "mse")["t0"].threshold
    largest = np.abs(values).max()
    least = min(squared_error(values, candidate) for candidate in largest * np.geomspace(1 / 32, 1, 300))
    assert squared_error(values, found) <= 1.03 * least


@pytest.mark.parametrize("name", distributions())
def test_percentile_agrees_with_sorting_the_values(name):
    values = np.abs(distributions()[name])
    for percentile in (50, 99, 99.9):
        found = thresholds(statistics_of(values), "percentile", percentile=percentile)["t0"].threshold
        expected = np.percentile(values, percentile)
        if expected > 0:
            assert found == pytest.approx(expected, rel=0.02, abs=2 * values.max() / 2048)


def test_max_is_the_exact_largest_magnitude_and_ranges_are_exact():
    found = thresholds(statistics_of(np.array([-7.25, 3.0]), np.array([0.125, 0.75])), "max")
    assert found["t0"].threshold == 7.25
    assert (found["t0"].min, found["t0"].max) == (-7.25, 3.0)
    assert found["t1"].threshold == 0.75


def naive_divergence(counts: np.ndarray, used_bins: int, levels: int) -> float:
    reference = counts[:used_bins].copy()
    reference[-1] += counts[used_bins:].sum()
    edges = [used_bins * level // levels for level in range(levels + 1)]
    candidate = np.zeros(used_bins)
    for start, end in itertools.pairwise(edges):
        inside = reference[start:end] > 0
        if inside.any():
            candidate[start:end][inside] = counts[start:end].sum() / inside.sum()
    p, q = reference / reference.sum(), candidate / candidate.sum()
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-30))).sum())


@pytest.mark.parametrize("name", ["normal", "rectified", "heavy"])
def test_kl_minimizes_the_divergence_computed_the_long_way(name):
    values = distributions()[name]
    magnitudes = Magnitudes.of(statistics_of(values), np.array([2.0 ** statistics_of(values).exponent[0] / 4096]))
    counts = np.zeros(256)
    limit = np.abs(values).max()
    nonzero = np.abs(values[values != 0]).astype(np.float32)
    counts += np.histogram(nonzero, bins=256, range=(0, limit))[0]
    found = by_divergence(magnitudes, bins=256, levels=32)[0] / magnitudes.limit[0] * 256
    divergence = {bins: naive_divergence(counts, bins, 32) for bins in range(32, 257, 16)}
    assert divergence[round(found)] <= 1.1 * min(divergence.values())


def test_kl_clips_an_outlier_and_keeps_a_uniform_range():
    found = thresholds(statistics_of(distributions()["outlier"], distributions()["uniform"]), "kl")
    assert found["t0"].threshold < 20
    assert found["t1"].threshold > 2.9


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape", ["laplace", "normal"])
def test_aciq_finds_the_least_error_of_the_distribution_it_assumes(shape, rectified):
    values = getattr(np.random.default_rng(4), shape)(scale=0.3, size=400_000)
    values = (np.maximum(values, 0) if rectified else values).astype(np.float32).astype(np.float64)
    found = thresholds(statistics_of(values), "aciq")["t0"].threshold
    least = min(squared_error(values, candidate) for candidate in np.abs(values).max() * np.linspace(0.2, 1, 100))
    assert squared_error(values, found) <= 1.1 * least  # three values or so lie beyond it, which is chance


@pytest.mark.parametrize(("shape", "signed", "rectified"), [("laplace", 9.89, 11.16), ("normal", 3.92, 4.2)])
def test_aciq_clips_where_the_tables_of_its_authors_say(shape, signed, rectified):
    values = getattr(np.random.default_rng(4), shape)(size=500_000)
    found = thresholds(statistics_of(values, np.abs(values)), "aciq")
    assert found["t0"].threshold == pytest.approx(signed, rel=0.01)
    assert found["t1"].threshold == pytest.approx(rectified, rel=0.01)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(-60, 60), st.sampled_from(list(METHODS)))
def test_thresholds_scale_with_the_values(doublings, method):
    values = distributions()["heavy"][:2000].astype(np.float32).astype(np.float64)
    once, scaled = (thresholds(statistics_of(v), method)["t0"].threshold for v in (values, values * 2.0**doublings))
    assert scaled == pytest.approx(once * 2.0**doublings, rel=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_each_tensor_has_the_threshold_it_has_alone(method):
    tensors = list(distributions().values()) * 3
    together = thresholds(statistics_of(*tensors), method)
    for name, values in zip(together, tensors, strict=True):
        alone = thresholds(statistics_of(values), method)["t0"]
        assert together[name].threshold == pytest.approx(alone.threshold, rel=1e-9)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_tensor_of_zeros_gets_a_positive_threshold_and_none_exceeds_the_largest_magnitude(method):
    found = thresholds(statistics_of(np.zeros(100), np.array([5.0]), np.array([-0.125, 0, 0, 0])), method)
    assert found["t0"].threshold == SMALLEST_THRESHOLD
    assert 0 < found["t1"].threshold <= 5
    assert 0 < found["t2"].threshold <= 0.125


@pytest.mark.parametrize(
    ("method", "options", "culprit"),
    [
        ("entropy", {}, "'entropy'.*max, percentile, kl, mse, aciq"),
        ("mse", {"percentile": 99}, "mse.*percentile"),
        ("percentile", {"percentile": 0}, "not at 0"),
        ("percentile", {"percentile": 101}, "not at 101"),
        ("kl", {"bins": 64}, "64 bins"),
    ],
)
def test_unknown_methods_and_options_are_bad_input(method, options, culprit):
    with pytest.raises(BadInput, match=culprit):
        thresholds(statistics_of(np.ones(4)), method, **options)
