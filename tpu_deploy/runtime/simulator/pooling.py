"""PorD: depthwise convolution, maximum and average (sum) pooling."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import PoolOp
from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import integer, integer_constant, is_float, saturated
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported
from tpu_deploy.runtime.simulator.rounding import shift_right
from tpu_deploy.runtime.simulator.windows import Window, padded, windows

Array = npt.NDArray[Any]


@executes("PorD")
def pool(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one PorD."""
    if is_float(fields["opd0_prec"]):
        raise unsupported(f"PorD of {Precision(fields['opd0_prec']).name.lower()}")
    if operands["x"].itemsize != 1:
        raise unsupported("PorD of 16-bit or 32-bit integers")
    if not fields["opd3_const"]:
        raise unsupported("PorD with a table of pad values")
    operation = fields["tsk_eu_typ"]
    if operation == PoolOp.MAX:
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
    """The sum of the window times a constant weight, shifted right and saturated."""
    if not fields["opd1_const"]:
        raise unsupported("average pooling with a table of weights")
    x = _input(fields, operands, memory, np.int64)
    weight = integer_constant(fields["opd1_addr"], Precision.I8, fields["opd1_sign"])
    total = _separable(x, *windows(fields), np.add) * weight
    shift = integer_constant(fields["opd2_addr"], Precision.I8, True)
    shifted = shift_right(total, shift, RoundMode(fields["opd2_n_str"]))
    signed = bool(fields["opd0_sign"] or fields["opd1_sign"])
    memory.write(operands["y"], saturated(shifted, integer(fields["res0_prec"], signed)))


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
    total = _with_bias(fields, operands, memory, total)
    signed = bool(fields["opd0_sign"] or fields["opd1_sign"] or fields["opd2_sign"])
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


def _with_bias(fields: Fields, operands: Operands, memory: Memories, total: Array) -> Array:
    if fields["opd2_const"]:
        bias = integer_constant(fields["opd2_addr"], Precision.I32, True)
        return total + total.dtype.type(bias) if bias else total
    return total + memory.read(operands["bias"], np.int32)
