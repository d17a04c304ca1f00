"""Emitters: one operation on one tile as a micro-program. Importing the package fills the table."""

from tpu_deploy.codegen.emitters import activation, cast, conv, elementwise, matmul, pool, softmax
from tpu_deploy.codegen.emitters.operation import OperationView, Tensor, view
from tpu_deploy.codegen.emitters.registry import EMITTERS, Emitter, emits

__all__ = [
    "EMITTERS",
    "Emitter",
    "OperationView",
    "Tensor",
    "activation",
    "cast",
    "conv",
    "elementwise",
    "emits",
    "matmul",
    "pool",
    "softmax",
    "view",
]
