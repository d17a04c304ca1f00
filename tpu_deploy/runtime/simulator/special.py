"""SFU and LIN: polynomials, roots, exponents, and float32 steps with per-channel operands."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import LinearOp, SfuOp
from tpu_deploy.codegen.isa.precision import Precision
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.elements import float_constant, flushed, read_float
from tpu_deploy.runtime.simulator.floating import polynomial, reciprocal_root
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported

Array = npt.NDArray[Any]


@executes("SFU")
def special(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one SFU on float32."""
    operation = SfuOp(fields["tsk_eu_typ"])
    if fields["opd0_prec"] != Precision.F32:
        raise unsupported(f"SFU of {Precision(fields['opd0_prec']).name.lower()}")
    if fields["res0_prec"] != Precision.F32 or operation == SfuOp.NORMALIZE:
        raise unsupported("SFU with a result that is not f32, or of exponents")
    with np.errstate(all="ignore"):
        if operation == SfuOp.RSQRT:
            x = memory.read(operands["x"], np.float32)
            if np.signbit(x).any() or np.isnan(x).any():
                raise unsupported("SFU root of values that are not positive")
            result = reciprocal_root(x, fields["opd2_n_str"] + 1)
        else:
            x = read_float(memory, operands["x"], Precision.F32)
            result = polynomial(x, _coefficients(operands, memory, x.shape[1]))
    memory.write(operands["y"], result)


def _coefficients(operands: Operands, memory: Memories, channels: int) -> npt.NDArray[np.float32]:
    """(1, c, 1, terms): each lane has its own copy."""
    table = read_float(memory, operands["coefficients"], Precision.F32)
    return table[:, np.arange(channels) % table.shape[1]]


@executes("LIN")
def linear(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one LIN on float32: x * a + b, (x + a)**2 or (x - a)**2, a and b one a channel."""
    code = fields["res0_prec"]
    if code != Precision.F32:
        raise unsupported(f"LIN of {Precision(code).name.lower()}")
    x = read_float(memory, operands["x"], code)
    a = read_float(memory, operands["a"], code) if "a" in operands else float_constant(fields["opd1_addr"], code)
    with np.errstate(all="ignore"):
        if fields["tsk_eu_typ"] == LinearOp.MAC:
            b = (
                read_float(memory, operands["b"], code)
                if "b" in operands
                else float_constant(fields["opd2_addr"], code)
            )
            result = flushed(x * a) + b
        else:
            side = flushed(x + a if fields["tsk_eu_typ"] == LinearOp.SQUARE_SUM else x - a)
            result = side * side
        memory.write(operands["y"], flushed(result))
