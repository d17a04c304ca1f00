"""DMA commands that move boxes of tensors between global and local memory, and within global memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.isa import Precision
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.views import Dims, Storage

FORMAT = {1: int(Precision.I8), 2: int(Precision.I16), 4: int(Precision.I32)}
MAX_COLUMN_STRIDE_BYTES = 128
"""Limit of a w stride. Source: assertion text of the vendor's command generator."""
FULL_MASK = {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}


def _tensor(
    itemsize: int,
    dims: Sequence[int],
    source: tuple[Address, Sequence[int]],
    target: tuple[Address, Sequence[int]],
    local: tuple[tuple[LocalRange, ...], tuple[LocalRange, ...]],
    origin: str,
) -> PlannedCommand:
    fields = {"stride_enable": 1, "nchw_copy": 1, "src_data_format": FORMAT[itemsize], **FULL_MASK}
    for letter, size, near, far in zip("nchw", dims, source[1], target[1], strict=True):
        fields[f"src_{letter}size"] = size
        fields[f"src_{letter}stride"] = near
        fields[f"dst_{letter}stride"] = far
    if dims[2] == 1:  # a single row is a dense one
        fields["src_hstride"] = fields["dst_hstride"] = dims[3]
    addresses = {"src": source[0], "dst": target[0]}
    return PlannedCommand("DMA_tensor", "GDMA", fields, addresses, local[0], local[1], origin)


def _column_fits(stride: int, itemsize: int, size: int) -> bool:
    return size == 1 or 0 < stride * itemsize <= MAX_COLUMN_STRIDE_BYTES


def _pieces(size: int, limit: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, limit):
        yield start, min(limit, size - start)


def _legal_nchw(
    dims: Dims, near: Dims, far: Dims, itemsize: int, chip: Chip
) -> Iterator[tuple[int, int, Dims, Dims, Dims]]:
    """Pieces (near offset, far offset, dims, near strides, far strides) whose sizes and w strides are legal.

    Channels are never cut: they are tied to lanes. Rows that follow each other on both sides become one.
    """
    (n, c, h, w), limit = dims, chip.max_size
    rows_follow = near[2] == w * near[3] and far[2] == w * far[3]
    if rows_follow and h * w <= limit:
        h, w = 1, h * w
    if not (_column_fits(near[3], itemsize, w) and _column_fits(far[3], itemsize, w)):
        for row in range(h):
            for start, count in _pieces(w, limit):
                at_near, at_far = row * near[2] + start * near[3], row * far[2] + start * far[3]
                yield (
                    at_near,
                    at_far,
                    (n, c, count, 1),
                    (near[0], near[1], near[3], 1),
                    (far[0], far[1], far[3], 1),
                )
        return
    near, far = ((*s[:3], s[3] if w > 1 else 1) for s in (near, far))
    for (a, na), (r, nr), (k, nk) in product(_pieces(n, limit), _pieces(h, limit), _pieces(w, limit)):
        at_near = a * near[0] + r * near[2] + k * near[3]
        at_far = a * far[0] + r * far[2] + k * far[3]
        yield at_near, at_far, (na, c, nr, nk), near, far


def move(
    itemsize: int,
    dims: Dims,
    source: tuple[Address, Dims],
    target: tuple[Address, Dims],
    reads: tuple[LocalRange, ...],
    writes: tuple[LocalRange, ...],
    chip: Chip,
    origin: str,
) -> list[PlannedCommand]:
    """Commands that move a box; each end is (address of its first element, strides in elements).

    In local memory channel k of the box lies k lanes on, and the c stride is from one group of 64 channels to the next.
    """
    (begin, near), (end, far) = source, target
    commands = []
    for at_near, at_far, sizes, steps, others in _legal_nchw(dims, near, far, itemsize, chip):
        first = Address(begin.space, begin.offset + at_near * itemsize, begin.lane)
        last = Address(end.space, end.offset + at_far * itemsize, end.lane)
        commands.append(_tensor(itemsize, sizes, (first, steps), (last, others), (reads, writes), origin))
    return commands


def fill_local(
    dims: Dims, strides: Dims, itemsize: int, value: int, address: Address, span: LocalRange, origin: str
) -> PlannedCommand:
    """Fills a box of an aligned tensor in local memory with one bit pattern."""
    fields = {"stride_enable": 1, "fill_constant_en": 1, "src_data_format": FORMAT[itemsize], **FULL_MASK}
    fields["constant_value"] = value
    for letter, size, stride in zip("nchw", dims, strides, strict=True):
        fields[f"dst_{letter}size"] = size
        fields[f"dst_{letter}stride"] = stride
    return PlannedCommand("DMA_tensor", "GDMA", fields, {"dst": address}, (), (span,), origin)


def constant_shape(lanes: int, row_bytes: int, chip: Chip) -> tuple[int, int]:
    """(rows, words a row and lane) of the matrix that brings `row_bytes` to each of `lanes` lanes."""
    per_vector = chip.vector_bytes // 4
    words = -(-row_bytes // 4)
    rows = -(-words // (chip.max_size // lanes // per_vector * per_vector))
    return rows, round_up(-(-words // rows), per_vector)


def load_matrix(source: Address, lanes: int, rows: int, words: int, offset: int, origin: str) -> PlannedCommand:
    """Loads (rows, lanes * words) 32-bit words: lane k gets words [k * words, (k + 1) * words) of each row."""
    fields = {
        "stride_enable": 1,
        "src_data_format": FORMAT[4],
        "src_hsize": rows,
        "src_wsize": lanes * words,
        "src_hstride": lanes * words,
        "dst_nsize": rows,
        "dst_csize": lanes,
        "dst_wsize": words,
        "dst_nstride": words,
        "dst_cstride": words,
        **FULL_MASK,
    }
    span = LocalRange(offset, offset + rows * words * 4)
    addresses = {"src": source, "dst": Address(Space.LOCAL, offset)}
    return PlannedCommand("DMA_matrix", "GDMA", fields, addresses, (), (span,), origin)


def _merged(shape: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The shape without axes of size 1, adjacent axes that follow each other in all strides joined."""
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        steps = [s[axis] for s in strides]
        if sizes and all(k[-1] == step * size for k, step in zip(kept, steps, strict=True)):
            sizes[-1] *= size
            for k, step in zip(kept, steps, strict=True):
                k[-1] = step
        else:
            sizes.append(size)
            for k, step in zip(kept, steps, strict=True):
                k.append(step)
    return sizes, kept


def _split_sizes(size: int, limit: int) -> tuple[int, int, int]:
    """(outer, inner, rest): size = outer * inner + rest with outer, inner <= limit."""
    if size <= limit:
        return 1, size, 0
    inner = limit
    return size // inner, inner, size % inner


def _four(
    sizes: list[int], strides: list[list[int]], itemsize: int, limit: int
) -> Iterator[tuple[list[int], Dims, list[Dims]]]:
    """Legal 4-D pieces of a strided box: (offset per side, dims, strides per side)."""
    if not sizes:
        sizes, strides = [1], [[1] for _ in strides]
    fits = all(_column_fits(s[-1], itemsize, sizes[-1]) for s in strides)
    if not fits:
        sizes, strides = [*sizes, 1], [[*s, 1] for s in strides]
    outer, inner, rest = _split_sizes(sizes[-1], limit)
    tails = [(0, outer, inner), *([(outer * inner, 1, rest)] if rest else [])]
    for start, blocks, count in tails:
        head = sizes[:-1]
        whole = [*head, blocks, count]
        steps = [[*s[:-1], s[-1] * inner, s[-1]] for s in strides]
        loops, kept = whole[:-4], whole[-4:]
        ranges = [range(k) for k in loops]
        cut = [list(_pieces(k, limit)) for k in kept]
        for index in product(*ranges):
            for piece in product(*cut):
                offsets = []
                for step, side in zip(steps, strides, strict=True):
                    at = start * side[-1] + sum(i * s for i, s in zip(index, step, strict=False))
                    at += sum(p[0] * s for p, s in zip(piece, step[len(loops) :], strict=True))
                    offsets.append(at)
                pad = 4 - len(kept)
                dims = (1,) * pad + tuple(p[1] for p in piece)
                sides = [(0,) * pad + tuple(s[len(loops) :]) for s in steps]
                yield offsets, dims, sides  # type: ignore[misc]


def copy_global(
    source: tuple[Address, Storage], target: tuple[Address, Storage], chip: Chip, origin: str
) -> list[PlannedCommand]:
    """Commands that copy one storage to another of the same shape; addresses are of the buffers' first bytes."""
    itemsize = source[1].dtype.itemsize
    commands = []
    for near, far, shape in _forward(source[1], target[1]):
        sizes, strides = _merged(shape, near.strides, far.strides)
        for (a, b), dims, (s, t) in _four(sizes, strides, itemsize, chip.max_size):
            begin = Address(source[0].space, source[0].offset + (near.offset + a) * itemsize)
            end = Address(target[0].space, target[0].offset + (far.offset + b) * itemsize)
            commands.append(_tensor(itemsize, dims, (begin, s), (end, t), ((), ()), origin))
    return commands


def _forward(source: Storage, target: Storage) -> Iterator[tuple[Storage, Storage, tuple[int, ...]]]:
    """The copy as copies without negative strides: axes that run backwards are taken index by index."""
    backwards = [a for a, s in enumerate(source.strides) if s < 0 and source.shape[a] > 1]
    if not backwards:
        yield source, target, source.shape
        return
    axis = backwards[0]
    one = tuple(1 if a == axis else k for a, k in enumerate(source.shape))
    steps = (1,) * len(source.shape)
    for index in range(source.shape[axis]):
        starts = tuple(index if a == axis else 0 for a in range(len(source.shape)))
        part = source.sliced(starts, steps, one)
        fixed = tuple(0 if a == axis else s for a, s in enumerate(part.strides))
        yield from _forward(
            Storage(part.buffer, part.dtype, one, fixed, part.offset), target.sliced(starts, steps, one)
        )


def fill_global(target: tuple[Address, Storage], value: int, chip: Chip, origin: str) -> list[PlannedCommand]:
    """Commands that write one stored integer to every element of a storage."""
    base, storage = target
    itemsize = storage.dtype.itemsize
    commands = []
    sizes, strides = _merged(storage.shape, storage.strides)
    for (at,), dims, (steps,) in _four(sizes, strides, itemsize, chip.max_size):
        fields = {"stride_enable": 1, "fill_constant_en": 1, "src_data_format": FORMAT[itemsize], **FULL_MASK}
        fields["constant_value"] = value & ((1 << 8 * itemsize) - 1)
        for letter, size, stride in zip("nchw", dims, steps, strict=True):
            fields[f"dst_{letter}size"] = size
            fields[f"dst_{letter}stride"] = stride
        address = Address(base.space, base.offset + (storage.offset + at) * itemsize)
        commands.append(PlannedCommand("DMA_tensor", "GDMA", fields, {"dst": address}, (), (), origin))
    return commands
