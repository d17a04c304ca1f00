"""Softmax, a float32 kernel between casts."""

from __future__ import annotations

from xdsl.dialects.builtin import Float32Type
from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.quant.plan import FLOATS


def is_not_plain(network: Network, op: Operation) -> bool:
    """it is a LogSoftmax or scales its input"""
    attributes = attributes_of(op)
    return bool(attributes["log"]) or attributes["beta"] != 1.0


@lowers("Softmax", *FLOATS, refuse=(is_not_plain,))
def softmax(builder: Builder, op: Operation) -> None:
    """A `tpu.Softmax`, whose float32 is rounded to 16 bits where that is the precision."""
    axis = attributes_of(op)["axis"] % len(shape_of(op.operands[0]))
    x = builder.floating(op.operands[0], Float32Type())
    if builder.precision(op) == "F32":
        builder.produce(op, "tpu.Softmax", [x], {"axis": axis})
        return
    wide = builder.helper_name(name_of(op), "float32")
    builder.produce(op, "tpu.Cast", [builder.emit("tpu.Softmax", [x], x.type, wide, {"axis": axis})])
