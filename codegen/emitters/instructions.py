"""Single TIU instructions on tensors in local memory, as steps of a micro-program. Source: trials on the chip model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.isa import (
    ArithmeticOp,
    ConvolutionOp,
    Layout,
    PoolOp,
    Precision,
    RequantOp,
    SearchGatherOp,
    SfuOp,
    TransposeOp,
)
from tpu_deploy.codegen.layout import aligned_bytes, aligned_strides, channel_groups
from tpu_deploy.codegen.program import Access, Ref, Step
from tpu_deploy.codegen.views import Dims
from tpu_deploy.numbers import BFLOAT16, RoundMode, rounded

DIVISION_STEPS = 4
INTEGERS = {1: Precision.I8, 2: Precision.I16, 4: Precision.I32}
FLOATS = {np.dtype(np.float32): Precision.F32, np.dtype(np.float16): Precision.F16, BFLOAT16: Precision.BF16}


def precision(dtype: np.dtype[Any]) -> int:
    """The code of a numpy dtype."""
    return int(FLOATS[dtype] if dtype in FLOATS else INTEGERS[dtype.itemsize])


def signed(dtype: np.dtype[Any]) -> int:
    """1 for a signed or float dtype."""
    return int(dtype.kind != "u")


@dataclass(frozen=True)
class Local:
    """A tensor in a buffer, aligned layout unless `strides` (n, c slot, h, w in elements) are given."""

    buffer: str
    dims: Dims
    dtype: np.dtype[Any]
    offset: int = 0
    strides: Dims | None = None

    def access(self, chip: Chip) -> Access:
        """The bytes it covers."""
        if self.strides is None:
            return Access(self.buffer, self.offset, self.offset + aligned_bytes(self.dims, self.dtype.itemsize, chip))
        n, c, h, w = self.dims
        last = [n - 1, channel_groups(c, chip) - 1, h - 1, w - 1]
        reach = sum(k * s for k, s in zip(last, self.strides, strict=True)) + 1
        return Access(self.buffer, self.offset, self.offset + reach * self.dtype.itemsize)

    @property
    def ref(self) -> Ref:
        """The address of its first byte."""
        return Ref(self.buffer, self.offset)


@dataclass(frozen=True)
class Constant:
    """An operand that is one number, given by its bit pattern's value."""

    value: int
    dtype: np.dtype[Any]

    @staticmethod
    def floating(value: float, dtype: np.dtype[Any]) -> Constant:
        """A constant of a float type, rounded to it."""
        single = rounded(np.array([value], np.float32), dtype)
        return Constant(int(single.view(f"u{dtype.itemsize}")[0]), dtype)

    @staticmethod
    def float32(value: float) -> Constant:
        """A float32 constant."""
        return Constant.floating(value, np.dtype(np.float32))

    @property
    def bits(self) -> int:
        """What the address field holds."""
        return self.value & ((1 << (8 * self.dtype.itemsize)) - 1)


def _sizes(prefix: str, dims: Dims, letters: str = "nchw") -> dict[str, int]:
    return {f"{prefix}_{k}": v for k, v in zip("nchw", dims, strict=True) if k in letters}


def _broadcast_strides(local: Local, dims: Dims, chip: Chip) -> Dims | None:
    """Strides for reading `local` under `dims`; None when the plain aligned layout does."""
    if local.dims == dims and local.strides is None:
        return None
    own = local.strides or aligned_strides(local.dims, local.dtype.itemsize, chip)
    n, c, h, w = (0 if size == 1 != want else s for size, want, s in zip(local.dims, dims, own, strict=True))
    return n, c, h, w


def arithmetic(
    op: ArithmeticOp,
    result: Local,
    left: Local | Constant,
    right: Local | Constant | None,
    chip: Chip,
    *,
    shift: int | None = None,
    mode: RoundMode = RoundMode.HALF_UP,
    result_signed: bool | None = None,
) -> Step:
    """An AR: `result = op(left, right)`, for integer sums and products with `shift` rounded right by it.

    Operands with dimensions of size 1 are broadcast. A cast rounds by `mode`; `result_signed` is its result's sign.
    """
    fields = {"tsk_eu_typ": int(op), "tsk_opd_num": 1 if right is None else 2, "res0_prec": precision(result.dtype)}
    fields |= _sizes("res0", result.dims)
    if result.strides is not None:
        fields["res0_str"] = int(Layout.FREE_STRIDE)
        fields |= {f"res0_{k}_str": s for k, s in zip("nchw", result.strides, strict=True)}
    addresses = {"res0_addr": result.ref}
    reads = []
    for name, operand in (("opd0", left), ("opd1", right)):
        if operand is None:
            continue
        fields[f"{name}_prec"] = precision(operand.dtype)
        fields[f"{name}_sign"] = signed(operand.dtype)
        if isinstance(operand, Constant):
            fields |= {f"{name}_const": 1, f"{name}_addr": operand.bits}
            continue
        addresses[f"{name}_addr"] = operand.ref
        reads.append(operand.access(chip))
        strides = _broadcast_strides(operand, result.dims, chip)
        if strides is not None:
            fields[f"{name}_str"] = int(Layout.FREE_STRIDE)
            fields |= {f"{name}_{k}_str": s for k, s in zip("nchw", strides, strict=True)}
    if shift is not None:
        fields |= {"tsk_opd_num": 3, "opd2_const": 1, "opd2_prec": int(Precision.I8), "opd2_sign": 1}
        fields |= {"opd2_addr": -shift & 0xFF, "opd2_n_str": int(mode)}
    elif op is ArithmeticOp.CAST:
        sign = signed(result.dtype) if result_signed is None else int(result_signed)
        fields |= {"opd2_n_str": int(mode), "opd2_sign": sign}
    return Step("sAR", fields, addresses, tuple(reads), (result.access(chip),))


def cast(result: Local, x: Local, chip: Chip, mode: RoundMode = RoundMode.HALF_AWAY) -> Step:
    """`x` converted to the result's type, saturating; float to integer rounds by `mode`."""
    return arithmetic(ArithmeticOp.CAST, result, x, None, chip, mode=mode)


@dataclass(frozen=True)
class Window:
    """A sliding window: kernel, strides, dilations (h, w) and pads (top, left, bottom, right) filled with a value.

    `inserts` (h, w) zeros stand between the elements of the input.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: int = 0
    inserts: tuple[int, int] = (0, 0)

    def fields(self) -> dict[str, int]:
        """The geometry fields that CONV and PorD share."""
        top, left, bottom, right = self.pads
        return {
            "opd0_up_pad": top,
            "opd0_lf_pad": left,
            "opd0_dn_pad": bottom,
            "opd0_rt_pad": right,
            "res_op_y_str": self.strides[0],
            "res_op_x_str": self.strides[1],
            "opd0_y_ins0": self.inserts[0],
            "opd0_x_ins0": self.inserts[1],
            "opd1_y_ins0": self.dilations[0] - 1,
            "opd1_x_ins0": self.dilations[1] - 1,
            "opd1_h": self.kernel[0],
            "opd1_w": self.kernel[1],
            "opd3_const": 1,
            "opd3_addr": self.pad_value,
        }


def convolution(
    result: Local,
    x: Local,
    weights: Access,
    window: Window,
    chip: Chip,
    *,
    bias: Access | None = None,
    add: bool = False,
) -> Step:
    """A CONV: int32 sums of 8-bit products, or float32 sums of floats rounded to the type of the result.

    With `add` they are added to what the result holds. Floats may have a float32 `bias`, a number a channel.
    """
    fields = {
        "tsk_eu_typ": int(ConvolutionOp.NORMAL),
        "opd0_sign": signed(x.dtype),
        "opd1_sign": 1,
        "opd0_prec": precision(x.dtype),
        "res0_prec": precision(result.dtype),
        "opd2_const": int(bias is None),
        "res_add": int(add),
        **_sizes("res0", result.dims),
        **_sizes("opd0", x.dims, "chw"),
        **window.fields(),
    }
    if x.strides is not None:
        fields["opd0_str"] = int(Layout.FREE_STRIDE)
        fields |= {f"opd0_{k}_str": s for k, s in zip("nchw", x.strides, strict=True)}
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref, "opd1_addr": Ref(weights.buffer, weights.start)}
    written = result.access(chip)
    reads = [x.access(chip), weights]
    if bias is not None:
        addresses["opd2_addr"] = Ref(bias.buffer, bias.start)
        reads.append(bias)
    if add:
        reads.append(written)
    return Step("sCONV", fields, addresses, tuple(reads), (written,))


def pooling(
    op: PoolOp,
    result: Local,
    x: Local,
    window: Window,
    chip: Chip,
    *,
    weights: Access | Constant | None = None,
    bias: Access | None = None,
    shift: int = 0,
) -> Step:
    """A PorD: maximum, weighted sum by one constant, or depthwise convolution with a weight and bias table.

    Depthwise sums are shifted right by `shift`, rounded half up and saturated to the result's type.
    """
    fields = {
        "tsk_eu_typ": int(op),
        "opd0_sign": signed(x.dtype),
        "opd1_sign": 1,
        "opd2_sign": 1,
        "opd0_prec": precision(x.dtype),
        "res0_prec": precision(result.dtype),
        **_sizes("res0", result.dims),
        **_sizes("opd0", x.dims, "hw"),
        **window.fields(),
    }
    if shift:
        fields |= {"res1_addr": shift << 8, "opd2_n_str": int(RoundMode.HALF_UP)}
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref}
    reads = [x.access(chip)]
    if isinstance(weights, Access):
        addresses["opd1_addr"] = Ref(weights.buffer, weights.start)
        reads.append(weights)
    elif weights is not None:
        fields |= {"opd1_const": 1, "opd1_addr": weights.bits}
    if bias is not None:
        addresses["opd2_addr"] = Ref(bias.buffer, bias.start)
        reads.append(bias)
    else:
        fields["opd2_const"] = 1
    return Step("sPorD", fields, addresses, tuple(reads), (result.access(chip),))


def _requant_fields(op: RequantOp, result: Local, x: Local) -> dict[str, int]:
    return {
        "tsk_eu_typ": int(op),
        "opd0_sign": signed(x.dtype),
        "opd2_sign": signed(result.dtype),
        "opd0_prec": precision(x.dtype),
        "res0_prec": precision(result.dtype),
        **_sizes("res0", result.dims),
    }


def requantize(
    result: Local,
    x: Local,
    multiplier: int,
    shift: int,
    zero_point: int,
    chip: Chip,
    mode: RoundMode = RoundMode.HALF_UP,
) -> Step:
    """An RQ with one multiplier: `sat(round(x * multiplier >> shift) + zero_point)` of int16 or int32.

    Raises ValueError for a multiplier that is not an int32.
    """
    if not -(1 << 31) <= multiplier < 1 << 31:
        raise ValueError(f"requantization multiplier {multiplier} does not fit 32 bits")
    fields = _requant_fields(RequantOp.RQ_INT, result, x) | {
        "opd2_n_str": int(mode),
        "opd1_const": 1,
        "opd1_addr": multiplier & 0xFFFFFFFF,
        "opd2_addr": (-shift & 0xFF) | (zero_point & 0xFFFF) << 16,
    }
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref}
    return Step("sRQ_sDQ", fields, addresses, (x.access(chip),), (result.access(chip),))


def requantize_channels(result: Local, x: Local, table: Access, chip: Chip) -> Step:
    """An RQ with a table: in a 64-byte slot a channel int32 multiplier, minus shift, zero point; rounds half up."""
    fields = _requant_fields(RequantOp.RQ_INT, result, x) | {"opd2_n_str": int(RoundMode.HALF_UP)}
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref, "opd1_addr": Ref(table.buffer, table.start)}
    return Step("sRQ_sDQ", fields, addresses, (x.access(chip), table), (result.access(chip),))


def dequantize(result: Local, x: Local, scale: float, zero_point: int, chip: Chip) -> Step:
    """A DQ with constants: `f32(x - zero_point) * f32(scale)`."""
    fields = _requant_fields(RequantOp.DQ_FLOAT, result, x) | {
        "opd1_const": 1,
        "opd1_addr": zero_point & 0xFFFF,
        "opd2_addr": int(np.float32(scale).view(np.uint32)),
    }
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref}
    return Step("sRQ_sDQ", fields, addresses, (x.access(chip),), (result.access(chip),))


def look_up(result: Local, index: Local, table: Access, chip: Chip, *, shared: bool) -> Step:
    """An SG gather: `table[byte of index]`, one 256-entry table in each lane if `shared`, else one a channel."""
    n, c, h, w = index.dims
    fields = {
        "tsk_eu_typ": int(SearchGatherOp.PE_GATHER),
        "res0_prec": int(Precision.I8),
        "opd0_prec": int(Precision.I8),
        "opd1_prec": int(Precision.I8),
        "opd0_str": int(Layout.FREE_STRIDE) if shared else 0,
        "res0_n": n,
        "res0_c": c,
        "res0_h": 1,
        "res0_w": h * w,
        "opd0_h": 1,
        "opd0_w": 256,
        "opd1_c": c,
        "opd1_w": h * w,
    }
    addresses = {"res0_addr": result.ref, "opd0_addr": Ref(table.buffer, table.start), "opd1_addr": index.ref}
    return Step("sSG", fields, addresses, (index.access(chip), table), (result.access(chip),))


def divide(result: Local, left: Local | Constant, right: Local, chip: Chip) -> Step:
    """A float32 AR division with four Newton steps, the most precise it has (3 ulp)."""
    step = arithmetic(ArithmeticOp.DIV, result, left, right, chip)
    return replace(step, fields={**step.fields, "opd2_n_str": DIVISION_STEPS - 1})


def taylor(result: Local, x: Local, coefficients: Access, terms: int, chip: Chip) -> Step:
    """An SFU polynomial by Horner's rule, each step rounded; float32 coefficients in every lane."""
    fields = {
        "tsk_eu_typ": int(SfuOp.TAYLOR),
        "res0_prec": precision(result.dtype),
        "opd0_prec": precision(x.dtype),
        "opd1_n": terms,
        **_sizes("res0", result.dims),
    }
    table = Ref(coefficients.buffer, coefficients.start)
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref, "opd1_addr": table}
    return Step("sSFU", fields, addresses, (x.access(chip), coefficients), (result.access(chip),))


def transpose_channels(result: Local, x: Local, chip: Chip) -> Step:
    """A TRANS of c and w: (n, c, 1, w) to (n, w, 1, c)."""
    n, c, _, w = x.dims
    fields = {
        "tsk_eu_typ": int(TransposeOp.CW if c == 1 else TransposeOp.WC),
        "res0_prec": precision(x.dtype),
        "res0_n": n,
        "res0_c": w,
        "res0_h": 1,
        "res0_w": c,
        "opd0_c": c,
        "opd0_w": w,
    }
    addresses = {"res0_addr": result.ref, "opd0_addr": x.ref}
    return Step("sTRANS_sBC", fields, addresses, (x.access(chip),), (result.access(chip),))
