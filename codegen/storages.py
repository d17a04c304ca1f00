"""Gives every value a storage: shape operations become views, concatenations are written in place, others copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import EMITTERS, view
from tpu_deploy.codegen.program import LoadOperand, StoreResult, TileProgram, Variant, usual_variants
from tpu_deploy.codegen.tiles import Grid, boxes
from tpu_deploy.codegen.views import Storage
from tpu_deploy.codegen.works import Compute, Copy, FillMemory, Work
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, dtype_of, name_of, shape_of
from tpu_deploy.ir.weights import Array


@dataclass(frozen=True)
class Placement:
    """Works in order, bytes of all buffers, constants that are read like buffers, storages of inputs and outputs."""

    works: tuple[Work, ...]
    buffers: dict[str, int]
    constants: dict[str, Array]
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]


def first_program(variant: Variant) -> TileProgram:
    """The program of the whole result as one tile (or its first piece, where it must be cut)."""
    return variant.tile(boxes(variant.tiling, Grid(variant.tiling.dims, "channels_outside"))[0])


def can_transfer(storage: Storage, action: LoadOperand | StoreResult) -> bool:
    """Whether strides can express a transfer."""
    seen = storage.seen_as(action.shape)
    return seen is not None and seen.as_nchw(action.axes) is not None


def expressible(variant: Variant, operands: Sequence[Storage | None], result: Storage) -> bool:
    """Whether strides can express every transfer of a variant."""
    for action in first_program(variant).actions:
        if isinstance(action, LoadOperand):
            storage = operands[action.operand]
            assert storage is not None
        elif isinstance(action, StoreResult):
            storage = result
        else:
            continue
        if not can_transfer(storage, action):
            return False
    return True


@dataclass
class Placer:
    """The state while values are placed, operation by operation."""

    network: Network
    chip: Chip
    homes: dict[SSAValue, tuple[SSAValue, tuple[int, ...]]]
    storages: dict[SSAValue, Storage] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def storage(self, value: SSAValue) -> Storage:
        """Where a value lies; a weight that is moved or returned as it is lies among the coefficients."""
        array = self.network.weight(value)
        if array is not None and value not in self.storages:
            name = f"constant {name_of(value)}"
            self.constants[name] = array
            self.storages[value] = Storage.contiguous(name, array.dtype, array.shape)
        return self.storages[value]

    def fresh(self, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Storage:
        """A new buffer under `name` or a free variation of it."""
        if 0 in shape:
            raise BadInput(
                f"{name}: has no elements (shape {'x'.join(map(str, shape))}); a TPU tensor needs at least one"
            )
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

    def compute(self, op: Operation) -> None:
        """An operation with an emitter. Storages that none of its usual variants can be expressed on are copied."""
        seen, result = view(self.network, op), op.results[0]
        variants = EMITTERS[op.name](seen, self.chip)
        operands = tuple(
            None if tensor.constant is not None else self.storages[value]
            for tensor, value in zip(seen.operands, op.operands, strict=True)
        )
        target = self.target(result)
        usual = usual_variants(variants)
        if not any(expressible(v, operands, target) for v in usual):
            operands = self.settled(usual[-1], operands)
        place = target
        if not any(expressible(v, operands, target) for v in usual):
            place = self.fresh(f"{seen.result.name}_dense", target.dtype, target.shape)
        fitting = [v for v in variants if expressible(v, operands, place)]
        self.works.append(Compute(seen, tuple(fitting), operands, place))
        if place is not target:
            self.works.append(Copy(seen.result.name, place, target))

    def settled(self, variant: Variant, operands: Sequence[Storage | None]) -> tuple[Storage | None, ...]:
        """The operands, copied to what the variant loads where strides cannot express that."""
        found = list(operands)
        for action in first_program(variant).actions:
            if not isinstance(action, LoadOperand):
                continue
            storage = found[action.operand]
            assert storage is not None
            if can_transfer(storage, action):
                continue
            whole = storage if storage.elements == prod(action.shape) else storage.broadcast_to(action.shape)
            found[action.operand] = self.copied(f"{storage.buffer}_dense", whole)
        return tuple(found)

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
    source, result = placer.storage(op.operands[0]), op.results[0]
    seen = source.reshaped(shape_of(result))
    if seen is None:
        seen = placer.copied(name_of(result), source).reshaped(shape_of(result))
        assert seen is not None
    placer.storages[result] = seen


def _permute(placer: Placer, op: Operation) -> None:
    placer.storages[op.results[0]] = placer.storage(op.operands[0]).permuted(attributes_of(op)["order"])


def _slice(placer: Placer, op: Operation) -> None:
    attributes = attributes_of(op)
    source, shape = placer.storage(op.operands[0]), shape_of(op.results[0])
    part = source.sliced(attributes["offset"], attributes["steps"], shape)
    backwards = any(step < 0 and size > 1 for step, size in zip(attributes["steps"], shape, strict=True))
    placer.storages[op.results[0]] = placer.copied(name_of(op), part) if backwards else part


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
            placer.works.append(Copy(name_of(result), placer.storage(operand), part))
        start += shape[axis]


def _pad(placer: Placer, op: Operation) -> None:
    attributes, source = attributes_of(op), placer.storage(op.operands[0])
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
        storage = placer.storage(value)
        size = placer.buffers.get(storage.buffer, 0) // storage.dtype.itemsize
        alone = storage.is_contiguous and storage.offset == 0 and size == int(np.prod(storage.shape, dtype=np.int64))
        if not alone or storage.buffer in taken or storage.buffer in inputs:
            storage = placer.copied(f"{name}_copy", storage)
        taken.add(storage.buffer)
        found.append(storage)
    return tuple(found)


def place(network: Network, chip: Chip) -> Placement:
    """Storages and works of a TPU network."""
    placer = Placer(network, chip, _homes(network))
    for value in network.inputs:
        placer.storages[value] = placer.fresh(name_of(value), dtype_of(value), shape_of(value))
    inputs = tuple(placer.storages[v] for v in network.inputs)
    for op in network.operations:
        if op.name in VIEWS:
            VIEWS[op.name](placer, op)
        else:
            placer.compute(op)
    outputs = _outputs(placer, {s.buffer for s in inputs})
    return Placement(tuple(placer.works), placer.buffers, placer.constants, inputs, outputs)
