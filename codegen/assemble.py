"""Commands to bits, and everything into one bmodel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.commands import Address, PlannedCommand, Space
from tpu_deploy.codegen.dependencies import dependencies
from tpu_deploy.codegen.isa import encode


@dataclass(frozen=True)
class Stream:
    """The encoded queues of one command group, padded, and the number of commands in each (with the closing one)."""

    tiu: bytes
    gdma: bytes
    tiu_count: int
    gdma_count: int


def _resolve(address: Address, bases: dict[Space, int], chip: Chip, engine: str) -> int:
    if address.space is not Space.LOCAL:
        return bases[address.space] + address.offset
    local = address.lane * chip.lane_stride + address.offset
    return local if engine == "TIU" else chip.local_base + local


def _fields(command: PlannedCommand, bases: dict[Space, int], chip: Chip) -> dict[str, int]:
    fields = dict(command.fields)
    for name, address in command.addresses.items():
        value = _resolve(address, bases, chip, command.engine)
        if command.engine == "TIU":
            fields[name] = value
        else:
            fields[f"{name}_start_addr_l32"] = value & 0xFFFFFFFF
            fields[f"{name}_start_addr_h8"] = value >> 32
    return fields


def _pad(stream: bytearray) -> bytes:
    return bytes(stream) + bytes(-len(stream) % 128)


def encode_stream(commands: Sequence[PlannedCommand], bases: dict[Space, int], chip: Chip) -> Stream:
    """The two queues of one command group."""
    queues = {"TIU": bytearray(), "GDMA": bytearray()}
    count = {"TIU": 0, "GDMA": 0}
    for command, (number, wait) in zip(commands, dependencies(commands, chip), strict=True):
        fields = _fields(command, bases, chip) | {"cmd_id": number, "cmd_id_dep": wait, "cmd_id_en": 1}
        queues[command.engine] += encode(command.instruction, fields)
        count[command.engine] += 1
    queues["TIU"] += encode("SYSID", {"tsk_eu_typ": 31, "cmd_id": count["TIU"] + 1})
    queues["GDMA"] += encode("sDMA_sys", {"cmd_id": count["GDMA"] + 1, "cmd_id_en": 1})
    return Stream(_pad(queues["TIU"]), _pad(queues["GDMA"]), count["TIU"] + 1, count["GDMA"] + 1)


def encode_groups(commands: Sequence[PlannedCommand], bases: dict[Space, int], chip: Chip) -> list[Stream]:
    """Command groups, each short enough for its identifiers; groups run one after another."""
    size = chip.max_commands
    return [encode_stream(commands[k : k + size], bases, chip) for k in range(0, max(len(commands), 1), size)]
