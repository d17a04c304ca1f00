"""What is to be done, in order, once every value has its place in global memory."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.program import LoadOperand, StoreResult, Variant
from tpu_deploy.codegen.views import Storage


@dataclass(frozen=True)
class Compute:
    """An operation with an emitter: variants that strides can express, operands (None: a constant), result."""

    view: OperationView
    variants: tuple[Variant, ...]
    operands: tuple[Storage | None, ...]
    result: Storage

    def storage(self, action: LoadOperand | StoreResult) -> Storage:
        """Where what a transfer reads or writes lies."""
        storage = self.result if isinstance(action, StoreResult) else self.operands[action.operand]
        assert storage is not None, "constants are not loaded as operands"
        return storage


@dataclass(frozen=True)
class Copy:
    """All elements of one storage to another of the same shape."""

    name: str
    source: Storage
    target: Storage


@dataclass(frozen=True)
class FillMemory:
    """One stored integer to all elements of a storage."""

    name: str
    target: Storage
    value: int


Work = Compute | Copy | FillMemory
