"""Encoding and decoding of commands, both straight from the bit tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import index

from tpu_deploy.codegen.isa.gdma import GDMA_INSTRUCTIONS
from tpu_deploy.codegen.isa.instruction import Engine, Instruction
from tpu_deploy.codegen.isa.operations import DmaSystemOp, SystemOp
from tpu_deploy.codegen.isa.tiu import TIU_INSTRUCTIONS

INSTRUCTIONS: Mapping[str, Instruction] = {each.name: each for each in (*TIU_INSTRUCTIONS, *GDMA_INSTRUCTIONS)}
"""Every form of every instruction by its name: short TIU forms begin with s ("sCONV", "sAR"), long ones do not."""

_END = {"SYSID": int(SystemOp.END), "sDMA_sys": int(DmaSystemOp.END)}


@dataclass(frozen=True, slots=True)
class Command:
    """One decoded command: `fields` holds every named field, and `reserved_<bit>` where reserved bits are set."""

    name: str
    engine: Engine
    fields: dict[str, int]
    offset: int
    size: int

    @property
    def operation(self) -> int:
        """Its `tsk_eu_typ` or `cmd_special_function`."""
        return self.fields[INSTRUCTIONS[self.name].operation_field]

    @property
    def is_end(self) -> bool:
        """Whether it closes its queue."""
        return _END.get(self.name) == self.operation


def encode(name: str, fields: Mapping[str, int]) -> bytes:
    """The bytes of one command; fields not given are zero, the opcode fields are filled in.

    A negative value is written in two's complement. Raises ValueError naming instruction, field and value when the
    instruction has no such field or operation, or the value does not fit.
    """
    instruction = INSTRUCTIONS.get(name)
    if instruction is None:
        raise ValueError(f"{name}: no such instruction; there are {', '.join(INSTRUCTIONS)}")
    slots = instruction.slots
    word = 0
    for key, given in fields.items():
        if key not in slots:
            raise ValueError(f"{name}: has no field {key} (given as {given})")
        bit, width = slots[key]
        value = index(given)
        if value >> width:
            if value > 0 or value < -(1 << (width - 1)):
                raise ValueError(f"{name}: {key}={value} does not fit {width} bits")
            value &= (1 << width) - 1
        word |= value << bit
    for key, value in instruction.fixed.items():
        if fields.get(key, value) != value:
            raise ValueError(f"{name}: {key}={fields[key]} is not {value}, which makes it this instruction")
    word |= instruction.opcode_word
    operation = instruction.operation_of(word)
    if operation not in instruction.operation_codes:
        raise ValueError(f"{name}: {instruction.operation_field}={operation} names no operation of it")
    return word.to_bytes(instruction.size, "little")


def decode_stream(data: bytes | memoryview, engine: Engine) -> list[Command]:
    """The commands of one queue in order, the last one being its end command (SYSID or sDMA_sys).

    Takes long and short forms mixed. Raises ValueError naming the offset of an unknown opcode, of a command that is cut
    off, or of anything but zeros after the end command.
    """
    commands: list[Command] = []
    for command in _commands(memoryview(data).cast("B"), engine):
        commands.append(command)
        if command.is_end:
            end = command.offset + command.size
            if any(data[end:]):
                raise ValueError(f"{engine} queue: offset {end:#x}: bytes after the end command")
            return commands
    raise ValueError(f"{engine} queue: offset {len(data):#x}: no end command")


def _commands(data: memoryview, engine: Engine) -> Iterator[Command]:
    opcode = _tiu_instruction if engine == "TIU" else _gdma_instruction
    offset = 0
    while offset < len(data):
        instruction = opcode(int.from_bytes(data[offset : offset + 8], "little"))
        if instruction is None:
            raise ValueError(f"{engine} queue: offset {offset:#x}: unknown opcode")
        end = offset + instruction.size
        if end > len(data):
            raise ValueError(f"{engine} queue: offset {offset:#x}: {instruction.name} is cut off")
        word = int.from_bytes(data[offset:end], "little")
        fields = {name: word >> bit & mask for name, bit, mask in instruction.layout}
        if word & instruction.reserved_mask:
            for row in instruction.reserved:
                if value := word >> row.bit & row.mask:
                    fields[row.name] = value
        yield Command(instruction.name, engine, fields, offset, instruction.size)
        offset = end


def _tiu_opcodes() -> dict[tuple[int, int, int], Instruction]:
    """Instructions by (cmd_short, tsk_typ, tsk_eu_typ)."""
    table: dict[tuple[int, int, int], Instruction] = {}
    for each in TIU_INSTRUCTIONS:
        forms = (each.fixed["cmd_short"],) if "cmd_short" in each.fixed else (0, 1)
        for short in forms:
            for operation in each.operation_codes:
                key = (short, each.fixed["tsk_typ"], operation)
                assert key not in table, f"{each.name} and {table[key].name} share an opcode"
                table[key] = each
    return table


_TIU_OPCODES = _tiu_opcodes()
_GDMA_OPCODES = {
    (each.fixed["cmd_short"], each.fixed["cmd_type"], operation): each
    for each in GDMA_INSTRUCTIONS
    for operation in each.operation_codes
}


def _tiu_instruction(head: int) -> Instruction | None:
    return _TIU_OPCODES.get((head & 1, head >> 41 & 15, head >> 45 & 31))


def _gdma_instruction(head: int) -> Instruction | None:
    return _GDMA_OPCODES.get((head >> 3 & 1, head >> 32 & 15, head >> 36 & 7))
