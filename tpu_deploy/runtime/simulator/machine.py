"""Single commands made ready and executed."""

from dataclasses import dataclass

from tpu_deploy.codegen.findings import name_of
from tpu_deploy.codegen.isa import INSTRUCTIONS, Command
from tpu_deploy.codegen.regions import operands_of
from tpu_deploy.codegen.tiu_operands import Operands, UnsupportedCommandError
from tpu_deploy.errors import CheckFailed
from tpu_deploy.runtime.simulator import (  # noqa: F401 - they register what executes commands
    arithmetic,
    convolution,
    gathering,
    matrix,
    pooling,
    requantization,
    special,
    transfer,
)
from tpu_deploy.runtime.simulator.memory import AccessError, Memories
from tpu_deploy.runtime.simulator.registry import KERNELS, Kernel


class SimulationError(CheckFailed):
    """A command that cannot be executed, or a breach of the machine's rules; the message names engine and command."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A command with its places and the function that executes it; None for the end of a queue."""

    command: Command
    operands: Operands
    kernel: Kernel | None


def prepare(command: Command) -> Prepared:
    """The command ready to be executed; raises SimulationError when there is nothing to execute it with."""
    instruction = INSTRUCTIONS[command.name]
    family = instruction.family if command.engine == "TIU" else instruction.name
    try:
        operands = operands_of(command)
    except UnsupportedCommandError as error:
        raise SimulationError(f"{name_of(command)}: cannot be simulated: {error}") from error
    kernel = KERNELS.get(family)
    if kernel is None and not command.is_end:
        raise SimulationError(f"{name_of(command)}: cannot be simulated: nothing here executes {family}")
    return Prepared(command, operands, kernel)


def execute(prepared: Prepared, memory: Memories) -> None:
    """Executes one command; raises SimulationError."""
    if prepared.kernel is None:
        return
    try:
        prepared.kernel(prepared.command.fields, prepared.operands, memory)
    except UnsupportedCommandError as error:
        raise SimulationError(f"{name_of(prepared.command)}: cannot be simulated: {error}") from error
    except (AccessError, ValueError, IndexError) as error:
        raise SimulationError(f"{name_of(prepared.command)}: cannot be executed: {error}") from error
