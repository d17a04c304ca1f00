import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tpu_deploy.calibration.histogram import BINS, Histogram, coarsened, exponent_of

values = npst.arrays(
    np.float32,
    st.integers(1, 30),
    elements=st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False), st.just(0.0), st.floats(-8, 8, width=32)
    ),
)
quick = settings(derandomize=True, max_examples=60, deadline=None)


def counted(parts: list[np.ndarray]) -> Histogram:
    histogram, magnitude = Histogram(), 0.0
    for part in parts:
        magnitude = max(magnitude, float(np.abs(part).max()))
        histogram.add(part, magnitude)
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    return a.exponent == b.exponent and a.zeros == b.zeros and np.array_equal(a.counts, b.counts)


@quick
@given(st.lists(values, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_counts_depend_neither_on_the_split_nor_on_the_order(parts, random):
    at_once = counted([np.concatenate(parts)])
    random.shuffle(parts)
    assert same(counted(parts), at_once)


@quick
@given(values, values, values)
def test_merging_is_associative_and_equals_counting_together(a, b, c):
    left, right, tail = counted([a]), counted([b]), counted([c])
    left.merge(right)
    left.merge(tail)
    other, tail = counted([b]), counted([c])
    other.merge(tail)
    start = counted([a])
    start.merge(other)
    assert same(left, start)
    assert same(left, counted([np.concatenate([a, b, c])]))


@quick
@given(values)
def test_each_value_is_counted_in_the_bin_its_definition_says(array):
    histogram = counted([array])
    width = 2.0**histogram.exponent / BINS
    expected = np.zeros(2 * BINS, np.int64)
    np.add.at(expected, BINS + np.trunc(array.astype(np.float64) / width).astype(int), 1)
    assert np.array_equal(histogram.counts, expected)
    assert histogram.zeros == np.count_nonzero(array == 0)
    assert histogram.counts[0] == 0


@quick
@given(values, st.integers(0, 15))
def test_coarsening_is_counting_on_a_coarser_grid(array, doublings):
    fine, coarse = counted([array]), Histogram()
    coarse.add(array, float(np.abs(array).max()) * 2.0**doublings)
    grown = max(coarse.exponent - fine.exponent, 0)
    assert np.array_equal(coarsened(fine.counts, grown), coarse.counts)


@quick
@given(st.floats(min_value=0, max_value=float(np.finfo(np.float32).max)))
def test_the_grid_holds_its_magnitude_and_is_at_least_half_used(magnitude):
    exponent = exponent_of(magnitude)
    assert magnitude < 2.0**exponent
    assert magnitude >= 2.0 ** (exponent - 1) or magnitude < 2.0**-100


def test_weighted_values_count_as_often_as_their_weight():
    once, thrice = Histogram(), Histogram()
    array = np.array([0, 1.5, -2], np.float32)
    once.add(np.tile(array, 3), 2.0)
    thrice.add(array, 2.0, 3)
    assert same(once, thrice)
