"""TRANS_BC, SG and CMP: movement between lanes, table look-up, selection."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import CompareOp, SearchGatherOp, TransposeOp
from tpu_deploy.codegen.isa.precision import Precision
from tpu_deploy.codegen.places import Place
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import float_constant, integer, integer_constant, is_float, read_float
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported

Array = npt.NDArray[Any]


def _bits(memory: Memories, place: Place) -> Array:
    """The elements as unsigned integers of their size."""
    return memory.read(place, f"u{place.itemsize}")


@executes("TRANS_BC")
def transpose(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one TRANS_BC."""
    y = operands["y"]
    x = _bits(memory, operands["x"])
    if fields["tsk_eu_typ"] in (TransposeOp.CW, TransposeOp.WC):
        x = x.transpose(0, 3, 2, 1)
    memory.write(y, np.broadcast_to(x, y.dims))


@executes("SG")
def gather(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one SG: look-up in a table for each channel or one for all, or scattering into the result."""
    y = operands["y"]
    n, c, h, _ = y.dims
    if h != 1:
        raise unsupported("SG with a result of more than one row")
    index = _bits(memory, operands["index"]).astype(np.intp)
    table = _bits(memory, operands["table"])
    if fields["tsk_eu_typ"] == SearchGatherOp.PE_SCATTER_HZD:
        if fields["opd0_str"]:
            raise unsupported("SG scattering from a shared table")
        _scatter(memory, y, index, table)
        return
    width = table.shape[3]
    beyond = index >= width
    chosen = np.where(beyond, 0, index)
    if table.shape[1] == c:
        result = np.take_along_axis(np.broadcast_to(table, (n, c, 1, width)), chosen, axis=3)
    else:
        result = table[0, np.arange(c)[:, None, None] % table.shape[1], 0, chosen]
    if beyond.any():
        raise unsupported(f"SG with an index of {int(index.max())} into a table of {width}")
    memory.write(y, np.ascontiguousarray(result))


def _scatter(memory: Memories, y: Place, index: Array, values: Array) -> None:
    """y[n, c, 0, index[n, c, 0, i]] = values[n, c, 0, i], everything else staying as it is."""
    result = np.array(_bits(memory, y))
    if (index >= result.shape[3]).any():
        raise unsupported(f"SG with an index of {int(index.max())} into a result of width {result.shape[3]}")
    np.put_along_axis(result, index, np.broadcast_to(values, index.shape), axis=3)
    memory.write(y, result)


@executes("CMP")
def compare(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one CMP: (a compared with b) ? x : y, and the maximum or minimum of a and b as well."""
    a, b = (_compared(fields, operands, memory, role, prefix) for role, prefix in (("a", "opd0"), ("b", "opd1")))
    operation = fields["tsk_eu_typ"]
    if operation in (CompareOp.MAX_AND_SELECT, CompareOp.SELECT_GREATER):
        chosen = a > b
    elif operation == CompareOp.SELECT_EQUAL:
        chosen = a == b
    else:
        chosen = a < b
    x, y = (_selected(fields, operands, memory, role, prefix) for role, prefix in (("x", "opd2"), ("y", "opd3")))
    selected = np.where(chosen, x, y)
    if "extreme" in operands:
        bits = [
            _operand_bits(fields, operands, memory, role, prefix) for role, prefix in (("a", "opd0"), ("b", "opd1"))
        ]
        place = operands.writes["extreme"]
        memory.write(place, np.broadcast_to(np.where(chosen, *bits), place.dims))
    place = operands.writes["selected"]
    memory.write(place, np.broadcast_to(selected, place.dims))


def _compared(fields: Fields, operands: Operands, memory: Memories, role: str, prefix: str) -> Array:
    code, signed = fields["opd0_prec"], fields["opd0_sign"]
    if role in operands.reads:
        if is_float(code):
            return read_float(memory, operands.reads[role], code)
        return memory.read(operands.reads[role], integer(code, signed))
    bits = fields[f"{prefix}_addr"]
    if is_float(code):
        return float_constant(bits, code)
    return np.asarray(integer_constant(bits, code, signed)).astype(integer(code, signed))


def _operand_bits(fields: Fields, operands: Operands, memory: Memories, role: str, prefix: str) -> Array:
    return _bits_or_constant(fields, operands, memory, role, prefix, fields["opd0_prec"])


def _selected(fields: Fields, operands: Operands, memory: Memories, role: str, prefix: str) -> Array:
    return _bits_or_constant(fields, operands, memory, role, prefix, fields["opd2_prec"])


def _bits_or_constant(fields: Fields, operands: Operands, memory: Memories, role: str, prefix: str, code: int) -> Array:
    if role in operands.reads:
        return _bits(memory, operands.reads[role])
    size = Precision(code).itemsize
    return np.asarray(fields[f"{prefix}_addr"] & (1 << 8 * size) - 1).astype(f"u{size}")
