"""MM and MM2: matrix products of 8-bit integers, exactly, and of floats."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import Matrix2Op, MatrixOp
from tpu_deploy.codegen.isa.precision import Precision
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import integer, integer_constant, is_float
from tpu_deploy.runtime.simulator.exact import exact_product
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported

Array = npt.NDArray[Any]


def _operand(fields: Fields, operands: Operands, memory: Memories, role: str, prefix: str) -> Array:
    """(rows, columns) float32 of an 8-bit operand as stored, in matrix layout or rows on lanes."""
    if is_float(fields["opd0_prec"]):
        raise unsupported(f"matrix product of {Precision(fields['opd0_prec']).name.lower()}")
    if role not in operands:
        raise unsupported("matrix product with a constant operand")
    place = operands[role]
    if place.itemsize != 1:
        raise unsupported("matrix product of 16-bit or 32-bit integers")
    values = memory.read(place, integer(fields["opd0_prec"], fields[f"{prefix}_sign"]), np.float32)
    return values


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
    if fields["opd0_const"] or "bias" in operands or fields["res_add"]:
        raise unsupported("MM of integers with a constant, a bias or an earlier sum")
    left = _operand(fields, operands, memory, "left", "opd0")
    left = left.reshape(left.shape[0], -1)[:, : fields["opd0_w"] * (fields["opd0_c"] - 1) + fields["opd1_w"]]
    right = _operand(fields, operands, memory, "right", "opd1")
    right = right.reshape(right.shape[0], -1)
    total = exact_product(np.ascontiguousarray(left.T if fields["left_tran"] else left), right)
    _add_and_store(fields, operands, memory, total.reshape(operands["y"].dims))


@executes("MM2")
def multiply_rows(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one MM2, whose matrices have their rows on lanes; TT leaves the product transposed."""
    left = _operand(fields, operands, memory, "left", "opd0")[0, :, 0, :]
    right = _operand(fields, operands, memory, "right", "opd1")[0, :, 0, :]
    if "zero_point" in operands:
        raise unsupported("MM2 with a table of zero points")
    zero_point = integer_constant(fields["opd2_addr"], Precision.I8, fields.get("opd2_sign", fields["opd1_sign"]))
    if zero_point:
        right = right - np.float32(zero_point)
    operation = fields["tsk_eu_typ"]
    if operation == Matrix2Op.NN:
        total = exact_product(left, right)
    elif operation == Matrix2Op.NT:
        total = exact_product(left, np.ascontiguousarray(right.T))
    else:
        total = exact_product(right, left)
    _add_and_store(fields, operands, memory, total.reshape(operands["y"].dims))
