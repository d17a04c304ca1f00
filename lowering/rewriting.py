"""What every TOP→TOP pass needs: who reads a value, and how an operation takes the place of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.ir.weights import Array


def producer(value: SSAValue) -> Operation | None:
    """The operation that makes a value."""
    return value.owner if isinstance(value.owner, Operation) else None


def sole_reader(value: SSAValue) -> Operation | None:
    """The operation that alone reads a value, once; None when others do or the network returns it."""
    readers = [use.operation for use in value.uses]
    return readers[0] if len(readers) == 1 and not isinstance(readers[0], ReturnOp) else None


def private_producer(value: SSAValue) -> Operation | None:
    """The operation that makes a value for one reader only; None when the value is read elsewhere or returned."""
    return producer(value) if sole_reader(value) is not None else None


def relu_of(op: Operation) -> dict[str, Any]:
    """The ReLU attributes of an operation."""
    attributes = attributes_of(op)
    return {name: attributes[name] for name in ("do_relu", "relu_limit") if name in attributes}


def has_relu(op: Operation) -> bool:
    """Whether an operation ends in a ReLU."""
    return bool(attributes_of(op).get("do_relu", False))


def rebuild(
    network: Network, old: Operation, name: str, operands: Sequence[SSAValue], attributes: Mapping[str, Any]
) -> Operation:
    """A new operation in the place of `old`, with its result type and name; what only `old` needed is removed."""
    new = network.append(name, operands, [old.results[0].type], [name_of(old)], attributes, before=old)
    replace(network, old, new.results[0])
    return new


def replace(network: Network, old: Operation, value: SSAValue) -> None:
    """Puts `value` in the place of `old`'s result; removes `old` and what only it needed."""
    operands = list(old.operands)
    network.replace(old, [value])
    for operand in operands:
        _remove_unread(operand)


def _remove_unread(value: SSAValue) -> None:
    owner = producer(value)
    if owner is None or owner.name == "top.Input" or owner.parent is None:
        return
    if any(True for result in owner.results for _ in result.uses):
        return
    operands = list(owner.operands)
    owner.detach()  # type: ignore[no-untyped-call]
    owner.erase()
    for operand in operands:
        _remove_unread(operand)


def fresh_weight(network: Network, op: Operation, suffix: str, array: Array) -> SSAValue:
    """A float32 weight named after `op`, standing before it. Raises BadInput when float32 cannot hold it."""
    check_float32(network, op, suffix, array)
    return network.add_weight(f"{name_of(op)}_{suffix}", array.astype(np.float32), before=op)


def check_float32(network: Network, op: Operation, suffix: str, array: Array) -> None:
    """Raises BadInput naming the weight of `op` when float32 cannot hold what was folded into it."""
    if not np.all(np.abs(array) <= np.finfo(np.float32).max):
        raise BadInput(
            f"{network.name}: weight {name_of(op)}_{suffix}, into which BatchNorm and other constants are folded, "
            "would hold numbers beyond float32; train or export the network again"
        )


def free_name(network: Network, wanted: str) -> str:
    """`wanted`, or a variation that no value of the network has."""
    taken = {name_of(v) for v in network.values()}
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name
