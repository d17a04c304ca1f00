"""Cycles of the commands of the TIU: closed forms of how many passes of its vector and cube units a command takes.

A pass takes 64 bytes of a row in each of the 64 lanes; so a tensor costs n x groups of lanes x vectors in a plane,
times what the operation takes per vector. The widest operand, tensor or constant alike, says how many elements a vector
has. Source: what the vendor's `atomic_*_get_profile` answer; the costs equal that while a plane stays below 2^31
elements. Where those functions refuse a command or have no counterpart for it, the cost is marked as estimated: element
types they abort on count by their width, LAR as an AR of the same size. MM does not ask whether its left side is
transposed, which matters only beside a bias; PL_GATHER_RECTANGLE counts 1 because the vendor never tells its size.
"""

from __future__ import annotations

from collections import defaultdict

from tpu_deploy.codegen.isa.addresses import LANES
from tpu_deploy.codegen.isa.operations import (
    ArithmeticOp,
    LineGatherOp,
    Matrix2Op,
    SearchGatherOp,
    SfuOp,
    TransposeOp,
)
from tpu_deploy.codegen.isa.precision import Precision
from tpu_deploy.codegen.timing_cost import Cost, Fields, Formulas

TIU_FORMULAS = Formulas()
"""The cost of each family of TIU instructions."""

_LANE_SHIFT = 18  # an address is lane << 18 | offset
_BANK_SHIFT = 14
_REQUANTIZED = 16  # elements a lane requantizes in one cycle
_PRODUCT_COLUMNS = 4  # of MM2 in one cycle
_NEWTON_CYCLES, _DIVISION_CYCLES, _RSQRT_CYCLES = 8, 7, 30
_STRIDED_WINDOW = 3  # times as long when a pool or depthwise window moves by more than one in both directions

_IN_VECTOR = (64, 32, 16, 32, 16, 32, 64, 64)
"""Elements in 64 bytes by the code of their type."""

_JUDGED = Precision.BF16.value
"""The last element type the vendor's cost functions take."""

CUBE = ((4, 64), (4, 32), (16, 1), (4, 32), (16, 1), (4, 32), (4, 64), (4, 64))
"""(pixels, input channels) the cube unit takes in one cycle, by the code of the input's type."""


def _codes(operations: str) -> frozenset[int]:
    return frozenset(ArithmeticOp[name].value for name in operations.split())


_SLOW_ON_FIRST = _codes("NOT LOGIC_SHIFT CAST ARITHMETIC_SHIFT CIRCULAR_SHIFT ABS")
"""Arithmetic that takes twice as long when its result lies where its first operand lies."""

_SLOW_ON_EITHER = _codes(
    "MUL ADD SUB MAX MIN AND OR XOR SELECT_GREATER SELECT_EQUAL SELECT_LESS ADDS SUBS MULS MUL_DOUBLE_HIGH"
    " ABS_DIFFERENCE"
)
"""Arithmetic that takes twice as long when its result lies where either of its operands lies."""


def _up(value: int, unit: int) -> int:
    return -(-value // unit)


def _groups(f: Fields) -> int:
    """Groups of 64 lanes that the channels of the result occupy, counted from lane 0."""
    return -(-(f["res0_c"] + (f["res0_addr"] >> _LANE_SHIFT)) // LANES)


def _passes(f: Fields, vector: int) -> int:
    """Vectors of `vector` elements in the result, planes packed densely."""
    return f["res0_n"] * _groups(f) * -(-f["res0_h"] * f["res0_w"] // vector)


def _bank_clash(f: Fields) -> bool:
    """Whether result and first operand start in the same bank."""
    return f["opd0_addr"] >> _BANK_SHIFT == f["res0_addr"] >> _BANK_SHIFT


@TIU_FORMULAS.of("CONV")
def _convolution(f: Fields) -> Cost:
    precision = f["opd0_prec"]
    pixels, channels = CUBE[precision]
    outputs = f["res0_n"] * _up(f["res0_c"], LANES) * _up(f["res0_h"] * f["res0_w"], pixels)
    return Cost(outputs * f["opd1_h"] * f["opd1_w"] * _up(f["opd0_c"], channels), estimated=precision > _JUDGED)


@TIU_FORMULAS.of("PorD")
def _pool_or_depthwise(f: Fields) -> Cost:
    """A kernel of one row packs each row of the result by itself, others pack the plane."""
    precision, kernel_h = f["res0_prec"], f["opd1_h"]
    vector = _IN_VECTOR[precision]
    by_rows = f["res0_n"] * _groups(f) * f["res0_h"] * _up(f["res0_w"], vector)
    cycles = by_rows if kernel_h == 1 else _passes(f, vector)
    if f["res_op_y_str"] > 1 and f["res_op_x_str"] > 1:
        cycles *= _STRIDED_WINDOW
    return Cost(cycles * kernel_h * f["opd1_w"], estimated=precision > _JUDGED)


@TIU_FORMULAS.of("MM")
def _matrix(f: Fields) -> Cost:
    """The last group of left columns is opd1_w wide; a bias and accumulation count as one more inner step each."""
    precision = f["opd0_prec"]
    integer = precision in (Precision.I8, Precision.I16, Precision.I32)
    bias = not f["opd2_const"] and not (integer and f["opd2_addr"] == 0)
    inner = (f["opd0_c"] - 1) * f["opd0_w"] + f["opd1_w"] + bias + (f["res_add"] != 0)
    cycles = f["opd0_n"] * _groups(f) * inner * _up(f["res0_w"], _IN_VECTOR[precision])
    return Cost(cycles, estimated=not integer and precision != Precision.F32)


@TIU_FORMULAS.of("MM2")
def _matrix_on_lanes(f: Fields) -> Cost:
    precision = f["opd0_prec"]
    inner = f["opd1_c"] if f["tsk_eu_typ"] == Matrix2Op.NN else f["opd1_w"]
    products = _up(f["res0_c"], LANES) * _up(f["res0_w"], _PRODUCT_COLUMNS)
    judged = precision in (Precision.I8, Precision.F16, Precision.BF16)
    return Cost(products * _up(inner, _IN_VECTOR[precision]), estimated=not judged)


@TIU_FORMULAS.of("AR")
def _arithmetic(f: Fields) -> Cost:
    """The slower of reading both operands and writing the result, twice that in place."""
    first, second, result = f["opd0_prec"], f["opd1_prec"], f["res0_prec"]
    vector = min(_IN_VECTOR[first], _IN_VECTOR[second], _IN_VECTOR[result])
    h, w, operation = f["res0_h"], f["res0_w"], f["tsk_eu_typ"]
    vectors = _up(h * w, vector)
    factor = 1
    if f["opd0_str"] or f["opd1_str"] or f["res0_str"]:
        reading = _spread(f, "opd0", vector, vectors) + _spread(f, "opd1", vector, vectors)
        factor = max(1, reading, _spread(f, "res0", vector, vectors))
    if operation == ArithmeticOp.DIV:
        factor = max(factor, _NEWTON_CYCLES * (f["opd2_n_str"] + 1) + _DIVISION_CYCLES)
    elif _is_slow_in_place(f, operation):
        factor *= 2
    cycles = f["res0_n"] * _groups(f) * vectors * factor
    return Cost(cycles, estimated=first > _JUDGED or second > _JUDGED or result > _JUDGED)


def _is_slow_in_place(f: Fields, operation: int) -> bool:
    result = f["res0_addr"]
    if f["opd0_addr"] == result and not f["opd0_const"]:
        return operation in _SLOW_ON_EITHER or operation in _SLOW_ON_FIRST
    return f["opd1_addr"] == result and not f["opd1_const"] and operation in _SLOW_ON_EITHER


_STRIDES = {operand: (f"{operand}_str", f"{operand}_h_str", f"{operand}_w_str") for operand in ("opd0", "opd1", "res0")}


def _spread(f: Fields, operand: str, vector: int, vectors: int) -> int:
    """How many times as many vectors a plane of the operand touches as a dense one; 0 when it has no strides."""
    layout, h_stride, w_stride = (f[name] for name in _STRIDES[operand])
    h, w = f["res0_h"], f["res0_w"]
    if not layout:
        return 0
    if w_stride > 1:
        return min(w_stride, vector)
    if h_stride in (0, w):
        return 1
    behind = h_stride % vector
    touched = _up(h_stride * h, vector) if behind and h_stride - w < vector else _up(w + behind, vector) * h
    return touched // max(1, vectors)


@TIU_FORMULAS.of("LAR")
def _lane_arithmetic(f: Fields) -> Cost:
    """Its form has one row and no room for strides or constants."""
    shared = ("res0_c", "res0_w", "opd0_prec", "opd1_prec", "res0_prec", "opd2_n_str", "tsk_eu_typ")
    places = ("res0_addr", "opd0_addr", "opd1_addr")
    row = defaultdict(int, {name: f[name] for name in (*shared, *places)}, res0_n=1, res0_h=1)
    return _arithmetic(row)._replace(estimated=True)


@TIU_FORMULAS.of("RQ_DQ")
def _requantize(f: Fields) -> Cost:
    return Cost(_passes(f, _REQUANTIZED) << _bank_clash(f))


@TIU_FORMULAS.of("CMP")
def _compare(f: Fields) -> Cost:
    precision = f["opd0_prec"]
    return Cost(2 * _passes(f, _IN_VECTOR[precision]), estimated=precision > _JUDGED)


@TIU_FORMULAS.of("SFU")
def _special_function(f: Fields) -> Cost:
    """A Taylor series takes one pass for each of its opd1_n terms."""
    precision, operation = f["opd0_prec"], f["tsk_eu_typ"]
    steps = {SfuOp.NORMALIZE.value: 1, SfuOp.RSQRT.value: _RSQRT_CYCLES}.get(operation, f["opd1_n"])
    unknown = precision == Precision.I8 or precision > _JUDGED
    return Cost(_passes(f, _IN_VECTOR[precision]) * steps, estimated=unknown)


@TIU_FORMULAS.of("LIN")
def _linear(f: Fields) -> Cost:
    return Cost(_passes(f, _IN_VECTOR[f["res0_prec"]]), estimated=True)


@TIU_FORMULAS.of("VC")
def _every_pair(f: Fields) -> Cost:
    """One row of the result for each element of the first vector, whose last group is opd1_w wide."""
    rows = (f["opd0_c"] - 1) * f["opd0_w"] + f["opd1_w"]
    vector = min(_IN_VECTOR[f["opd0_prec"]], _IN_VECTOR[f["opd1_prec"]], _IN_VECTOR[f["res0_prec"]])
    return Cost(rows * _groups(f) * _up(f["res0_w"], vector), estimated=True)


@TIU_FORMULAS.of("TRANS_BC")
def _transpose_or_broadcast(f: Fields) -> Cost:
    """Transpositions go along the source's rows (CW) or channels (WC), copies once for each source channel."""
    operation, precision = f["tsk_eu_typ"], f["res0_prec"]
    vector = _IN_VECTOR[precision]
    if operation in (TransposeOp.CW, TransposeOp.WC):
        along = f["opd0_w"] if operation == TransposeOp.CW else f["opd0_c"]
        cycles = f["res0_n"] * f["res0_h"] * _up(along, vector)
    elif operation == TransposeOp.STATIC_BROADCAST:
        cycles = _up(f["res0_w"], vector)
    elif operation == TransposeOp.STATIC_DISTRIBUTE:
        cycles = _up(f["res0_c"], vector)
    else:
        cycles = _passes(f, vector) * f["opd0_c"] << _bank_clash(f)
    return Cost(cycles, estimated=precision > _JUDGED)


# Operations that find the number of elements a lane in opd1_c; the others have it in opd1_w.
_COUNTED_BY_CHANNELS = frozenset((0, 1, 2, 3, 4, 9, 10, 11, 12))

# Cycles of two elements where they are not two.
_PER_PAIR = {
    SearchGatherOp.PE_GATHER_HZD.value: 3,
    SearchGatherOp.PE_SCATTER_HZD.value: 3,
    SearchGatherOp.PE_NONZERO_HZD.value: 3,
    SearchGatherOp.PE_MASK_SELECT_HZD.value: 6,
    SearchGatherOp.PL_GATHER_RECTANGLE.value: 0,
}
_UNKNOWN_SEARCHES = frozenset(
    (SearchGatherOp.PL_GATHER_RECTANGLE, SearchGatherOp.PL_GATHER_PER_W, SearchGatherOp.PL_SCATTER_PER_W)
)


@TIU_FORMULAS.of("SG")
def _search(f: Fields) -> Cost:
    operation = f["tsk_eu_typ"]
    elements = f["opd1_c"] if operation in _COUNTED_BY_CHANNELS else f["opd1_w"]
    halves = f["res0_n"] * _groups(f) * elements * _PER_PAIR.get(operation, 2)
    cycles = halves >> (3 if operation == SearchGatherOp.PE_GATHER_M else 1)
    return Cost(max(1, cycles), estimated=operation in _UNKNOWN_SEARCHES)


@TIU_FORMULAS.of("SGL")
def _search_lines(f: Fields) -> Cost:
    lines = f["res0_h"] if f["tsk_eu_typ"] == LineGatherOp.GATHER_LINE else f["opd0_h"]
    vectors = lines * _up(f["res0_w"], _IN_VECTOR[f["res0_prec"]])
    return Cost(2 * f["res0_n"] * _groups(f) * vectors, estimated=True)
