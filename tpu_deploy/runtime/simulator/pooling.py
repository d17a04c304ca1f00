"""PorD: depthwise convolution, maximum and average (sum) pooling."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import PoolOp
from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import (
    float_constant,
    integer,
    integer_constant,
    is_float,
    read_float,
    rounded,
    saturated,
    to_float,
)
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported
from tpu_deploy.runtime.simulator.rounding import shift_right
from tpu_deploy.runtime.simulator.windows import Window, padded, windows

Array = npt.NDArray[Any]


@executes("PorD")
def pool(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one PorD."""
    operation = fields["tsk_eu_typ"]
    if not fields["opd3_const"]:
        raise unsupported("PorD with a table of pad values")
    if operation == PoolOp.MAX and (fields["opd0_x_ins0"] or fields["opd0_y_ins0"]):
        raise unsupported("maximum pooling with zeros between inputs")
    if is_float(fields["opd0_prec"]):
        _float(fields, operands, memory)
    elif operands["x"].itemsize != 1:
        raise unsupported("PorD of 16-bit or 32-bit integers")
    elif operation == PoolOp.MAX:
        _maximum(fields, operands, memory)
    elif operation in (PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU):
        _depthwise(fields, operands, memory)
    elif operation == PoolOp.AVERAGE:
        _average(fields, operands, memory)
    else:
        raise unsupported(f"PorD operation {PoolOp(operation).name.lower()}")


def _input(fields: Fields, operands: Operands, memory: Memories, to: npt.DTypeLike) -> Array:
    """The padded input; a part of it may lie beyond the last window."""
    kind = integer(fields["opd0_prec"], fields["opd0_sign"])
    x = memory.read(operands["x"], kind, to)
    pad = integer_constant(fields["opd3_addr"], Precision.I8, fields["opd0_sign"])
    vertical, horizontal = windows(fields)
    return padded(x, vertical, horizontal, pad)


def _separable(x: Array, vertical: Window, horizontal: Window, combine: Callable[..., Array]) -> Array:
    """`combine` over all taps of each window, rows first."""
    rows: Array | None = None
    for _, down in vertical.taps():
        rows = x[:, :, down] if rows is None else combine(rows, x[:, :, down])
    assert rows is not None
    result: Array | None = None
    for _, across in horizontal.taps():
        part = rows[:, :, :, across]
        result = part if result is None else combine(result, part)
    assert result is not None
    return result


def _maximum(fields: Fields, operands: Operands, memory: Memories) -> None:
    kind = integer(fields["opd0_prec"], fields["opd0_sign"])
    x = _input(fields, operands, memory, kind)
    memory.write(operands["y"], _separable(x, *windows(fields), np.maximum))


def _average(fields: Fields, operands: Operands, memory: Memories) -> None:
    """The sum of the window times a constant unsigned weight, shifted right with halves up and saturated."""
    if not fields["opd1_const"]:
        raise unsupported("average pooling with a table of weights")
    x = _input(fields, operands, memory, np.int64)
    weight = integer_constant(fields["opd1_addr"], Precision.I8, False)
    total = _separable(x, *windows(fields), np.add) * weight
    shift = integer_constant(fields["opd2_addr"], Precision.I8, True)
    shifted = shift_right(total, shift, RoundMode.HALF_UP)
    memory.write(operands["y"], saturated(shifted, integer(fields["res0_prec"], fields["opd0_sign"])))


def _depthwise(fields: Fields, operands: Operands, memory: Memories) -> None:
    vertical, horizontal = windows(fields)
    wide = np.int32 if vertical.kernel * horizontal.kernel < 1 << 14 else np.int64
    x = _input(fields, operands, memory, wide)
    weights = _weights(fields, operands, memory, wide)
    total = np.zeros(operands["y"].dims, wide)
    product = np.empty_like(total)
    for down, rows in vertical.taps():
        for across, columns in horizontal.taps():
            np.multiply(x[:, :, rows, columns], weights[:, :, down : down + 1, across : across + 1], out=product)
            total += product
    signed = bool(fields["opd0_sign"] or fields["opd1_sign"] or fields["opd2_sign"])
    total = _with_bias(fields, operands, memory, total, signed)
    shift = fields["res1_addr"] >> 8 & 0x1F
    if shift:
        total = shift_right(total.astype(np.int64), shift, RoundMode(fields["opd2_n_str"]))
    if fields["tsk_eu_typ"] == PoolOp.DEPTHWISE_RELU:
        total, signed = np.maximum(total, 0), False
    memory.write(operands["y"], saturated(total, integer(fields["res0_prec"], signed)))


def _weights(fields: Fields, operands: Operands, memory: Memories, to: npt.DTypeLike) -> Array:
    """(1, c, kh, kw), or a single value in that rank repeated."""
    kh, kw = fields["opd1_h"], fields["opd1_w"]
    if fields["opd1_const"]:
        value = integer_constant(fields["opd1_addr"], Precision.I8, fields["opd1_sign"])
        return np.full((1, 1, kh, kw), value, to)
    weights = memory.read(operands["weight"], integer(fields["opd0_prec"], fields["opd1_sign"]), to)
    return weights[:, :, ::-1, ::-1] if fields["kernel_rotate"] else weights


def _with_bias(fields: Fields, operands: Operands, memory: Memories, total: Array, signed: bool) -> Array:
    """The sum in 32 bits, with a sign when the result has one; it wraps."""
    kind = integer(Precision.I32, signed)
    bias: Array = np.array(integer_constant(fields["opd2_addr"], Precision.I32, signed)).astype(kind)
    if not fields["opd2_const"]:
        bias = memory.read(operands["bias"], kind)
    result: Array = total.astype(kind) + bias
    return result


def _float(fields: Fields, operands: Operands, memory: Memories) -> None:
    operation, code = fields["tsk_eu_typ"], fields["opd0_prec"]
    if fields["res0_prec"] != code:
        raise unsupported("PorD with a result of another float type")
    pad = float_constant(fields["opd3_addr"], code)
    vertical, horizontal = windows(fields)
    x = padded(read_float(memory, operands["x"], code), vertical, horizontal, pad)
    taps = [x[:, :, rows, columns] for _, rows in vertical.taps() for _, columns in horizontal.taps()]
    with np.errstate(all="ignore"):
        if operation == PoolOp.MAX:
            result: Array = reduce(lambda a, b: np.where(a > b, a, b), taps)
        elif operation in (PoolOp.AVERAGE, PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU):
            result = _weighted_sum(fields, operands, memory, taps)
        else:
            raise unsupported(f"PorD operation {PoolOp(operation).name.lower()}")
        memory.write(operands["y"], to_float(result, code))


def _weighted_sum(fields: Fields, operands: Operands, memory: Memories, taps: list[Array]) -> Array:
    """Products summed in two accumulators, of even and of odd taps; the bias is where the odd one starts.

    Every step rounds to the element type.
    """
    code, depthwise = fields["opd0_prec"], fields["tsk_eu_typ"] != PoolOp.AVERAGE
    if fields["opd1_const"]:
        weights = np.broadcast_to(float_constant(fields["opd1_addr"], code), (1, 1, len(taps)))
    else:
        stored = read_float(memory, operands["weight"], code)
        weights = stored.reshape(1, stored.shape[1], -1)
        weights = weights[:, :, ::-1] if fields["kernel_rotate"] else weights
    nothing: Array = np.array(0.0 if depthwise else -0.0, np.float32)
    bias = nothing
    if depthwise:
        bias = float_constant(fields["opd2_addr"], code)
        bias = bias if fields["opd2_const"] else read_float(memory, operands["bias"], code)
    sums = [np.broadcast_to(start, taps[0].shape) for start in (nothing, bias)]
    for index, tap in enumerate(taps):
        product = rounded(tap * weights[:, :, index, None, None], code)
        sums[index % 2] = rounded(sums[index % 2] + product, code)
    total: Array = sums[0] + sums[1]
    return total
