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


def read_float(memory: Memories, place: Place, code: int) -> npt.NDArray[np.float32]:
    """The tensor as float32, exactly."""
    if code == Precision.BF16:
        return from_bfloat16(memory.read(place, np.uint16))
    return memory.read(place, np.float16 if code == Precision.F16 else np.float32, np.float32)


def float_constant(bits: int, code: int) -> np.float32:
    """The float32 with the value of a constant operand."""
    if code == Precision.F32:
        return np.uint32(bits).view(np.float32)
    if code == Precision.F16:
        return np.float32(np.uint16(bits & 0xFFFF).view(np.float16))
    return np.uint32((bits & 0xFFFF) << 16).view(np.float32)


def integer_constant(bits: int, code: int, signed: int | bool) -> int:
    """The value of a constant operand: its low bits, read with or without sign."""
    kind = integer(code, signed)
    mask = (1 << 8 * kind.itemsize) - 1
    value = bits & mask
    return value - (mask + 1) if signed and value > mask >> 1 else value


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The float32 whose upper half these bits are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_float(values: npt.NDArray[np.float32], code: int, mode: RoundMode = RoundMode.HALF_EVEN) -> Array:
    """Float32 values rounded to the type of the code, as memory holds them."""
    if code == Precision.F32:
        return values
    if code == Precision.F16:
        if mode != RoundMode.HALF_EVEN:
            raise unsupported(f"rounding to f16 with mode {mode.name.lower()}")
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    bits = values.view(np.uint32)
    if mode != RoundMode.HALF_EVEN:
        raise unsupported(f"rounding to bf16 with mode {mode.name.lower()}")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def saturated(values: Array, kind: np.dtype[Any]) -> Array:
    """Integers clipped to the range of an integer type; a wider or equal range costs nothing but the conversion."""
    limits, given = np.iinfo(kind), np.iinfo(values.dtype)
    low, high = max(limits.min, given.min), min(limits.max, given.max)
    if low > given.min or high < given.max:
        values = np.clip(values, low, high)
    return values.astype(kind)
