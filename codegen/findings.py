"""What a judge of commands found wrong."""

from dataclasses import dataclass

from tpu_deploy.codegen.isa import Command
from tpu_deploy.codegen.isa.disassembly import opcode
from tpu_deploy.codegen.regions import Access


@dataclass(frozen=True, slots=True)
class Finding:
    """A breach of one rule, with the commands to blame ("TIU 7 (AR.adds)") and one line that says it all."""

    rule: str
    culprits: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return self.message


def name_of(command: Command) -> str:
    """The command as messages call it: "TIU 7 (AR.adds)"."""
    return f"{command.engine} {command.fields.get('cmd_id', '-')} ({opcode(command)})"


def finding(rule: str, command: Command, what: str) -> Finding:
    """A finding about one command."""
    return Finding(rule, (name_of(command),), f"{name_of(command)}: {what}")


def conflict(rule: str, first: tuple[Command, Access], second: tuple[Command, Access], what: str) -> Finding:
    """A finding about two commands and what each of them touches."""
    (one, mine), (other, theirs) = first, second
    names = name_of(one), name_of(other)
    places = f"{mine.role} at {mine.place.describe()} and {theirs.role} at {theirs.place.describe()}"
    return Finding(rule, names, f"{names[0]} and {names[1]}: {what}: {places}")
