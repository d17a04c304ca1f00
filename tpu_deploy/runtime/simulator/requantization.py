"""RQ and DQ: integers multiplied, shifted and saturated, and back to floats."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import RequantOp
from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import integer, integer_constant, is_float
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported
from tpu_deploy.runtime.simulator.rounding import round_float, shift_right

Array = npt.NDArray[Any]

_EXACT = float(1 << 52)
"""Products of whole numbers below this, halved any number of times, are float64 exactly, also with a half added."""


@executes("RQ_DQ")
def requantize(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one RQ or DQ."""
    operation = RequantOp(fields["tsk_eu_typ"])
    if is_float(fields["opd0_prec"]):
        raise unsupported("RQ or DQ of floats")
    if operation == RequantOp.RQ_INT:
        _to_integer(fields, operands, memory)
    elif operation == RequantOp.DQ_FLOAT:
        _to_float(fields, operands, memory)
    elif operation == RequantOp.RQ_FLOAT:
        _by_float(fields, operands, memory)
    else:
        raise unsupported(f"RQ_DQ operation {operation.name.lower()}")


def _words(operands: Operands, memory: Memories, kind: npt.DTypeLike) -> list[Array]:
    """The columns of the table, each (1, c, 1, 1)."""
    table = memory.read(operands["table"], kind)
    return [table[..., column : column + 1] for column in range(table.shape[3])]


def _to_integer(fields: Fields, operands: Operands, memory: Memories) -> None:
    """saturate(round(x * multiplier / 2**shift) + zero_point)."""
    signed = bool(fields["opd2_sign"])
    if fields["opd1_const"]:
        multiplier: Array = np.array(integer_constant(fields["opd1_addr"], Precision.I32, True)).reshape(1, 1, 1, 1)
        shift = np.array(-integer_constant(fields["opd2_addr"], Precision.I8, True)).reshape(1, 1, 1, 1)
        zero_point = np.array(fields["opd2_addr"] >> 16).reshape(1, 1, 1, 1)
    else:
        multiplier, shift, zero_point = (column.astype(np.int64) for column in _words(operands, memory, np.int32))
        shift = -((shift + 128 & 0xFF) - 128)
    zero_point = _sixteen_bits(zero_point, signed)
    x = memory.read(operands["x"], integer(fields["opd0_prec"], _has_sign(fields)))
    result = _scaled(x, multiplier, shift, zero_point, RoundMode(fields["opd2_n_str"] & 7))
    kind = integer(fields["res0_prec"], signed)
    memory.write(operands["y"], _clipped(result, kind))


def _has_sign(fields: Fields) -> bool:
    """Whether x is signed: 32-bit integers always are."""
    return bool(fields["opd0_sign"]) or fields["opd0_prec"] == Precision.I32


def _sixteen_bits(values: Array, signed: bool) -> Array:
    low = values & 0xFFFF
    return (low ^ 0x8000) - 0x8000 if signed else low


def _scaled(x: Array, multiplier: Array, shift: Array, zero_point: Array, mode: RoundMode) -> Array:
    """round(x * multiplier / 2**shift) + zero_point: in float64 where that is exact, else in int64."""
    largest = max(abs(int(x.max())), abs(int(x.min()))) * int(np.abs(multiplier).max())
    if largest < _EXACT and int(np.abs(shift).max()) < 64 and mode == RoundMode.HALF_UP:
        scaled = np.multiply(x, np.ldexp(multiplier.astype(np.float64), -shift), dtype=np.float64)
        scaled += 0.5
        np.floor(scaled, out=scaled)
        if zero_point.any():
            scaled += zero_point
        return scaled
    if int(shift.max()) > 63 or int(shift.min()) < -63:
        raise unsupported("RQ by more than 63 bits")
    product = x.astype(np.int64) * multiplier
    amount = np.broadcast_to(shift, product.shape)
    return shift_right(product, amount, mode) + zero_point


def _clipped(values: Array, kind: np.dtype[Any]) -> Array:
    limits = np.iinfo(kind)
    return np.clip(values, limits.min, limits.max, out=values).astype(kind)


def _to_float(fields: Fields, operands: Operands, memory: Memories) -> None:
    """f32(x - zero_point) * scale, rounded once."""
    if fields["res0_prec"] != Precision.F32:
        raise unsupported("DQ with a result that is not f32")
    signed = bool(fields["opd0_sign"])
    x = memory.read(operands["x"], integer(fields["opd0_prec"], signed), np.int32)
    if x.dtype.itemsize < operands["x"].itemsize or operands["x"].itemsize == 4:
        raise unsupported("DQ of 32-bit integers")
    if fields["opd1_const"]:
        zero_point: Array = np.array(fields["opd1_addr"])
        scale: Array = np.array(fields["opd2_addr"], np.uint32).view(np.float32)
    else:
        zero_point, bits = _words(operands, memory, np.uint32)
        scale = bits.view(np.float32)
    difference = x - _sixteen_bits(zero_point.astype(np.int32), signed)
    with np.errstate(all="ignore"):
        memory.write(operands["y"], difference.astype(np.float32) * scale)


def _by_float(fields: Fields, operands: Operands, memory: Memories) -> None:
    """saturate(round(f32(f32(x) * scale) + zero_point)), the conversion and the end rounded by modes of their own."""
    first, last = RoundMode(fields["opd2_n_str"] & 7), RoundMode(fields["opd2_n_str"] >> 3)
    if operands["x"].itemsize == 1 or operands["y"].itemsize == 4:
        raise unsupported("RQ by a float of 8-bit integers or to 32-bit ones")
    if first != RoundMode.HALF_EVEN and operands["x"].itemsize == 4:
        raise unsupported("RQ by a float with a rounding mode for the conversion")
    if last in (RoundMode.HALF_UP, RoundMode.HALF_DOWN):
        raise unsupported(f"RQ by a float with mode {last.name.lower()}")
    x = memory.read(operands["x"], integer(fields["opd0_prec"], _has_sign(fields)), np.float32)
    if fields["opd1_const"]:
        scale: Array = np.array(fields["opd1_addr"], np.uint32).view(np.float32)
        zero_point: Array = np.array(fields["opd2_addr"], np.uint32).view(np.float32)
    else:
        scale, zero_point = _words(operands, memory, np.float32)
    with np.errstate(all="ignore"):
        scaled = x * scale + zero_point
    kind = integer(fields["res0_prec"], fields["opd2_sign"])
    rounded = np.nan_to_num(round_float(scaled, last).astype(np.float64), nan=0.0)
    memory.write(operands["y"], _clipped(rounded, kind))
