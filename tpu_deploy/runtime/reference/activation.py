"""tpu.Lut, and functions of single elements in floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tpu_deploy.ir.float_functions import FUNCTIONS, SLOPE, Program, Step, X, program
from tpu_deploy.runtime.reference.floating import Floats, along_channels, elementwise
from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel

Uint8Array = npt.NDArray[np.uint8]


def pair_table(table: Array) -> npt.NDArray[np.uint16]:
    """The table (65536,) for two neighbouring bytes at once, from a table (256,) with entries of one byte."""
    pairs = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    return np.ascontiguousarray(table).view(np.uint8)[pairs].view(np.uint16)


def look_up(table: Array, pairs: npt.NDArray[np.uint16] | None, index: Uint8Array, result: Array) -> None:
    """Fills the flat `result` with `table[index]`, two bytes at a time where `pairs` is given."""
    even = index.size & ~1 if pairs is not None else 0
    if pairs is not None:
        np.take(pairs, index[:even].view(np.uint16), out=result[:even].view(np.uint16), mode="clip")
    np.take(table, index[even:], out=result[even:], mode="clip")


@kernel("tpu.Lut")
def build_lut(site: Site) -> Kernel:
    """One table for all elements, or a row of it for each index of axis 1."""
    table = np.ascontiguousarray(site.weight(1))
    if table.ndim == 1:
        return shared_table(site, table)
    channels = table.shape[0]
    flat = table.reshape(-1)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)
        index = operands[0].view(np.uint8).reshape(site.shape[0], channels, -1)
        target = result.reshape(index.shape)

        def piece(where: tuple[slice, ...]) -> None:
            first = np.arange(channels, dtype=np.intp)[where[1] if len(where) > 1 else slice(None)] * 256
            np.take(flat, index[where] + first[:, None], out=target[where], mode="clip")

        site.workers.for_each_piece(index.shape, piece)
        return result

    return run


def shared_table(site: Site, table: Array) -> Kernel:
    """The kernel that puts one table (256,) in place of every byte of the first operand."""
    pairs = pair_table(table) if table.itemsize == 1 else None

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)
        index, target = operands[0].view(np.uint8).reshape(-1), result.reshape(-1)
        site.workers.for_each_piece(target.shape, lambda where: look_up(table, pairs, index[where], target[where]))
        return result

    return run


# ---- in floating point


def _maximum(left: Array, right: Array) -> Array:
    return np.where(left > right, left, right)


def _minimum(left: Array, right: Array) -> Array:
    return np.where(left >= right, right, left)


def _nearest(x: Array) -> Array:
    return np.where(np.isnan(x), 0, np.rint(x)).astype(np.int32)


ARITHMETIC: dict[str, Callable[..., Array]] = {
    "mul": np.multiply,
    "add": np.add,
    "sub": np.subtract,
    "max": _maximum,
    "min": _minimum,
    "to_integer": _nearest,
    "to_float": lambda x: x.astype(np.float32),
    "shift_left_23": lambda x: x << 23,
}
"""Steps that compute with their operands; what is unordered follows the chip's unit."""

ON_BITS: dict[str, Callable[..., Array]] = {"add_bits": np.add, "sub_bits": np.subtract, "or_bits": np.bitwise_or}
"""Steps that take their operands for int32 and their result for float32."""


def _horner(x: Array, coefficients: Sequence[float]) -> Array:
    terms = [np.float32(each) for each in coefficients]
    value = np.full(x.shape, terms[-1], np.float32)
    for term in terms[-2::-1]:
        value *= x
        value += term
    return value


def _step(step: Step, held: Mapping[str, Array]) -> Array:
    """The result of a step on the results before it."""
    if step.operation not in ON_BITS:
        floats = [held[o] if isinstance(o, str) else np.array(o, np.float32) for o in step.operands]
        if step.operation == "horner":
            return _horner(floats[0], step.coefficients)
        return ARITHMETIC[step.operation](*floats)
    bits = [held[o] if isinstance(o, str) else np.array(int(o) & 0xFFFFFFFF, np.uint32) for o in step.operands]
    return ON_BITS[step.operation](*(each.view(np.int32) for each in bits)).view(np.float32)


def run_program(steps: Program, operands: Mapping[str, Floats]) -> Floats:
    """The value of the last step; without steps that of the operand."""
    held: dict[str, Array] = dict(operands)
    for step in steps:
        held[step.result] = _step(step, held)
    return held[steps[-1].result] if steps else operands[X].copy()


def build_function(site: Site) -> Kernel:
    """The steps of the function, one after another."""
    steps = program(site.op.name, site.attributes, site.dtype == np.float32)
    constants = [along_channels(site.weight(1), len(site.shape))] if len(site.op.operands) > 1 else []
    names = (X, SLOPE)[: 1 + len(constants)]
    kernel = elementwise(site, lambda operands: run_program(steps, dict(zip(names, operands, strict=True))))
    return lambda operands: kernel([operands[0], *constants])


for _name in FUNCTIONS:
    kernel(_name)(build_function)
