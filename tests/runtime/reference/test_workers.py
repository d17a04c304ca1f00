import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.runtime.reference.workers import PIECE, Workers, part_of, pieces


@settings(derandomize=True, deadline=None, max_examples=60)
@given(shape=st.lists(st.sampled_from([1, 2, 3, 50, 700]), min_size=1, max_size=4), threads=st.integers(1, 5))
def test_pieces_cut_an_array_into_contiguous_parts_once(shape, threads):
    if np.prod(shape) > 2_000_000:
        shape = shape[:2]
    seen = np.zeros(shape, np.uint8)
    for index in pieces(shape, threads):
        part = seen[index]
        assert part.flags.c_contiguous and 0 < part.size <= PIECE
        part += 1
    assert (seen == 1).all()


def test_a_piece_reads_what_it_needs_of_a_broadcast_operand():
    result = np.empty((4, 5, 6))
    index = (slice(1, 2), slice(2, 4))
    for shape in [(4, 5, 6), (1, 5, 6), (5, 6), (5, 1), (6,), (1,), (4, 1, 1)]:
        operand = np.arange(np.prod(shape)).reshape(shape)
        whole = np.broadcast_to(operand, result.shape)[index]
        np.testing.assert_array_equal(np.broadcast_to(part_of(operand, index, 3), whole.shape), whole)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_tasks_run_once_each_and_the_first_failure_is_raised(threads):
    workers, done = Workers(threads), []
    workers.run([lambda i=i: done.append(i) for i in range(50)])
    assert sorted(done) == list(range(50))

    def fail() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        workers.run([fail, *[lambda: None] * 5])


def test_scratch_memory_belongs_to_a_thread():
    workers, found = Workers(2), []
    thread = threading.Thread(target=lambda: found.append(workers.scratch(10)))
    mine = workers.scratch(10)
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, found[0])
    assert np.shares_memory(mine, workers.scratch(5))
