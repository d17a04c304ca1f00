"""Cycles of the commands of the GDMA: bytes moved at the rate their direction and strides allow.

Global memory is reached through pages of 4 KiB, of which four in a row lie in different channels: a transfer whose
blocks all start in the same ones is slower. Rows of less than 256 bytes take as much of the rate as whole ones. Source:
what the vendor's `atomic_gdma_*_get_profile` answer, float32 rounding included, which these equal while a transfer
stays below 2^31 bytes and strides below 2^31 elements. One case is corrected: a move whose row stride in global memory
is 0, as may be written where there is one row, costs nothing by those functions; here it costs what rows that follow
each other do, and is marked as estimated.
"""

from __future__ import annotations

import struct

from tpu_deploy.codegen.isa.addresses import GDMA_LOCAL, STATIC
from tpu_deploy.codegen.isa.operations import DmaTensorOp
from tpu_deploy.codegen.timing_cost import Cost, Fields, Formulas

GDMA_FORMULAS = Formulas()
"""The cost of each family of GDMA instructions."""

_IN, _OUT, _WITHIN_GLOBAL, _WITHIN_LOCAL = range(4)
_DIRECTIONS = ("global->local", "local->global", "global->global", "local->local")

# Bytes a cycle, by direction where it matters.
_RATES = (58.0, 44.0, 28.0, 28.0)
_REORDERING_RATES = (64.0, 64.0, 64.0, 32.0)
_FILLING_RATE = 58.0
_GENERAL_RATE = 64.0
_TENSOR_FACTOR = 1.073741824  # what the tensor move takes beyond its rate: 2^30 / 10^9
_MATRIX_TRANSPOSED = 0.75  # of the rate
_SCATTERED_ELEMENTS = 0.2265625  # rate, in elements a cycle of one byte each, of filling single elements

_ROW = 256
_PAGE_SHIFT = 12
_PAGE = 1 << _PAGE_SHIFT
_WINDOW = 4 * _PAGE
_ITEMSIZE = (1, 2, 4, 2, 4, 2, 1, 1)
"""Bytes of an element by the code of its type."""

_SINGLE = struct.Struct("f")


def _single(value: float) -> float:
    """The float32 nearest to the value."""
    rounded: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    return rounded


def _product(*factors: int) -> float:
    """The product as float32, rounded after each factor."""
    product = float(factors[0])
    for factor in factors[1:]:
        product = _single(product * _single(factor))
    return product


def _is_local(low: int, high: int) -> bool:
    return high == 0 and GDMA_LOCAL <= low < STATIC


def _direction(f: Fields) -> int:
    to_local = _is_local(f["dst_start_addr_l32"], f["dst_start_addr_h8"])
    if _is_local(f["src_start_addr_l32"], f["src_start_addr_h8"]):
        return _WITHIN_LOCAL if to_local else _OUT
    return _IN if to_local else _WITHIN_GLOBAL


def _rate_of_rows(rate: float, row_bytes: int) -> float:
    """The rate left when every row of fewer than 256 bytes takes as long as one of 256."""
    return rate if row_bytes >= _ROW else rate * max(1, row_bytes) / _ROW


@GDMA_FORMULAS.of("tensor")
def _tensor(f: Fields) -> Cost:
    if f["fill_constant_en"]:
        return _fill(f)
    if f["cmd_special_function"] == DmaTensorOp.BROADCAST:
        return _broadcast(f)
    direction, size = _direction(f), _ITEMSIZE[f["src_data_format"]]
    n, c, h, w = f["src_nsize"], f["src_csize"], f["src_hsize"], f["src_wsize"]
    moved = n * c * h * w * size
    rate = _rate_of_rows(_RATES[direction], _tensor_row(f, h, w) * size)
    if direction == _OUT:
        rate *= _target_pages(f, size).bit_count() / 4
    elif direction != _WITHIN_LOCAL:
        pages = _source_pages(f, size)
        rate *= pages.bit_count() / 4
        if direction == _WITHIN_GLOBAL:
            rate *= (pages | _target_pages(f, size)).bit_count() / 4
    cycles = int(_single(_single(_single(moved) / rate) * _TENSOR_FACTOR)) if rate else 0
    return Cost(cycles, moved, _DIRECTIONS[direction], _has_row_stride_zero(f, direction))


def _has_row_stride_zero(f: Fields, direction: int) -> bool:
    """Whether the vendor's count of pages fails, on a side in global memory."""
    sides = {_IN: ("src",), _OUT: ("dst",), _WITHIN_GLOBAL: ("src", "dst"), _WITHIN_LOCAL: ()}[direction]
    return bool(f["stride_enable"]) and any(f[f"{side}_hstride"] == 0 for side in sides)


def _tensor_row(f: Fields, h: int, w: int) -> int:
    """Elements that are contiguous on both sides."""
    if not f["stride_enable"] or (f["src_hstride"] == w and f["dst_hstride"] == w):
        return h * w
    return w if f["src_wstride"] == 1 and f["dst_wstride"] == 1 else 1


def _source_pages(f: Fields, size: int) -> int:
    h, w = f["src_hsize"], f["src_wsize"]
    row, c_stride = (f["src_hstride"], f["src_cstride"]) if f["stride_enable"] else (w, _dense_plane(h * w, size))
    return _pages(f["src_nsize"], f["src_csize"], f["src_nstride"] * size, c_stride * size, (row or w) * h * size)


def _target_pages(f: Fields, size: int) -> int:
    h, w, special = f["src_hsize"], f["src_wsize"], f["cmd_special_function"]
    n, c = f["src_nsize"], f["src_csize"]
    if special == DmaTensorOp.TRANSPOSE:
        n, c = c, n
    elif special in (DmaTensorOp.COLLECT, DmaTensorOp.DISTRIBUTE):
        c = w
    row, c_stride = (f["dst_hstride"], f["dst_cstride"]) if f["stride_enable"] else (w, _dense_plane(h * w, size))
    return _pages(n, c, f["dst_nstride"] * size, c_stride * size, (row or w) * h * size)


def _dense_plane(elements: int, size: int) -> int:
    """What a plane without strides is taken to occupy: whole units of 16 bytes."""
    unit = 16 // size
    return -(-elements // unit) * unit


def _pages(n: int, c: int, n_step: int, c_step: int, block: int) -> int:
    """Which of the first four pages hold parts of any of n x c blocks, as bits; steps and block in bytes."""
    if not block:
        return 0
    (long_step, long_count), (short_step, short_count) = sorted(((n_step, n), (c_step, c)), reverse=True)
    if long_step <= _PAGE:  # no step leaves a page out
        touched = _between(0, long_step * (long_count - 1) + short_step * (short_count - 1))
    else:
        touched = 0
        for start in range(0, min(long_step * long_count, _WINDOW), long_step):
            if short_step <= _PAGE:
                touched |= _between(start, start + short_step * (short_count - 1))
            else:
                for place in range(start, min(start + short_step * short_count, _WINDOW), short_step):
                    touched |= 1 << (place >> _PAGE_SHIFT)
    for _ in range(min(-(-block // _PAGE), 4) - 1):
        touched |= touched << 1
    return touched & 15


def _between(first: int, last: int) -> int:
    """The pages from that of byte `first` to that of byte `last`, as bits, up to the fourth."""
    return (2 << min(last >> _PAGE_SHIFT, 3)) - (1 << (first >> _PAGE_SHIFT))


def _fill(f: Fields) -> Cost:
    shape = n, c, h, w = f["dst_nsize"], f["dst_csize"], f["dst_hsize"], f["dst_wsize"]
    size = _ITEMSIZE[f["src_data_format"]]
    if f["dst_hstride"] == w:
        rate = _rate_of_rows(_FILLING_RATE, h * w * size)
    elif f["dst_wstride"] == 1:
        rate = _rate_of_rows(_FILLING_RATE, w * size)
    else:
        rate = _SCATTERED_ELEMENTS * size
    place = "local" if _is_local(f["dst_start_addr_l32"], f["dst_start_addr_h8"]) else "global"
    return Cost(int(_single(_product(*shape) * size / rate)), n * c * h * w * size, f"constant->{place}")


def _broadcast(f: Fields) -> Cost:
    """The lanes written do not count. Directions out of local memory are estimated."""
    n, h, w = f["src_nsize"], f["src_hsize"], f["src_wsize"]
    size, direction = _ITEMSIZE[f["src_data_format"]], _direction(f)
    dense = f["src_hstride"] == w and f["dst_hstride"] == w
    rate = _rate_of_rows(_FILLING_RATE, w * size * (h if dense else 1))
    cycles = int(_single(_product(n, h, w) * size / rate))
    return Cost(cycles, n * h * w * size, _DIRECTIONS[direction], direction not in (_IN, _WITHIN_LOCAL))


@GDMA_FORMULAS.of("matrix")
def _matrix(f: Fields) -> Cost:
    """A row counts with the part of it that lies in one lane."""
    size, direction = _ITEMSIZE[f["src_data_format"]], _direction(f)
    if direction in (_IN, _WITHIN_LOCAL):
        rows, columns, in_lane, rate = f["src_hsize"], f["src_wsize"], f["dst_wsize"], _RATES[_IN]
    else:
        rows, columns, in_lane, rate = f["dst_hsize"], f["dst_wsize"], f["src_wsize"], _RATES[_OUT]
    rate = _rate_of_rows(rate, in_lane * size)
    if f["cmd_special_function"]:
        rate *= _MATRIX_TRANSPOSED
    cycles = int(_single(_product(rows, columns) * size / rate))
    return Cost(cycles, rows * columns * size, _DIRECTIONS[direction])


def _reorder(f: Fields, *sizes: int, size: int = 0, estimated: bool = False) -> Cost:
    """What moves elements one by one: all of `sizes`, each of `size` bytes."""
    size, direction, count = size or _ITEMSIZE[f["src_data_format"]], _direction(f), 1
    for each in sizes:
        count *= each
    cycles = int(_product(*sizes) * size / _REORDERING_RATES[direction])
    return Cost(cycles, count * size, _DIRECTIONS[direction], estimated)


def _source_sizes(f: Fields) -> tuple[int, int, int, int]:
    return f["src_nsize"], f["src_csize"], f["src_hsize"], f["src_wsize"]


@GDMA_FORMULAS.of("cw_transpose")
def _cw_transpose(f: Fields) -> Cost:
    return _reorder(f, *_source_sizes(f))


@GDMA_FORMULAS.of("gather")
def _gather(f: Fields) -> Cost:
    return _reorder(f, f["src_csize"], f["index_hsize"], f["src_wsize"])


@GDMA_FORMULAS.of("scatter")
def _scatter(f: Fields) -> Cost:
    return _reorder(f, f["src_csize"], f["src_hsize"], f["src_wsize"], estimated=True)


@GDMA_FORMULAS.of("masked_select")
def _masked_select(f: Fields) -> Cost:
    return _reorder(f, *_source_sizes(f), estimated=True)


@GDMA_FORMULAS.of("nonzero")
def _nonzero(f: Fields) -> Cost:
    """Counts by the wider of elements and indices."""
    size = max(_ITEMSIZE[f["src_data_format"]], _ITEMSIZE[f["index_data_format"]])
    return _reorder(f, *_source_sizes(f), size=size, estimated=True)


@GDMA_FORMULAS.of("general")
def _general(f: Fields) -> Cost:
    count, size = f["src_cstride"], _ITEMSIZE[f["src_data_format"]]
    cycles = int(_single(count) * size / _GENERAL_RATE)
    return Cost(cycles, count * size, _DIRECTIONS[_direction(f)], estimated=True)
