"""Element-wise operations move in front of a Reshape, where the operation before it can take them in.

A 1-D convolution is a 2-D one between reshapes: without this its BatchNorm and ReLU would stay apart from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, element_of, name_of, shape_of, tensor_type
from tpu_deploy.lowering.rewriting import free_name, fresh_weight, private_producer, rebuild

POINTWISE = frozenset(
    f"top.{name}"
    for name in [
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "Erf",
        "HardSigmoid",
        "HardSwish",
        "SiLU",
        "Mish",
        "Softplus",
        "Elu",
        "GELU",
        "AddConst",
        "SubConst",
        "MulConst",
    ]
)
PER_CHANNEL = frozenset({"top.Scale", "top.PRelu"})
SEVERAL = frozenset({"top.Add", "top.Sub", "top.Mul"})
ABSORBING = frozenset({"top.Conv", "top.MatMul", "top.Scale", *SEVERAL, "top.AddConst", "top.SubConst", "top.MulConst"})
"""Operations in front of the Reshape that are worth moving to."""


def hoist_over_reshape(network: Network) -> int:
    """The number of operations moved. The Reshape must have no other reader, and none may be returned."""
    changed = 0
    for op in network.operations:
        reshapes = _reshapes_before(op)
        if reshapes and _may_move(op, reshapes):
            _move(network, op, reshapes)
            changed += 1
    return changed


def _reshapes_before(op: Operation) -> list[Operation]:
    """The Reshapes that make the operands of an element-wise operation; none when one operand comes otherwise."""
    if op.name in SEVERAL:
        varying: Sequence[SSAValue] = op.operands
    elif op.name in POINTWISE | PER_CHANNEL:
        varying = op.operands[:1]
    else:
        return []
    found = [private_producer(v) for v in varying]
    reshapes = [f for f in found if f is not None and f.name == "top.Reshape"]
    return reshapes if len(reshapes) == len(found) else []


def _may_move(op: Operation, reshapes: Sequence[Operation]) -> bool:
    sources = [r.operands[0] for r in reshapes]
    shapes = {shape_of(s) for s in sources}
    results = {shape_of(r.results[0]) for r in reshapes}
    if len(shapes) > 1 or len(results) > 1:
        return False
    if op.name in PER_CHANNEL and shapes.pop()[:2] != results.pop()[:2]:
        return False
    makers = [private_producer(s) for s in sources]
    return any(m is not None and m.name in ABSORBING for m in makers)


def _move(network: Network, op: Operation, reshapes: Sequence[Operation]) -> None:
    sources = [r.operands[0] for r in reshapes]
    shape, result = shape_of(sources[0]), op.results[0]
    operands = [*sources, *op.operands[len(sources) :]]
    slope = network.weight(operands[1]) if op.name == "top.PRelu" else None
    if slope is not None:
        operands[1] = fresh_weight(network, op, "slope", slope.reshape(1, -1, *[1] * (len(shape) - 2)))
    name = free_name(network, f"{name_of(op)}_before_reshape")
    kind = tensor_type(shape, element_of(result))
    moved = network.append(op.name, operands, [kind], [name], attributes_of(op), before=op)
    rebuild(network, op, "top.Reshape", moved.results, {"shape": shape_of(result)})
