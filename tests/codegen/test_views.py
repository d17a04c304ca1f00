"""Storages: slices, transpositions, reshapes and broadcasts by strides, against numpy's own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.views import Storage, canonical_axes, contiguous_strides, dims_of, rows_axes

PROPERTY = settings(derandomize=True, max_examples=100, deadline=None)
BYTE = np.dtype(np.uint16)

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def gathered(storage: Storage, memory):
    """The elements of a storage, each fetched by its own address."""
    index = np.full(storage.shape, storage.offset)
    for axis, (size, stride) in enumerate(zip(storage.shape, storage.strides, strict=True)):
        index = index + (np.arange(size) * stride).reshape([-1 if a == axis else 1 for a in range(len(storage.shape))])
    return memory[index]


@st.composite
def moved(draw):
    """A storage after a few moves, the array that numpy makes by the same moves, and the memory behind both."""
    shape = draw(shapes)
    memory = np.arange(int(np.prod(shape)), dtype=np.uint16)
    storage, array = Storage.contiguous("b", BYTE, shape), memory.reshape(shape)
    for _ in range(draw(st.integers(0, 4))):
        storage, array = draw(st.sampled_from([_slice, _permute, _reshape, _broadcast]))(draw, storage, array)
    return storage, array, memory


def _slice(draw, storage, array):
    starts, steps, sizes = [], [], []
    for size in array.shape:
        step, start = draw(st.sampled_from([1, 1, 2, 3, -1])), draw(st.integers(0, size - 1))
        longest = (size - start + step - 1) // step if step > 0 else start + 1
        starts.append(start)
        steps.append(step)
        sizes.append(draw(st.integers(1, longest)))
    stops = [a + k * s for a, k, s in zip(starts, sizes, steps, strict=True)]
    index = tuple(slice(a, b if b >= 0 else None, s) for a, b, s in zip(starts, stops, steps, strict=True))
    return storage.sliced(starts, steps, sizes), array[index]


def _permute(draw, storage, array):
    order = draw(st.permutations(range(array.ndim)))
    return storage.permuted(order), array.transpose(order)


def _reshape(draw, storage, array):
    kept = [k for k in array.shape if k != 1]
    other = draw(st.sampled_from([(array.size,), (1, *kept), (*kept, 1), tuple(kept) or (1,), array.shape[::-1]]))
    seen = storage.reshaped(other)
    return (storage, array) if seen is None else (seen, array.reshape(other))


def _broadcast(draw, storage, array):
    shape = tuple(draw(st.integers(1, 4)) if k == 1 else k for k in array.shape)
    shape = (*draw(st.sampled_from([(), (2,)])), *shape) if len(shape) < 6 else shape
    return storage.broadcast_to(shape), np.broadcast_to(array, shape)


@PROPERTY
@given(moved())
def test_moves_of_a_storage_are_numpys_moves(case):
    storage, array, memory = case
    assert storage.shape == array.shape
    assert (gathered(storage, memory) == array).all()


@PROPERTY
@given(moved())
def test_seen_as_n_c_h_w_every_element_keeps_its_place(case):
    storage, array, memory = case
    rank = len(storage.shape)
    for axes in (canonical_axes(rank), rows_axes(rank)):
        found = storage.as_nchw(axes)
        if found is None:
            continue
        dims, strides = found
        assert dims == dims_of(storage.shape, axes)
        flat = Storage("b", BYTE, dims, strides, storage.offset)
        order = [a for group in axes for a in group]
        assert (gathered(flat, memory).reshape(-1) == array.transpose(order).reshape(-1)).all()


@PROPERTY
@given(shapes, st.data())
def test_a_contiguous_storage_can_be_seen_under_every_shape_and_axis_map(shape, data):
    storage = Storage.contiguous("b", BYTE, shape)
    assert storage.is_contiguous and storage.strides == contiguous_strides(shape)
    other = data.draw(st.permutations(shape))
    assert storage.reshaped(other) == Storage.contiguous("b", BYTE, other)
    assert storage.as_nchw(canonical_axes(len(shape))) is not None
    assert storage.as_nchw(rows_axes(len(shape))) is not None


@PROPERTY
@given(moved())
def test_is_contiguous_is_what_numpy_says(case):
    storage, _, memory = case
    where = gathered(storage, np.arange(memory.size)).reshape(-1)
    assert storage.is_contiguous == (np.diff(where) == 1).all()


def test_merged_axes_that_do_not_follow_each_other_have_no_strides():
    turned = Storage.contiguous("b", BYTE, (2, 3, 4, 5, 6)).permuted((0, 1, 3, 2, 4))
    assert turned.as_nchw(canonical_axes(5)) is None
    assert turned.reshaped((6, 120)) is None
    assert turned.seen_as((2, 3, 5, 24)) is None


def test_a_shape_that_neither_reshapes_nor_broadcasts_is_not_seen():
    storage = Storage.contiguous("b", BYTE, (3, 1, 4))
    assert storage.seen_as((3, 5, 4)).strides == (4, 0, 1)
    assert storage.seen_as((2, 3, 1, 4)).strides[0] == 0
    assert storage.seen_as((3, 2, 5)) is None
    assert storage.seen_as((4,)) is None
