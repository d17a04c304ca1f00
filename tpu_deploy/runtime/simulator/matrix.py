"""MM and MM2: matrix products of 8-bit integers, exactly, and of floats."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import Matrix2Op, MatrixOp
from tpu_deploy.codegen.isa.precision import Precision
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import (
    float_constant,
    integer,
    integer_constant,
    is_float,
    read_float,
    to_float,
)
from tpu_deploy.runtime.simulator.exact import exact_product
from tpu_deploy.runtime.simulator.float_products import BLOCK, alternating_product, tree_product
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported

Array = npt.NDArray[Any]


def _operand(fields: Fields, operands: Operands, memory: Memories, role: str, prefix: str) -> Array:
    """An operand as stored, as float32: its elements are exact."""
    if role not in operands:
        raise unsupported("matrix product with a constant operand")
    place = operands[role]
    if is_float(fields["opd0_prec"]):
        return read_float(memory, place, fields["opd0_prec"])
    if place.itemsize != 1:
        raise unsupported("matrix product of 16-bit or 32-bit integers")
    return memory.read(place, integer(fields["opd0_prec"], fields[f"{prefix}_sign"]), np.float32)


def _add_and_store(fields: Fields, operands: Operands, memory: Memories, total: Array) -> None:
    """Writes int32 sums shaped like the result, added to what is there when the command says so."""
    if fields["res0_prec"] != Precision.I32:
        raise unsupported("matrix product with a result that is not i32")
    if "sum" in operands:
        total = total + memory.read(operands["sum"], np.int32)
    memory.write(operands["y"], total)


@executes("MM")
def multiply(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one MM: left (rows, depth) times right (depth, columns), both in matrix layout."""
    if fields["tsk_eu_typ"] != MatrixOp.NORMAL:
        raise unsupported(f"MM operation {MatrixOp(fields['tsk_eu_typ']).name.lower()}")
    if fields.get("opd0_const"):
        raise unsupported("MM with a constant operand")
    left = _operand(fields, operands, memory, "left", "opd0")
    left = left.reshape(left.shape[0], -1)[:, : fields["opd0_w"] * (fields["opd0_c"] - 1) + fields["opd1_w"]]
    left = np.ascontiguousarray(left.T if fields["left_tran"] else left)
    right = _operand(fields, operands, memory, "right", "opd1")
    right = right.reshape(right.shape[0], -1)
    if is_float(fields["opd0_prec"]):
        _multiply_floats(fields, operands, memory, left, right)
        return
    if "bias" in operands or fields["res_add"]:
        raise unsupported("MM of integers with a bias or an earlier sum")
    _add_and_store(fields, operands, memory, exact_product(left, right).reshape(operands["y"].dims))


def _multiply_floats(fields: Fields, operands: Operands, memory: Memories, left: Array, right: Array) -> None:
    if (fields["opd0_prec"], fields["res0_prec"]) != (Precision.F32, Precision.F32):
        raise unsupported("MM of 16-bit floats")
    place = operands["y"]
    bias = float_constant(fields["opd2_addr"], Precision.F32)
    if "bias" in operands:
        bias = read_float(memory, operands["bias"], Precision.F32)
    before = read_float(memory, operands["sum"], Precision.F32) if "sum" in operands else None
    with np.errstate(all="ignore"):
        total = alternating_product(left, right, bias.reshape(1, -1), before)
    memory.write(place, total.reshape(place.dims))


@executes("MM2")
def multiply_rows(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one MM2, whose matrices have their rows on lanes; TT leaves the product transposed."""
    left = _operand(fields, operands, memory, "left", "opd0")[0, :, 0, :]
    right = _operand(fields, operands, memory, "right", "opd1")[0, :, 0, :]
    operation = fields["tsk_eu_typ"]
    if operation == Matrix2Op.NT:
        right = np.ascontiguousarray(right.T)
    elif operation == Matrix2Op.TT:
        left, right = right, left
    if is_float(fields["opd0_prec"]):
        _multiply_rows_of_floats(fields, operands, memory, left, right)
        return
    if "zero_point" in operands:
        raise unsupported("MM2 with a table of zero points")
    zero_point = np.float32(
        integer_constant(fields["opd2_addr"], Precision.I8, fields.get("opd2_sign", fields["opd1_sign"]))
    )
    if operation == Matrix2Op.TT:
        left = left - zero_point
    else:
        right = right - zero_point
    _add_and_store(fields, operands, memory, exact_product(left, right).reshape(operands["y"].dims))


def _multiply_rows_of_floats(fields: Fields, operands: Operands, memory: Memories, left: Array, right: Array) -> None:
    code, result_code = fields["opd0_prec"], fields["res0_prec"]
    if code == Precision.F32 or result_code not in (code, Precision.F32):
        raise unsupported("MM2 of f32, or with a result of another float type")
    if "sum" in operands and result_code != Precision.F32:
        raise unsupported("MM2 adding to a 16-bit result")
    (rows, depth), columns = left.shape, right.shape[1]
    steps = -(-depth // BLOCK)
    filled_left = np.zeros((rows, steps * BLOCK), np.float32)
    filled_left[:, :depth] = left
    filled_right = np.zeros((steps * BLOCK, columns), np.float32)
    filled_right[:depth] = right
    place = operands["y"]
    start: Array = np.zeros((rows, columns), np.float32)
    if "sum" in operands:
        start = read_float(memory, operands["sum"], Precision.F32).reshape(rows, columns)
    with np.errstate(all="ignore"):
        total = tree_product(
            filled_left.reshape(rows, steps, BLOCK), filled_right.reshape(steps, BLOCK, columns), start
        )
        memory.write(place, to_float(total, result_code).reshape(place.dims))
