"""The places of the results and operands of TIU commands, one function a family of instructions.

A constant operand has no place. Each function gives what the command reads and what it writes, by role. Source: the
instructions executed on the vendor's chip model, all of local memory compared afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from tpu_deploy.codegen.isa.encoding import INSTRUCTIONS, Command
from tpu_deploy.codegen.isa.operations import (
    ArithmeticOp,
    CompareOp,
    LinearOp,
    Matrix2Op,
    MatrixOp,
    PoolOp,
    RequantOp,
    SearchGatherOp,
    SfuOp,
    TransposeOp,
)
from tpu_deploy.codegen.isa.precision import Layout, Precision
from tpu_deploy.codegen.places import Place, Quad, aligned, compact, in_every_lane, line_aligned, slots, strided

Fields = Mapping[str, int]

CONVOLUTION_BLOCK = {Precision.I8: 64, Precision.F16: 32, Precision.BF16: 32, Precision.F32: 1}
"""Input channels that lie next to each other in packed convolution weights."""


class UnsupportedCommandError(Exception):
    """The command is one this package does not know how to read; the message says what about it."""


@dataclass(frozen=True, slots=True)
class Operands:
    """What a command reads and what it writes, by role."""

    reads: dict[str, Place]
    writes: dict[str, Place]

    def __getitem__(self, role: str) -> Place:
        return self.writes[role] if role in self.writes else self.reads[role]

    def __contains__(self, role: str) -> bool:
        return role in self.reads or role in self.writes


_FAMILIES: dict[str, Callable[[Fields], Operands]] = {}


def _family(name: str) -> Callable[[Callable[[Fields], Operands]], Callable[[Fields], Operands]]:
    def register(function: Callable[[Fields], Operands]) -> Callable[[Fields], Operands]:
        assert name not in _FAMILIES, f"{name} is placed twice"
        _FAMILIES[name] = function
        return function

    return register


def tiu_operands(command: Command) -> Operands:
    """The places of a TIU command; raises UnsupportedCommandError."""
    family = INSTRUCTIONS[command.name].family
    if family not in _FAMILIES:
        raise UnsupportedCommandError(f"{family} is not supported")
    for name in _unread_modes(command.name):
        if command.fields[name]:
            raise UnsupportedCommandError(f"{family} with {name}={command.fields[name]}")
    return _FAMILIES[family](command.fields)


_MODES = ("_str", "_shift", "_ins0", "_pad", "relu", "res_add", "left_tran", "kernel_rotate", "pad_mode", "eu_half_en")


@cache
def _unread_modes(name: str) -> tuple[str, ...]:
    """The fields of an instruction that would change what it does and that nothing here reads.

    In the long form that is every mode which the short form of the family does not have.
    """
    instruction = INSTRUCTIONS[name]
    forms = [each for each in INSTRUCTIONS.values() if each.family == instruction.family]
    short = {row.name for row in min(forms, key=lambda each: each.bits).fields} - {"pad_mode"}
    modes = (row.name for row in instruction.fields if row.name.endswith(_MODES) or row.name == "res_add_sign")
    return tuple(mode for mode in modes if mode not in short)


def itemsize(fields: Fields, field: str) -> int:
    """Bytes of an element whose precision the field holds; raises UnsupportedCommandError."""
    size = _ITEMSIZE.get(fields[field])
    if size is None:
        raise UnsupportedCommandError(f"{field}={fields[field]} is no supported element type")
    return size


_ITEMSIZE = {int(each): each.itemsize for each in Precision if each != Precision.I4}


def _dims(fields: Fields, prefix: str) -> Quad:
    return fields[f"{prefix}_n"], fields[f"{prefix}_c"], fields[f"{prefix}_h"], fields[f"{prefix}_w"]


def _tensor(fields: Fields, prefix: str, dims: Quad, size: int) -> Place:
    """A tensor in the layout its field `*_str` names."""
    address, layout = fields[f"{prefix}_addr"], fields.get(f"{prefix}_str", 0)
    if layout == Layout.ALIGNED:
        return aligned(address, dims, size)
    if layout == Layout.COMPACT:
        return compact(address, dims, size)
    if layout == Layout.FREE_STRIDE:
        n, c, h, w = (fields[f"{prefix}_{axis}_str"] for axis in "nchw")
        return strided(address, dims, (n, c, h, w), size)
    if layout == Layout.PER_CHANNEL:
        return strided(address, dims, (0, 1, 0, 0), size)
    raise UnsupportedCommandError(f"{prefix}_str={layout} is no layout")


def _per_channel(fields: Fields, prefix: str, channels: int, size: int) -> Place:
    return compact(fields[f"{prefix}_addr"], (1, channels, 1, 1), size)


@_family("CONV")
def _convolution(fields: Fields) -> Operands:
    size, dims = itemsize(fields, "opd0_prec"), _dims(fields, "res0")
    channels = fields["opd0_c"]
    result = aligned(fields["res0_addr"], dims, itemsize(fields, "res0_prec"))
    shape = (fields["res0_n"], channels, fields["opd0_h"], fields["opd0_w"])
    reads = {"x": _tensor(fields, "opd0", shape, size)}
    if not fields["opd1_const"]:
        block = CONVOLUTION_BLOCK.get(Precision(fields["opd0_prec"]))
        if block is None:
            raise UnsupportedCommandError(f"CONV of element type {fields['opd0_prec']}")
        taps = fields["opd1_h"] * fields["opd1_w"]
        packed = -(-channels // block) * taps * block
        reads["weight"] = compact(fields["opd1_addr"], (1, dims[1], 1, packed), size)
    if not fields["opd2_const"]:
        width = 4 if size > 1 else 2 if fields["tsk_eu_typ"] else 1
        reads["per_channel"] = _per_channel(fields, "opd2", dims[1], width)
    if not fields["opd3_const"]:
        reads["pad"] = compact(fields["opd3_addr"], (1, channels, 1, 1), size)
    if fields["res_add"]:
        reads["sum"] = result
    return Operands(reads, {"y": result})


@_family("PorD")
def _pool(fields: Fields) -> Operands:
    size, dims = itemsize(fields, "opd0_prec"), _dims(fields, "res0")
    n, c, _, _ = dims
    reads = {"x": _tensor(fields, "opd0", (n, c, fields["opd0_h"], fields["opd0_w"]), size)}
    operation = fields["tsk_eu_typ"]
    kernel = (1, c, fields["opd1_h"], fields["opd1_w"])
    if operation != PoolOp.MAX and not fields["opd1_const"]:
        reads["weight"] = compact(fields["opd1_addr"], kernel, size)
    if operation in (PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU) and not fields["opd2_const"]:
        reads["bias"] = _per_channel(fields, "opd2", c, 4 if size == 1 else size)
    if not fields["opd3_const"]:
        reads["pad"] = compact(fields["opd3_addr"], (1, c, 1, 1), size)
    return Operands(reads, {"y": aligned(fields["res0_addr"], dims, itemsize(fields, "res0_prec"))})


@_family("MM")
def _matrix(fields: Fields) -> Operands:
    size, lanes, last = itemsize(fields, "opd0_prec"), fields["opd0_c"], fields["opd1_w"]
    stored, width, columns = fields["opd0_n"], fields["opd0_w"], (fields["res0_c"], 1, fields["res0_w"])
    left = aligned(fields["opd0_addr"], (stored, lanes, 1, width), size)
    inner = width * (lanes - 1) + last
    rows, depth = (inner, stored) if fields["left_tran"] else (stored, inner)
    reads = {"left": left, "right": aligned(fields["opd1_addr"], (depth, *columns), size)}
    result = aligned(fields["res0_addr"], (rows, *columns), itemsize(fields, "res0_prec"))
    # integers take address 0 for "no bias"
    if not fields["opd2_const"] and (Precision(fields["opd0_prec"]).is_float or fields["opd2_addr"]):
        small = fields["tsk_eu_typ"] in (MatrixOp.WRQ, MatrixOp.WRQ_RELU)
        reads["bias"] = aligned(fields["opd2_addr"], (1, *columns), 2 if small else 4)
    if fields["res_add"]:
        reads["sum"] = result
    return Operands(reads, {"y": result})


@_family("MM2")
def _matrix2(fields: Fields) -> Operands:
    size, result_size = itemsize(fields, "opd0_prec"), itemsize(fields, "res0_prec")
    rows, columns = fields["res0_c"], fields["res0_w"]
    right = (1, fields["opd1_c"], 1, fields["opd1_w"])
    if fields["tsk_eu_typ"] == Matrix2Op.TT:
        left = (1, fields["opd1_w"], 1, columns)
    else:
        left = (1, rows, 1, fields["opd1_c" if fields["tsk_eu_typ"] == Matrix2Op.NN else "opd1_w"])
    result = aligned(fields["res0_addr"], (1, rows, 1, columns), result_size)
    reads = {}
    if not fields["opd0_const"]:
        reads["left"] = aligned(fields["opd0_addr"], left, size)
    if not fields["opd1_const"]:
        reads["right"] = aligned(fields["opd1_addr"], right, size)
    if not fields["opd2_const"] and size == 1:
        reads["zero_point"] = _per_channel(fields, "opd2", rows, 1)
    if fields["res_add"]:
        reads["sum"] = result
    return Operands(reads, {"y": result})


_SHIFTING = {ArithmeticOp.MUL, ArithmeticOp.ADD, ArithmeticOp.SUB, ArithmeticOp.ADDS, ArithmeticOp.SUBS}
_SHIFTING |= {ArithmeticOp.MULS}


@_family("AR")
def _arithmetic(fields: Fields) -> Operands:
    dims, count = _dims(fields, "res0"), fields["tsk_opd_num"]
    reads = {}
    for role, prefix in list(zip("ab", ("opd0", "opd1"), strict=True))[:count]:
        if not fields[f"{prefix}_const"]:
            reads[role] = _tensor(fields, prefix, dims, itemsize(fields, f"{prefix}_prec"))
    if count == 3 and not fields["opd2_const"]:
        if fields["tsk_eu_typ"] not in _SHIFTING:
            raise UnsupportedCommandError("AR with a third operand that is no constant")
        reads["c"] = _per_channel(fields, "opd2", dims[1], 1)
    return Operands(reads, {"y": _tensor(fields, "res0", dims, itemsize(fields, "res0_prec"))})


_TABLE_WORDS = {RequantOp.RQ_FLOAT: 2, RequantOp.RQ_INT: 3, RequantOp.DQ_FLOAT: 2, RequantOp.DQ_INT: 3}


@_family("RQ_DQ")
def _requantization(fields: Fields) -> Operands:
    dims = _dims(fields, "res0")
    reads = {"x": aligned(fields["opd0_addr"], dims, itemsize(fields, "opd0_prec"))}
    if not fields["opd1_const"]:
        words = _TABLE_WORDS.get(RequantOp(fields["tsk_eu_typ"]), 3)
        reads["table"] = slots(fields["opd1_addr"], dims[1], words)
    return Operands(reads, {"y": aligned(fields["res0_addr"], dims, itemsize(fields, "res0_prec"))})


@_family("TRANS_BC")
def _transposition(fields: Fields) -> Operands:
    size, dims, operation = itemsize(fields, "res0_prec"), _dims(fields, "res0"), fields["tsk_eu_typ"]
    n, c, h, w = dims
    y, x = fields["res0_addr"], fields["opd0_addr"]
    if operation in (TransposeOp.LANE_COPY, TransposeOp.LANE_BROADCAST):
        channels = c if operation == TransposeOp.LANE_COPY else 1
        return Operands({"x": aligned(x, (n, channels, h, w), size)}, {"y": aligned(y, dims, size)})
    if operation in (TransposeOp.CW, TransposeOp.WC):
        source = (n, fields["opd0_c"], h, fields["opd0_w"])
        place = line_aligned if operation == TransposeOp.CW else aligned
        return Operands({"x": aligned(x, source, size)}, {"y": place(y, dims, size)})
    if operation == TransposeOp.STATIC_BROADCAST:
        return Operands({"x": compact(x, (1, 1, 1, w), size)}, {"y": in_every_lane(y, c, (1, c, 1, w), size)})
    return Operands({"x": compact(x, (1, c, 1, 1), size)}, {"y": compact(y, (1, c, 1, 1), size)})


@_family("SG")
def _search_gather(fields: Fields) -> Operands:
    operation = fields["tsk_eu_typ"]
    size, index_size = itemsize(fields, "res0_prec"), itemsize(fields, "opd1_prec")
    n, c, _, _ = dims = _dims(fields, "res0")
    y = aligned(fields["res0_addr"], dims, size)
    if operation == SearchGatherOp.PE_GATHER:
        shape = (1, c, 1, fields["opd0_w"])
        table = aligned(fields["opd0_addr"], shape, size)
        if fields["opd0_str"] == Layout.FREE_STRIDE:
            table = in_every_lane(fields["opd0_addr"], min(c, 64), shape, size)
        return Operands({"table": table, "index": aligned(fields["opd1_addr"], dims, index_size)}, {"y": y})
    if operation == SearchGatherOp.PE_SCATTER_HZD:
        given = (n, c, 1, fields["opd1_w"])
        source = aligned(fields["opd0_addr"], given, size)
        return Operands({"table": source, "index": aligned(fields["opd1_addr"], given, index_size)}, {"y": y})
    raise UnsupportedCommandError(f"SG operation {SearchGatherOp(operation).name.lower()}")


@_family("SFU")
def _special(fields: Fields) -> Operands:
    size, dims = itemsize(fields, "opd0_prec"), _dims(fields, "res0")
    reads = {"x": aligned(fields["opd0_addr"], dims, size)}
    if fields["tsk_eu_typ"] in (SfuOp.TAYLOR, SfuOp.TAYLOR_4X):
        lanes = min(64, dims[1])
        reads["coefficients"] = in_every_lane(fields["opd1_addr"], lanes, (1, 1, 1, fields["opd1_n"]), size)
    return Operands(reads, {"y": aligned(fields["res0_addr"], dims, itemsize(fields, "res0_prec"))})


@_family("LIN")
def _linear(fields: Fields) -> Operands:
    size, dims = itemsize(fields, "res0_prec"), _dims(fields, "res0")
    reads = {"x": aligned(fields["opd0_addr"], dims, size)}
    if not fields["opd1_const"]:
        reads["a"] = _per_channel(fields, "opd1", dims[1], size)
    if fields["tsk_eu_typ"] == LinearOp.MAC and not fields["opd2_const"]:
        reads["b"] = _per_channel(fields, "opd2", dims[1], size)
    return Operands(reads, {"y": aligned(fields["res0_addr"], dims, size)})


@_family("CMP")
def _comparison(fields: Fields) -> Operands:
    size, selected, dims = itemsize(fields, "opd0_prec"), itemsize(fields, "opd2_prec"), _dims(fields, "res0")
    reads = {}
    for role, prefix, width in (("a", "opd0", size), ("b", "opd1", size), ("x", "opd2", selected)):
        if not fields[f"{prefix}_const"]:
            reads[role] = _tensor(fields, prefix, dims, width)
    if not fields["opd3_const"]:
        reads["y"] = aligned(fields["opd3_addr"], dims, selected)
    if fields["tsk_eu_typ"] in (CompareOp.MAX_AND_SELECT, CompareOp.MIN_AND_SELECT):
        both = {
            "extreme": aligned(fields["res0_addr"], dims, size),
            "selected": aligned(fields["res1_addr"], dims, selected),
        }
        return Operands(reads, both)
    return Operands(reads, {"selected": aligned(fields["res0_addr"], dims, selected)})


@_family("SYSID")
def _system(fields: Fields) -> Operands:
    return Operands({}, {})
