"""Softmax, a float32 kernel between casts."""

from __future__ import annotations

from xdsl.ir import Operation

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.registry import lowers


def is_not_plain(network: Network, op: Operation) -> bool:
    """it is a LogSoftmax or scales its input"""
    attributes = attributes_of(op)
    return bool(attributes["log"]) or attributes["beta"] != 1.0


@lowers("Softmax", "F32", refuse=(is_not_plain,))
def softmax(builder: Builder, op: Operation) -> None:
    """A `tpu.Softmax`."""
    axis = attributes_of(op)["axis"] % len(shape_of(op.operands[0]))
    builder.produce(op, "tpu.Softmax", [builder.operand(op)], {"axis": axis})
