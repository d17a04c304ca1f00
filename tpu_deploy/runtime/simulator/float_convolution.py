"""CONV of floats."""

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import ConvolutionOp
from tpu_deploy.codegen.isa.precision import Precision
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import float_constant, read_float, to_float
from tpu_deploy.runtime.simulator.float_products import BLOCK, alternating_product, tree_product
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, unsupported
from tpu_deploy.runtime.simulator.windows import Window, padded, windows

Floats = npt.NDArray[np.float32]


def convolve_floats(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one CONV of f32, f16 or bf16."""
    code, result_code = fields["opd0_prec"], fields["res0_prec"]
    if fields["tsk_eu_typ"] != ConvolutionOp.NORMAL or "pad" in operands:
        raise unsupported("CONV of floats that requantizes or has a table of pad values")
    if result_code not in (code, Precision.F32):
        raise unsupported("CONV with a result of another float type")
    if "sum" in operands and result_code != Precision.F32:
        raise unsupported("CONV adding to a 16-bit result")
    vertical, horizontal = windows(fields)
    x = read_float(memory, operands["x"], code)
    spread = padded(x, vertical, horizontal, float_constant(fields["opd3_addr"], code))
    weights = _weights(fields, operands, memory)
    oc = weights.shape[0]
    bias = _bias(fields, operands, memory).reshape(-1, 1)
    before = read_float(memory, operands["sum"], Precision.F32) if "sum" in operands else None
    result = np.empty(operands["y"].dims, np.float32)
    with np.errstate(all="ignore"):
        for index, image in enumerate(spread):
            taken = before[index].reshape(oc, -1) if before is not None else None
            columns = _columns(image, vertical, horizontal)
            result[index] = _product(code, weights, columns, bias, taken).reshape(result.shape[1:])
        memory.write(operands["y"], to_float(result, result_code))


def _weights(fields: Fields, operands: Operands, memory: Memories) -> Floats:
    """(oc, ic, taps), taps in the order the windows meet them."""
    code, oc, ic = fields["opd0_prec"], fields["res0_c"], fields["opd0_c"]
    taps = fields["opd1_h"] * fields["opd1_w"]
    if fields["opd1_const"]:
        return np.broadcast_to(float_constant(fields["opd1_addr"], code), (oc, ic, taps))
    stored = read_float(memory, operands["weight"], code)
    block = 1 if code == Precision.F32 else BLOCK
    weights = stored.reshape(oc, -1, taps, block).transpose(0, 1, 3, 2).reshape(oc, -1, taps)[:, :ic]
    return weights[:, :, ::-1] if fields["kernel_rotate"] else weights


def _bias(fields: Fields, operands: Operands, memory: Memories) -> Floats:
    """One f32, or one a result channel."""
    if "per_channel" in operands:
        return read_float(memory, operands["per_channel"], Precision.F32)
    return float_constant(fields["opd2_addr"], Precision.F32)


def _columns(image: Floats, vertical: Window, horizontal: Window) -> Floats:
    """(ic, taps, oh * ow): what each tap meets in each channel."""
    pairs = [(down, across) for _, down in vertical.taps() for _, across in horizontal.taps()]
    columns = np.stack([image[:, down, across] for down, across in pairs], axis=1)
    return columns.reshape(*columns.shape[:2], -1)


def _product(code: int, weights: Floats, columns: Floats, bias: Floats, before: Floats | None) -> Floats:
    """(oc, oh * ow). f32 goes through all taps of a channel, 16-bit types through all channels of a block at a tap."""
    oc, ic, taps = weights.shape
    if code == Precision.F32:
        return alternating_product(weights.reshape(oc, -1), columns.reshape(ic * taps, -1), bias, before)
    steps = -(-ic // BLOCK)
    left = np.zeros((oc, steps * BLOCK, taps), np.float32)
    left[:, :ic] = weights
    right = np.zeros((steps * BLOCK, taps, columns.shape[2]), np.float32)
    right[:ic] = columns
    left = left.reshape(oc, steps, BLOCK, taps).transpose(0, 1, 3, 2).reshape(oc, -1, BLOCK)
    right = right.reshape(steps, BLOCK, taps, -1).transpose(0, 2, 1, 3).reshape(steps * taps, BLOCK, -1)
    start = np.broadcast_to(bias, (oc, columns.shape[2]))
    return tree_product(left, right, start if before is None else start + before)
