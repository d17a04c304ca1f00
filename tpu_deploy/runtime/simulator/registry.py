"""Which function executes which family of instructions."""

from collections.abc import Callable, Mapping

from tpu_deploy.codegen.tiu_operands import Operands, UnsupportedCommandError
from tpu_deploy.runtime.simulator.memory import Memories

Fields = Mapping[str, int]
Kernel = Callable[[Fields, Operands, Memories], None]

KERNELS: dict[str, Kernel] = {}
"""By family: "CONV", "AR", ..., and by instruction for the GDMA: "DMA_tensor", ..."""


def executes(*names: str) -> Callable[[Kernel], Kernel]:
    """Registers a function that executes commands of these families; two for one family are an error."""

    def register(kernel: Kernel) -> Kernel:
        for name in names:
            assert name not in KERNELS, f"{name} is executed by two functions"
            KERNELS[name] = kernel
        return kernel

    return register


def unsupported(what: str) -> UnsupportedCommandError:
    """The error to raise for a mode that is not executed, so that there is never a wrong result instead."""
    return UnsupportedCommandError(what)
