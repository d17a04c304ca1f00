"""CONV: convolution of 8-bit integers, exactly."""

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import ConvolutionOp
from tpu_deploy.codegen.isa.precision import Precision, RoundMode
from tpu_deploy.codegen.tiu_operands import CONVOLUTION_BLOCK, Operands
from tpu_deploy.runtime.simulator.elements import integer, integer_constant, is_float, saturated
from tpu_deploy.runtime.simulator.exact import exact_product
from tpu_deploy.runtime.simulator.float_convolution import convolve_floats
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported
from tpu_deploy.runtime.simulator.rounding import shift_right
from tpu_deploy.runtime.simulator.windows import Window, padded, windows

Floats = npt.NDArray[np.float32]

_COLUMN_BYTES = 1 << 24
"""How much of the input is spread out into columns at a time."""


@executes("CONV")
def convolve(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one CONV."""
    if is_float(fields["opd0_prec"]):
        convolve_floats(fields, operands, memory)
        return
    if not operands["x"].itemsize == 1:
        raise unsupported("CONV of 16-bit or 32-bit integers")
    x = memory.read(operands["x"], integer(fields["opd0_prec"], fields["opd0_sign"]), np.float32)
    weights = _weights(fields, operands, memory)
    vertical, horizontal = windows(fields)
    spread = padded(x, vertical, horizontal, _pad(fields))
    total = np.empty(operands["y"].dims, np.int32)
    for image, result in zip(spread, total, strict=True):
        _image(image, weights, vertical, horizontal, result)
    _store(fields, operands, memory, total)


def _pad(fields: Fields) -> int:
    if not fields["opd3_const"]:
        raise unsupported("CONV with a table of pad values")
    return integer_constant(fields["opd3_addr"], Precision.I8, fields["opd0_sign"])


def _weights(fields: Fields, operands: Operands, memory: Memories) -> Floats:
    """(oc, taps * ic) float32, the kernel zero point subtracted, taps in the order the windows meet them."""
    oc, ic, taps = fields["res0_c"], fields["opd0_c"], fields["opd1_h"] * fields["opd1_w"]
    kind = integer(fields["opd0_prec"], fields["opd1_sign"])
    if fields["opd1_const"]:
        value = integer_constant(fields["opd1_addr"], Precision.I8, fields["opd1_sign"])
        weights = np.full((oc, taps, ic), value, np.float32)
    else:
        block = CONVOLUTION_BLOCK[Precision.I8]
        packed = memory.read(operands["weight"], kind).reshape(oc, -1, taps, block)
        if fields["kernel_rotate"]:
            packed = packed[:, :, ::-1]
        spread = np.empty((oc, taps, packed.shape[1], block), np.float32)
        spread[...] = packed.transpose(0, 2, 1, 3)
        weights = spread.reshape(oc, taps, -1)[:, :, :ic]
    zero_point = _kernel_zero_point(fields, operands, memory)
    if np.any(zero_point):
        weights = weights - zero_point
    return np.ascontiguousarray(weights).reshape(oc, taps * ic)


def _kernel_zero_point(fields: Fields, operands: Operands, memory: Memories) -> Floats:
    """One value as (1, 1, 1), or one a result channel as (oc, 1, 1)."""
    if fields["tsk_eu_typ"] != ConvolutionOp.NORMAL:
        return np.zeros((1, 1, 1), np.float32)
    if fields["opd2_const"]:
        value = integer_constant(fields["opd2_addr"], Precision.I8, fields["opd2_sign"])
        return np.full((1, 1, 1), value, np.float32)
    table = memory.read(operands["per_channel"], integer(Precision.I8, fields["opd2_sign"]), np.float32)
    return table.reshape(-1, 1, 1)


def _image(x: Floats, weights: Floats, vertical: Window, horizontal: Window, result: npt.NDArray[np.int32]) -> None:
    """Fills (oc, oh, ow) from (ic, h, w), spreading the input for a bounded number of rows at a time."""
    ic, oc = x.shape[0], result.shape[0]
    if vertical.is_plain and horizontal.is_plain:
        result[...] = exact_product(weights, x.reshape(ic, -1)).reshape(result.shape)
        return
    rows = max(1, _COLUMN_BYTES // (4 * weights.shape[1] * horizontal.outputs))
    for first in range(0, vertical.outputs, rows):
        count = min(rows, vertical.outputs - first)
        columns = _columns(x, vertical, horizontal, first, count)
        product = exact_product(weights, columns)
        result[:, first : first + count] = product.reshape(oc, count, horizontal.outputs)


def _columns(x: Floats, vertical: Window, horizontal: Window, first: int, count: int) -> Floats:
    """(taps * ic, rows * ow): what each tap meets in each channel, for `count` rows of the result from `first`."""
    ic, ow = x.shape[0], horizontal.outputs
    columns = np.empty((vertical.kernel * horizontal.kernel, ic, count, ow), np.float32)
    tap = 0
    for down in range(vertical.kernel):
        start = first * vertical.stride + down * vertical.dilation
        rows = slice(start, start + (count - 1) * vertical.stride + 1, vertical.stride)
        for _, across in horizontal.taps():
            columns[tap] = x[:, rows, across]
            tap += 1
    return columns.reshape(-1, count * ow)


def _store(fields: Fields, operands: Operands, memory: Memories, total: npt.NDArray[np.int32]) -> None:
    signed = bool(fields["opd0_sign"] or fields["opd1_sign"] or fields["opd2_sign"])
    operation = fields["tsk_eu_typ"]
    place = operands["y"]
    if operation != ConvolutionOp.NORMAL:
        signed = signed and operation == ConvolutionOp.WRQ
        if "per_channel" in operands:
            bias = memory.read(operands["per_channel"], integer(Precision.I16, fields["opd2_sign"]), np.int64)
            bias = bias.reshape(1, -1, 1, 1)
        else:
            value = integer_constant(fields["opd2_addr"], Precision.I16, fields["opd2_sign"])
            bias = np.full((1, 1, 1, 1), value, np.int64)
        shifted = shift_right(total + bias, fields["opd3_addr"] & 0x1F, RoundMode.HALF_UP)
        memory.write(place, saturated(shifted, integer(fields["res0_prec"], signed)))
        return
    if fields["res_add"]:
        if fields["res0_prec"] != Precision.I32:
            raise unsupported("CONV adding to a result that is not i32")
        np.add(total, memory.read(place, np.int32), out=total)
    # a kernel zero point makes the result signed, whatever its own sign
    signed = signed or "per_channel" in operands or bool(fields["opd2_addr"]) or fields["res0_prec"] == Precision.I32
    memory.write(place, saturated(total, integer(fields["res0_prec"], signed)))
