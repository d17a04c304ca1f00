"""AR: element-wise operations on tensors and constants."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import ArithmeticOp
from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import (
    float_bits,
    float_constant,
    flushed,
    flushed_bfloat16,
    integer,
    integer_constant,
    is_float,
    narrowed,
    read_float,
    round_to_precision,
    saturated,
    to_float,
)
from tpu_deploy.runtime.simulator.floating import divide
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported
from tpu_deploy.runtime.simulator.rounding import round_float, shift_right

Array = npt.NDArray[Any]

_BITWISE: dict[int, Callable[..., Array]] = {
    ArithmeticOp.AND: np.bitwise_and,
    ArithmeticOp.OR: np.bitwise_or,
    ArithmeticOp.XOR: np.bitwise_xor,
}
_SELECTIONS = (ArithmeticOp.SELECT_GREATER, ArithmeticOp.SELECT_EQUAL, ArithmeticOp.SELECT_LESS)
_BINARY: dict[int, Callable[..., Array]] = {
    ArithmeticOp.MUL: np.multiply,
    ArithmeticOp.ADD: np.add,
    ArithmeticOp.SUB: np.subtract,
    ArithmeticOp.MULS: np.multiply,
    ArithmeticOp.ADDS: np.add,
    ArithmeticOp.SUBS: np.subtract,
}
_SATURATING = {ArithmeticOp.MULS, ArithmeticOp.ADDS, ArithmeticOp.SUBS}
_PREFIX = {"a": "opd0", "b": "opd1", "c": "opd2"}


@executes("AR")
def arithmetic(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one AR."""
    operation = ArithmeticOp(fields["tsk_eu_typ"])
    takes_third = operation in _SELECTIONS or (operation in _BINARY and not is_float(fields["opd0_prec"]))
    if fields["tsk_opd_num"] == 3 and not takes_third:
        raise unsupported(f"AR operation {operation.name.lower()} with three operands")
    if operation == ArithmeticOp.CAST:
        result = _cast(fields, operands, memory)
    elif operation == ArithmeticOp.COPY:
        result = _raw(fields, operands, memory, "a")
    elif operation in _BITWISE or operation == ArithmeticOp.NOT:
        result = _bitwise(fields, operands, memory)
    elif operation in _SELECTIONS:
        result = _select(fields, operands, memory)
    elif is_float(fields["opd0_prec"]):
        result = _float(fields, operands, memory)
    else:
        result = _integer(fields, operands, memory)
    place = operands["y"]
    memory.write(place, np.broadcast_to(result, place.dims))


def _integers(fields: Fields, operands: Operands, memory: Memories, role: str, to: npt.DTypeLike) -> Array:
    """An integer operand as `to`, (n, c, h, w) or a scalar array."""
    prefix = _PREFIX[role]
    code, signed = fields[f"{prefix}_prec"], fields[f"{prefix}_sign"]
    if role in operands:
        return memory.read(operands[role], integer(code, signed), to)
    return np.array(integer_constant(fields[f"{prefix}_addr"], code, signed)).astype(to)


def _floats(fields: Fields, operands: Operands, memory: Memories, role: str) -> Array:
    prefix = _PREFIX[role]
    code = fields[f"{prefix}_prec"]
    if not is_float(code):
        raise unsupported("AR with a float and an integer operand")
    if role in operands:
        return read_float(memory, operands[role], code)
    return float_constant(fields[f"{prefix}_addr"], code)


def _raw(fields: Fields, operands: Operands, memory: Memories, role: str) -> Array:
    """The bits of an operand, of the same size as the result."""
    if Precision(fields[f"{_PREFIX[role]}_prec"]).itemsize != operands["y"].itemsize:
        raise unsupported("AR on bits with operands of different sizes")
    return _raw_as(fields, operands, memory, role)


def _raw_as(fields: Fields, operands: Operands, memory: Memories, role: str) -> Array:
    """The bits of an operand as unsigned integers of its size."""
    prefix = _PREFIX[role]
    kind = np.dtype(f"u{Precision(fields[f'{prefix}_prec']).itemsize}")
    if role in operands:
        return memory.read(operands[role], kind)
    return np.array(fields[f"{prefix}_addr"] & (1 << 8 * kind.itemsize) - 1).astype(kind)


def _bitwise(fields: Fields, operands: Operands, memory: Memories) -> Array:
    first = _raw(fields, operands, memory, "a")
    if fields["tsk_eu_typ"] == ArithmeticOp.NOT:
        return ~first
    return _BITWISE[fields["tsk_eu_typ"]](first, _raw(fields, operands, memory, "b"))


def _select(fields: Fields, operands: Operands, memory: Memories) -> Array:
    """(a compared with b) ? c : 0, on the bits of c. Equal means equal bits; what is unordered and differs is less."""
    if fields["tsk_opd_num"] != 3 or "c" in operands:
        raise unsupported("AR selection without a constant third operand")
    read = _floats if is_float(fields["opd0_prec"]) else _wide_integers
    first, second = (read(fields, operands, memory, role) for role in "ab")
    operation = fields["tsk_eu_typ"]
    if operation == ArithmeticOp.SELECT_GREATER:
        chosen = first > second
    else:
        equal = np.equal(*(_raw_as(fields, operands, memory, role) for role in "ab"))
        chosen = equal if operation == ArithmeticOp.SELECT_EQUAL else ~(first >= second) & ~equal
    value = _raw(fields, operands, memory, "c")
    return np.where(chosen, value, value.dtype.type(0))


def _extreme(fields: Fields, operands: Operands, memory: Memories) -> Array:
    """The greater or smaller operand, bits of NaNs kept; which one where they are unordered follows the unit."""
    first, second = (_floats(fields, operands, memory, role) for role in "ab")
    a, b = (_raw(fields, operands, memory, role) for role in "ab")
    if fields["tsk_eu_typ"] == ArithmeticOp.MAX:
        chosen = np.where(first > second, a, b)
    else:
        chosen = np.where(first >= second, b, a)
    code = fields["opd0_prec"]
    if code == Precision.F32:
        return flushed(chosen.view(np.float32))
    return flushed_bfloat16(chosen) if code == Precision.BF16 else chosen


def _wide_integers(fields: Fields, operands: Operands, memory: Memories, role: str) -> Array:
    return _integers(fields, operands, memory, role, np.int64)


def _float(fields: Fields, operands: Operands, memory: Memories) -> Array:
    operation, code = fields["tsk_eu_typ"], fields["opd0_prec"]
    if fields["res0_prec"] != code:
        raise unsupported("AR with a result of another float type")
    if operation == ArithmeticOp.ABS:
        bits = _raw(fields, operands, memory, "a")
        unsigned: Array = bits & bits.dtype.type((1 << 8 * bits.dtype.itemsize - 1) - 1)
        return unsigned
    if operation in (ArithmeticOp.MAX, ArithmeticOp.MIN):
        return _extreme(fields, operands, memory)
    first, second = (_floats(fields, operands, memory, role) for role in "ab")
    with np.errstate(all="ignore"):
        if operation in (ArithmeticOp.MUL, ArithmeticOp.ADD, ArithmeticOp.SUB):
            return to_float(_BINARY[operation](first, second), code)
        if operation == ArithmeticOp.ABS_DIFFERENCE:
            difference = flushed(first - second)
            return to_float(np.where(difference < 0, -difference, difference), code)
        if operation == ArithmeticOp.DIV and code == Precision.F32:
            dividend, divisor = (_raw(fields, operands, memory, role).view(np.float32) for role in "ab")
            return flushed(divide(dividend, divisor, fields["opd2_n_str"] + 1))
    raise unsupported(f"AR operation {ArithmeticOp(operation).name.lower()} on floats")


def _integer(fields: Fields, operands: Operands, memory: Memories) -> Array:
    operation = fields["tsk_eu_typ"]
    if operation in _BINARY:
        return _shifted(fields, operands, memory)
    signed = bool(fields["opd0_sign"] or fields["opd1_sign"])
    kind = integer(fields["res0_prec"], signed)
    first = _wide_integers(fields, operands, memory, "a")
    if operation == ArithmeticOp.ABS:
        return np.abs(first).astype(kind)
    if operation == ArithmeticOp.ARITHMETIC_SHIFT:
        amount = -_integers(fields, operands, memory, "b", np.int64)
        first, amount = np.broadcast_arrays(first, amount)
        return shift_right(first, amount, RoundMode(fields["opd2_n_str"])).astype(kind)
    second = _wide_integers(fields, operands, memory, "b")
    if operation == ArithmeticOp.MAX:
        return np.maximum(first, second).astype(kind)
    if operation == ArithmeticOp.MIN:
        return np.minimum(first, second).astype(kind)
    raise unsupported(f"AR operation {ArithmeticOp(operation).name.lower()} on integers")


def _bits(fields: Fields, prefix: str) -> int:
    return 8 * Precision(fields[f"{prefix}_prec"]).itemsize


def _shifted(fields: Fields, operands: Operands, memory: Memories) -> Array:
    """(a op b) shifted by the third operand, where there is one; exact in between."""
    operation = fields["tsk_eu_typ"]
    widths = _bits(fields, "opd0"), _bits(fields, "opd1")
    room = sum(widths) if operation in (ArithmeticOp.MUL, ArithmeticOp.MULS) else max(widths) + 1
    shift: int | Array = 0
    if fields["tsk_opd_num"] == 3:
        shift, room = _shift_amount(fields, operands, memory), room + 1
    left = -int(np.min(shift))
    work = np.int32 if room + max(left, 0) <= 31 else np.int64
    if room + max(left, 0) > 64 or (room == 64 and not (fields["opd0_sign"] or fields["opd1_sign"])):
        raise unsupported(f"AR {ArithmeticOp(operation).name.lower()} beyond 64 bits")
    first, second = (_integers(fields, operands, memory, role, work) for role in "ab")
    total: Array = _BINARY[operation](first, second)
    if fields["tsk_opd_num"] == 3:
        amount = shift if isinstance(shift, int) else shift.astype(work)
        total = shift_right(total, amount, RoundMode(fields["opd2_n_str"]))
    signed = operation == ArithmeticOp.SUBS or bool(fields["opd0_sign"] or fields["opd1_sign"])
    kind = integer(fields["res0_prec"], signed)
    return saturated(total, kind) if operation in _SATURATING else total.astype(kind)


def _shift_amount(fields: Fields, operands: Operands, memory: Memories) -> int | Array:
    """How far to shift right: a constant, or (1, c, 1, 1)."""
    if fields["opd2_prec"] != Precision.I8:
        raise unsupported("AR with a shift that is not 8-bit")
    if "c" in operands:
        return -memory.read(operands["c"], np.int8, np.int64)
    return -integer_constant(fields["opd2_addr"], Precision.I8, True)


def _cast(fields: Fields, operands: Operands, memory: Memories) -> Array:
    source, target = fields["opd0_prec"], fields["res0_prec"]
    mode = RoundMode(fields["opd2_n_str"])
    if not is_float(source):
        values = _integers(fields, operands, memory, "a", integer(source, fields["opd0_sign"]))
        if is_float(target):
            return _integers_to_float(values, target, mode)
        return saturated(values, integer(target, fields["opd2_sign"]))
    if source == target:
        return _whole(_raw_as(fields, operands, memory, "a"), source, mode)
    if is_float(target):
        if Precision.F32 not in (source, target):
            raise unsupported(f"cast from {Precision(source).name.lower()} to {Precision(target).name.lower()}")
        return _float_cast(float_bits(_raw_as(fields, operands, memory, "a"), source), source, target, mode)
    if mode in (RoundMode.HALF_UP, RoundMode.HALF_DOWN):
        raise unsupported(f"cast from float with mode {mode.name.lower()}")
    kind = integer(target, fields["opd2_sign"])
    limits = np.iinfo(kind)
    bits = _raw_as(fields, operands, memory, "a")
    with np.errstate(invalid="ignore"):
        rounded = round_float(float_bits(bits, source).astype(np.float64), mode)
    result: Array = np.nan_to_num(np.clip(rounded, limits.min, limits.max), nan=0.0)
    return result.astype(kind)


def _whole(bits: Array, code: int, mode: RoundMode) -> Array:
    """Floats rounded to whole numbers of their own type; NaNs stay as they are."""
    with np.errstate(invalid="ignore"):
        floats = float_bits(bits, code).astype(np.float64)
        rounded = np.copysign(round_float(floats, mode), floats).astype(np.float32)
    return np.where(np.isnan(floats), bits, to_float(rounded, code).view(bits.dtype))


def _integers_to_float(values: Array, target: int, mode: RoundMode) -> Array:
    if values.dtype.itemsize == 2 and target != Precision.F32:
        return to_float(narrowed(values.astype(np.float32), target, mode), target)
    return to_float(round_to_precision(values.astype(np.float64), target, mode), target)


def _float_cast(floats: Array, source: int, target: int, mode: RoundMode) -> Array:
    """From or to f32. NaNs keep their sign and become all ones below it, but from bfloat16 bits just move."""
    bits = floats.view(np.uint32)
    if source == Precision.BF16:
        return bits
    if target == Precision.F32:
        return np.where(np.isnan(floats), bits | 0x7FFFFFFF, bits).astype(np.uint32)
    sign = (bits >> 16 & 0x8000).astype(np.uint16)
    narrow = to_float(narrowed(floats, target, mode), target)
    return np.where(np.isnan(floats), sign | 0x7FFF, narrow).astype(np.uint16)
