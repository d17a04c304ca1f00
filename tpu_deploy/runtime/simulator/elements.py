"""Element types: precision codes as numpy types, bfloat16 included, and conversion of results to them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.places import Place
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import unsupported

Array = npt.NDArray[Any]

_INTEGERS = {
    Precision.I8: (np.uint8, np.int8),
    Precision.I16: (np.uint16, np.int16),
    Precision.I32: (np.uint32, np.int32),
}


def is_float(code: int) -> bool:
    """Whether a precision code names a floating-point type."""
    return Precision(code).is_float


def integer(code: int, signed: int | bool) -> np.dtype[Any]:
    """The numpy type of an integer precision code."""
    kinds = _INTEGERS.get(Precision(code))
    if kinds is None:
        raise unsupported(f"{Precision(code).name} where integers are expected")
    return np.dtype(kinds[bool(signed)])


_TINY = np.finfo(np.float32).tiny


def flushed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The values with float32 denormals replaced by zeros of their sign, as every unit treats operands and results."""
    small = np.abs(values) < _TINY
    return np.where(small, np.copysign(np.float32(0), values), values) if small.any() else values


def flushed_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """The same for bfloat16 values given by their bits."""
    return np.where(bits & 0x7F80, bits, bits & 0x8000)


def float_bits(bits: Array, code: int) -> npt.NDArray[np.float32]:
    """The float32 values of elements given by their bits, exactly, denormals included."""
    if code == Precision.BF16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if code == Precision.F16 else bits.view(np.float32)


def read_float(memory: Memories, place: Place, code: int) -> npt.NDArray[np.float32]:
    """The tensor as float32 operands, exactly but for denormals."""
    return flushed(float_bits(memory.read(place, f"u{place.itemsize}"), code))


def float_constant(bits: int, code: int) -> npt.NDArray[np.float32]:
    """The operand with the value of a constant, as a float32 scalar array."""
    size = Precision(code).itemsize
    return flushed(float_bits(np.array(bits & (1 << 8 * size) - 1, f"u{size}"), code))


def integer_constant(bits: int, code: int, signed: int | bool) -> int:
    """The value of a constant operand: its low bits, read with or without sign."""
    kind = integer(code, signed)
    mask = (1 << 8 * kind.itemsize) - 1
    value = bits & mask
    return value - (mask + 1) if signed and value > mask >> 1 else value


_NAN16 = np.uint16(0x7FFF)
"""The only NaN of 16-bit results."""


def to_float(values: npt.NDArray[np.float32], code: int, mode: RoundMode = RoundMode.HALF_EVEN) -> Array:
    """Float32 results rounded to the type of the code, as memory holds them."""
    if code == Precision.F32:
        return flushed(values)
    if mode != RoundMode.HALF_EVEN:
        raise unsupported(f"rounding to {Precision(code).name.lower()} with mode {mode.name.lower()}")
    if code == Precision.F16:
        with np.errstate(over="ignore"):
            bits: Array = values.astype(np.float16).view(np.uint16)
    else:
        wide = values.view(np.uint32)
        bits = flushed_bfloat16(((wide + (0x7FFF + ((wide >> 16) & 1))) >> 16).astype(np.uint16))
    return np.where(np.isnan(values), _NAN16, bits)


def rounded(values: npt.NDArray[np.float32], code: int) -> npt.NDArray[np.float32]:
    """Float32 values rounded to the type of the code, still as float32."""
    return flushed(values) if code == Precision.F32 else float_bits(to_float(values, code), code)


def saturated(values: Array, kind: np.dtype[Any]) -> Array:
    """Integers clipped to the range of an integer type; a wider or equal range costs nothing but the conversion."""
    limits, given = np.iinfo(kind), np.iinfo(values.dtype)
    low, high = max(limits.min, given.min), min(limits.max, given.max)
    if low > given.min or high < given.max:
        values = np.clip(values, low, high)
    return values.astype(kind)
