"""Element types: precision codes as numpy types, bfloat16 included, and conversion of results to them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.places import Place
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import unsupported
from tpu_deploy.runtime.simulator.rounding import round_float

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


def to_float(values: npt.NDArray[np.float32], code: int) -> Array:
    """Float32 results rounded to the type of the code, half to even, as memory holds them."""
    if code == Precision.F32:
        return flushed(values)
    if code == Precision.F16:
        with np.errstate(over="ignore"):
            bits: Array = values.astype(np.float16).view(np.uint16)
    else:
        wide = values.view(np.uint32)
        bits = flushed_bfloat16(((wide + (0x7FFF + ((wide >> 16) & 1))) >> 16).astype(np.uint16))
    return np.where(np.isnan(values), _NAN16, bits)


_SIGNIFICANDS = {Precision.F32: (24, -126, 127), Precision.F16: (11, -14, 15), Precision.BF16: (8, -126, 127)}
"""Bits of the significand, and the exponents of the smallest normal and of the largest numbers."""


def round_to_precision(values: npt.NDArray[np.float64], code: int, mode: RoundMode) -> npt.NDArray[np.float32]:
    """Values that the float type of the code has, as float32, rounded by the mode.

    What is too large becomes infinite, or the largest number where the mode rounds towards zero.
    """
    bits, lowest, highest = _SIGNIFICANDS[Precision(code)]
    exponent = np.maximum(np.frexp(values)[1] - 1, lowest)
    quantum = np.ldexp(1.0, exponent - (bits - 1))
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.copysign(round_float(values / quantum, mode) * quantum, values)
        largest = np.ldexp(2.0 - 2.0 ** (1 - bits), highest)
        beyond = np.isfinite(values) & (np.abs(found) > largest)
        down = {
            RoundMode.TO_ZERO: beyond,
            RoundMode.FLOOR: beyond & (values > 0),
            RoundMode.CEIL: beyond & (values < 0),
        }
        found = np.where(beyond, np.copysign(np.inf, values), found)
        return np.where(down.get(mode, False), np.copysign(largest, values), found).astype(np.float32)


def narrowed(values: npt.NDArray[np.float32], code: int, mode: RoundMode) -> npt.NDArray[np.float32]:
    """Float32 values that a 16-bit float type has: ties are told apart by magnitude, 2**16 is infinite to f16."""
    with np.errstate(invalid="ignore"):
        wide = flushed(values).astype(np.float64)
    if mode in (RoundMode.HALF_UP, RoundMode.HALF_DOWN):
        return np.copysign(round_to_precision(np.abs(wide), code, mode), values)
    found = round_to_precision(wide, code, mode)
    if code == Precision.F16:
        found = np.where(np.abs(wide) >= 1 << 16, np.copysign(np.float32(np.inf), values), found)
    return found


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
