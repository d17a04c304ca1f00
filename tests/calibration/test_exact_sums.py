import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tpu_deploy.calibration.exact_sums import ExactSums

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
tables = npst.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=finite)
quick = settings(derandomize=True, max_examples=60, deadline=None)


@quick
@given(tables)
def test_a_sum_is_the_exact_one_rounded_once(values):
    sums = ExactSums(3)
    sums.add(values)
    assert sums.divided(1).tolist() == [math.fsum(column) for column in values.T]


@quick
@given(tables, st.randoms(use_true_random=False), st.integers(0, 12))
def test_order_and_grouping_leave_every_place_as_it_is(values, random, cut):
    once, first, second = ExactSums(3), ExactSums(3), ExactSums(3)
    once.add(values)
    shuffled = list(values)
    random.shuffle(shuffled)
    for row in shuffled[:cut]:
        first.add(row)
    for row in shuffled[cut:]:
        second.add(row)
    second.merge(first)
    ours, theirs = second.settled(), once.settled()
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[place], theirs[place]) for place in ours)


def test_what_cancels_leaves_nothing_but_the_rest():
    sums = ExactSums(1)
    for value in (1e300, 1.0, -1e300, 2.0**-1074):
        sums.add(np.array([value]))
    assert sums.divided(1)[0] == 1.0
    sums.add(np.array([-1.0]))
    assert sums.divided(1)[0] == 2.0**-1074


def test_a_mean_is_rounded_once():
    sums = ExactSums(1)
    sums.add(np.full((3, 1), 0.1))
    assert sums.divided(3)[0] == 0.1
