"""Gives every value a storage: shape operations become views, concatenations are written in place, the rest is copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tpu_deploy.codegen.emitters import EMITTERS, view
from tpu_deploy.codegen.views import Storage
from tpu_deploy.codegen.works import Compute, Copy, FillMemory, Work
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of


@dataclass(frozen=True)
class Placement:
    """Works in order; sizes in bytes of all buffers; storages of the network's inputs and outputs, in order."""

    works: tuple[Work, ...]
    buffers: dict[str, int]
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]


@dataclass
class Placer:
    """The state while values are placed, operation by operation."""

    network: Network
    homes: dict[SSAValue, tuple[SSAValue, tuple[int, ...]]]
    storages: dict[SSAValue, Storage] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=dict)

    def fresh(self, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Storage:
        """A new buffer under `name` or a free variation of it."""
        free, count = name, 1
        while free in self.buffers:
            count += 1
            free = f"{name}_{count}"
        self.buffers[free] = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return Storage.contiguous(free, dtype, shape)

    def target(self, value: SSAValue) -> Storage:
        """Where a computed value goes: its slice of a concatenation, else a new buffer."""
        if value in self.homes:
            whole, starts = self.homes[value]
            if whole not in self.storages:
                self.storages[whole] = self.target(whole)
            storage = self.storages[whole].sliced(starts, (1,) * len(starts), shape_of(value))
        else:
            storage = self.fresh(name_of(value), dtype_of(value), shape_of(value))
        self.storages[value] = storage
        return storage

    def copied(self, name: str, source: Storage) -> Storage:
        """A contiguous copy of a storage."""
        made = self.fresh(name, source.dtype, source.shape)
        self.works.append(Copy(name, source, made))
        return made


def _homes(network: Network) -> dict[SSAValue, tuple[SSAValue, tuple[int, ...]]]:
    """Values that can be computed straight into their slice of a concatenation."""
    outputs = set(network.outputs)
    homes: dict[SSAValue, tuple[SSAValue, tuple[int, ...]]] = {}
    for op in reversed(network.operations):
        if op.name != "tpu.Concat":
            continue
        axis, start = attributes_of(op)["axis"], 0
        for operand in op.operands:
            owner = operand.owner
            computed = isinstance(owner, Operation) and (owner.name in EMITTERS or owner.name == "tpu.Concat")
            if computed and operand not in homes and operand not in outputs:
                starts = tuple(start if a == axis else 0 for a in range(len(shape_of(operand))))
                homes[operand] = (op.results[0], starts)
            start += shape_of(operand)[axis]
    return homes


def _reshape(placer: Placer, op: Operation) -> None:
    source, result = placer.storages[op.operands[0]], op.results[0]
    seen = source.reshaped(shape_of(result))
    if seen is None:
        seen = placer.copied(name_of(result), source).reshaped(shape_of(result))
        assert seen is not None
    placer.storages[result] = seen


def _permute(placer: Placer, op: Operation) -> None:
    placer.storages[op.results[0]] = placer.storages[op.operands[0]].permuted(attributes_of(op)["order"])


def _slice(placer: Placer, op: Operation) -> None:
    attributes = attributes_of(op)
    source, shape = placer.storages[op.operands[0]], shape_of(op.results[0])
    placer.storages[op.results[0]] = source.sliced(attributes["offset"], attributes["steps"], shape)


def _concat(placer: Placer, op: Operation) -> None:
    result = op.results[0]
    whole = placer.storages[result] if result in placer.storages else placer.target(result)
    axis, start = attributes_of(op)["axis"], 0
    for operand in op.operands:
        shape = shape_of(operand)
        home = placer.homes.get(operand)
        if home is None or home[0] is not result or home[1][axis] != start:
            starts = tuple(start if a == axis else 0 for a in range(len(shape)))
            part = whole.sliced(starts, (1,) * len(shape), shape)
            placer.works.append(Copy(name_of(result), placer.storages[operand], part))
        start += shape[axis]


def _pad(placer: Placer, op: Operation) -> None:
    attributes, source = attributes_of(op), placer.storages[op.operands[0]]
    target = placer.target(op.results[0])
    rank = len(source.shape)
    inner = target.sliced(attributes["pads"][:rank], (1,) * rank, source.shape)
    placer.works.append(FillMemory(name_of(op), target, attributes["value"]))
    placer.works.append(Copy(name_of(op), source, inner))


VIEWS: dict[str, Callable[[Placer, Operation], None]] = {
    "tpu.Reshape": _reshape,
    "tpu.Permute": _permute,
    "tpu.Slice": _slice,
    "tpu.Concat": _concat,
    "tpu.Pad": _pad,
}
"""Operations that move or rename elements and compute nothing."""


def _outputs(placer: Placer, inputs: set[str]) -> tuple[Storage, ...]:
    """Contiguous storages of the outputs, each alone in its buffer and none of them an input's."""
    taken: set[str] = set()
    found = []
    for value, name in zip(placer.network.outputs, placer.network.output_names, strict=True):
        storage = placer.storages[value]
        size = placer.buffers[storage.buffer] // storage.dtype.itemsize
        alone = storage.is_contiguous and storage.offset == 0 and size == int(np.prod(storage.shape, dtype=np.int64))
        if not alone or storage.buffer in taken or storage.buffer in inputs:
            storage = placer.copied(f"{name}_copy", storage)
        taken.add(storage.buffer)
        found.append(storage)
    return tuple(found)


def place(network: Network) -> Placement:
    """Storages and works of a TPU network."""
    placer = Placer(network, _homes(network))
    for value in network.inputs:
        placer.storages[value] = placer.fresh(name_of(value), dtype_of(value), shape_of(value))
    inputs = tuple(placer.storages[v] for v in network.inputs)
    for op in network.operations:
        if op.name in VIEWS:
            VIEWS[op.name](placer, op)
            continue
        seen = view(network, op)
        operands = tuple(
            None if t.constant is not None else placer.storages[v]
            for t, v in zip(seen.operands, op.operands, strict=True)
        )
        placer.works.append(Compute(seen, operands, placer.target(op.results[0])))
    outputs = _outputs(placer, {s.buffer for s in inputs})
    return Placement(tuple(placer.works), placer.buffers, inputs, outputs)
