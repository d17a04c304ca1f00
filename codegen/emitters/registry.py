"""The table of emitters: one function an operation, registered in the file of its family."""

from collections.abc import Callable

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.program import Variant

Emitter = Callable[[OperationView, Chip], list[Variant]]
"""Variants of an operation, the preferred one first."""

EMITTERS: dict[str, Emitter] = {}


def emits(kind: str) -> Callable[[Emitter], Emitter]:
    """Registers the emitter of a TPU operation; registering one twice is an error."""

    def register(emitter: Emitter) -> Emitter:
        if kind in EMITTERS:
            raise ValueError(f"{kind} has two emitters")
        EMITTERS[kind] = emitter
        return emitter

    return register
