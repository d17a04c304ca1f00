"""DMA commands move exactly the bytes they are for: executed here by their fields alone, held against numpy."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.chips import chip
from tpu_deploy.codegen import transfers
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides
from tpu_deploy.codegen.views import Storage, contiguous_strides

CHIP = chip("bm1684x")
PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)
MAX_ROW_STRIDE = 128
TYPES = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}


@dataclass
class Memory:
    """Bytes of the context, of the coefficients, and of each lane (a part of its local memory)."""

    context: np.ndarray
    coefficients: np.ndarray
    local: np.ndarray = field(default_factory=lambda: np.zeros((CHIP.lanes, 1 << 16), np.uint8))

    @staticmethod
    def of(size: int) -> "Memory":
        rng = np.random.default_rng(size)
        return Memory(*(rng.integers(1, 256, size).astype(np.uint8) for _ in range(2)))

    def execute(self, commands: list[PlannedCommand]) -> None:
        for command in commands:
            if command.instruction == "DMA_matrix":
                self._matrix(command)
            else:
                self._tensor(command)

    def _tensor(self, command: PlannedCommand) -> None:
        fields = command.fields
        prefix = "dst" if fields.get("fill_constant_en") else "src"
        dims = tuple(fields[f"{prefix}_{k}size"] for k in "nchw")
        itemsize = {0: 1, 3: 2, 4: 4}[fields["src_data_format"]]
        assert all(1 <= size <= CHIP.max_size for size in dims), dims
        target = self._index(command.addresses["dst"], dims, self._strides(fields, "dst"), itemsize, command.writes)
        if fields.get("fill_constant_en"):
            value = np.array(fields["constant_value"], np.uint32).astype(TYPES[itemsize])
            self._bytes(command.addresses["dst"])[target] = np.frombuffer(value.tobytes(), np.uint8)
            return
        source = self._index(command.addresses["src"], dims, self._strides(fields, "src"), itemsize, command.reads)
        self._bytes(command.addresses["dst"])[target] = self._bytes(command.addresses["src"])[source]

    def _matrix(self, command: PlannedCommand) -> None:
        fields = command.fields
        rows, width = fields["src_hsize"], fields["src_wsize"]
        lanes, words = fields["dst_csize"], fields["dst_wsize"]
        assert (rows, width) == (fields["dst_nsize"], lanes * words) and max(rows, width) <= CHIP.max_size
        begin = command.addresses["src"].offset
        source = self.coefficients[begin : begin + rows * width * 4].reshape(rows, lanes, words * 4)
        start = command.addresses["dst"].offset
        for row in range(rows):
            first = start + row * fields["dst_nstride"] * 4
            self.local[:lanes, first : first + words * 4] = source[row]

    @staticmethod
    def _strides(fields, end: str) -> tuple[int, ...]:
        return tuple(fields[f"{end}_{k}stride"] for k in "nchw")

    def _bytes(self, address: Address) -> np.ndarray:
        return {"local": self.local, "context": self.context, "coefficients": self.coefficients}[address.space.value]

    def _index(self, address: Address, dims, strides, itemsize: int, spans: tuple[LocalRange, ...]):
        """Where each byte of a tensor lies; (lane, offset) in local memory."""
        assert address.offset % itemsize == 0
        assert 0 < strides[3] * itemsize <= MAX_ROW_STRIDE, strides
        n, c, h, w = np.ix_(*(np.arange(size) for size in dims))
        if address.space is not Space.LOCAL:
            elements = n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3]
            return (address.offset + elements * itemsize)[..., None] + np.arange(itemsize)
        lane, row = (address.lane + c) % CHIP.lanes, (address.lane + c) // CHIP.lanes
        elements = n * strides[0] + row * strides[1] + h * strides[2] + w * strides[3]
        offsets = (address.offset + elements * itemsize)[..., None] + np.arange(itemsize)
        assert any(s.start <= offsets.min() and offsets.max() < s.stop for s in spans), "touches more than it says"
        return np.broadcast_to(lane[..., None], offsets.shape), offsets


@st.composite
def scattered(draw, shape, dtype, begin: int) -> Storage:
    """A storage of a shape, its axes in any order in memory, with gaps."""
    order = draw(st.permutations(range(len(shape))))
    strides, step = [0] * len(shape), 1
    for axis in order:
        if step < 5000:
            step += draw(st.sampled_from([0, 0, 0, 1, 40]))
        strides[axis] = step
        step *= shape[axis]
    return Storage("b", dtype, shape, tuple(strides), begin)


def span_of(storage: Storage) -> int:
    return storage.offset + 1 + sum((k - 1) * s for k, s in zip(storage.shape, storage.strides, strict=True) if s > 0)


def array_of(memory: np.ndarray, storage: Storage) -> np.ndarray:
    """The elements of a storage, by numpy's strides."""
    flat = memory[: memory.size // 4 * 4].view(storage.dtype)
    strides = [s * storage.dtype.itemsize for s in storage.strides]
    return np.lib.stride_tricks.as_strided(flat[storage.offset :], storage.shape, strides)


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=6).map(tuple)
dtypes = st.sampled_from(list(TYPES.values()))


@PROPERTY
@given(shapes, dtypes, st.data())
def test_copies_in_global_memory_move_every_element_and_touch_nothing_else(shape, dtype, data):
    source = data.draw(scattered(shape, dtype, 3))
    target = data.draw(scattered(shape, dtype, span_of(source) + 5))
    check_copy(source, target)


def check_copy(source: Storage, target: Storage) -> list[PlannedCommand]:
    memory = Memory.of((span_of(target) + 9) // 4 * 4 * target.dtype.itemsize)
    expected = memory.context.copy()
    array_of(expected, target)[...] = array_of(memory.context, source)
    here = Address(Space.CONTEXT, 0)
    commands = transfers.copy_global((here, source), (here, target), CHIP, "t")
    memory.execute(commands)
    assert (memory.context == expected).all()
    return commands


@pytest.mark.parametrize(
    "shape, order, commands",
    [
        ((70_001,), (0,), 2),
        ((3, 70_001), (1, 0), 2),
        ((65_535,), (0,), 1),
        ((2, 65_536), (1, 0), 2),
        ((140_000, 2), (0, 1), None),
        ((1, 5, 1, 40, 1, 9), (5, 4, 3, 2, 1, 0), 1),
    ],
)
def test_sizes_beyond_the_fields_are_cut(shape, order, commands):
    dtype = TYPES[1]
    strides, step = [0] * len(shape), 1
    for axis in order:
        strides[axis], step = step, step * shape[axis]
    source = Storage("b", dtype, shape, tuple(strides), 0)
    made = check_copy(source, Storage("b", dtype, shape, contiguous_strides(shape), step + 3))
    assert commands is None or len(made) == commands


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_copies_run_backwards_along_axes(axes):
    dtype, shape = TYPES[2], (4, 3, 5)
    whole = Storage("b", dtype, shape, contiguous_strides(shape), 0)
    starts = [k - 1 if a in axes else 0 for a, k in enumerate(shape)]
    source = whole.sliced(starts, [-1 if a in axes else 1 for a in range(3)], shape)
    target = Storage("b", dtype, shape, contiguous_strides(shape), 60)
    memory = Memory.of(240)
    before = memory.context[:120].view(np.uint16).reshape(shape).copy()
    here = Address(Space.CONTEXT, 0)
    memory.execute(transfers.copy_global((here, source), (here, target), CHIP, "t"))
    assert (memory.context[120:].view(np.uint16).reshape(shape) == np.flip(before, axes)).all()


@PROPERTY
@given(shapes, dtypes, st.data())
def test_fills_write_every_element_and_touch_nothing_else(shape, dtype, data):
    target = data.draw(scattered(shape, dtype, 2))
    memory = Memory.of((span_of(target) + 9) // 4 * 4 * dtype.itemsize)
    expected = memory.context.copy()
    array_of(expected, target)[...] = np.array(-5).astype(dtype)
    memory.execute(transfers.fill_global((Address(Space.CONTEXT, 0), target), -5, CHIP, "t"))
    assert (memory.context == expected).all()


boxes = st.tuples(st.integers(1, 3), st.sampled_from([1, 5, 64, 70, 129]), st.integers(1, 6), st.integers(1, 40))


@PROPERTY
@given(boxes, dtypes, st.integers(0, 63), st.booleans(), st.data())
def test_moves_between_global_and_local_memory_keep_channel_k_k_lanes_on(dims, dtype, lane, to_local, data):
    outside = data.draw(scattered(dims, dtype, 3))
    memory = Memory.of((span_of(outside) + 9) // 4 * 4 * dtype.itemsize)
    rng = np.random.default_rng(1)
    memory.local[...] = rng.integers(1, 256, memory.local.shape)
    groups = -(-(lane + dims[1]) // CHIP.lanes)
    strides = aligned_strides((dims[0], groups * CHIP.lanes, *dims[2:]), dtype.itemsize, CHIP)
    inside = Address(Space.LOCAL, 128, lane)
    span = (LocalRange(128, 128 + dims[0] * strides[0] * dtype.itemsize),)
    ends = (Address(Space.CONTEXT, outside.offset * dtype.itemsize), outside.strides), (inside, strides)
    moved = [array_of(memory.context, outside).copy(), local_tensor(memory, dims, dtype, lane, strides)]
    near, far = ends if to_local else ends[::-1]
    reads, writes = ((), span) if to_local else (span, ())
    memory.execute(transfers.move(dtype.itemsize, dims, near, far, reads, writes, CHIP, "t"))
    found = [array_of(memory.context, outside), local_tensor(memory, dims, dtype, lane, strides)]
    assert (found[to_local] == moved[not to_local]).all()
    assert (found[not to_local] == moved[not to_local]).all()


def local_tensor(memory: Memory, dims, dtype, lane: int, strides) -> np.ndarray:
    """The elements in local memory, fetched channel by channel."""
    made = np.empty(dims, dtype)
    for c in range(dims[1]):
        slot, at = divmod(lane + c, CHIP.lanes)
        row = memory.local[at, 128:].view(dtype)[slot * strides[1] :]
        steps = [s * dtype.itemsize for s in (strides[0], strides[2], strides[3])]
        made[:, c] = np.lib.stride_tricks.as_strided(row, (dims[0], *dims[2:]), steps)
    return made


def test_rows_too_far_apart_for_a_column_become_their_own_rows():
    dims, dtype = (1, 2, 3, 50), TYPES[4]
    outside = Storage("b", dtype, dims, (1, 1, 2, 33), 0)
    memory = Memory.of(4 * 2000)
    strides = aligned_strides(dims, 4, CHIP)
    span = LocalRange(0, aligned_bytes(dims, 4, CHIP))
    commands = transfers.move(
        4,
        dims,
        (Address(Space.CONTEXT, 0), outside.strides),
        (Address(Space.LOCAL, 0), strides),
        (),
        (span,),
        CHIP,
        "t",
    )
    memory.execute(commands)
    assert (memory.local[1, : 3 * 50 * 4].view(np.uint32) == array_of(memory.context, outside)[0, 1].reshape(-1)).all()


@PROPERTY
@given(st.integers(1, 64), st.integers(1, 9000))
def test_constants_come_to_their_lanes_whole(lanes, row_bytes):
    rows, words = transfers.constant_shape(lanes, row_bytes, CHIP)
    assert rows * words * 4 >= row_bytes and lanes * words <= CHIP.max_size
    memory = Memory.of(rows * words * lanes * 4)
    memory.execute([transfers.load_matrix(Address(Space.COEFFICIENTS, 0), lanes, rows, words, 0, "t")])
    expected = memory.coefficients.reshape(rows, lanes, words * 4).transpose(1, 0, 2).reshape(lanes, -1)
    assert (memory.local[:lanes, : rows * words * 4] == expected).all()
