"""One instruction as a table of bit fields, and how rows of text become such a table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Literal

Engine = Literal["TIU", "GDMA"]

_OPERATION_FIELD: dict[str, str] = {"TIU": "tsk_eu_typ", "GDMA": "cmd_special_function"}


@dataclass(frozen=True, slots=True)
class Field:
    """`width` bits from `bit` upwards, counted from the lowest bit of the little-endian command."""

    name: str
    bit: int
    width: int

    @property
    def mask(self) -> int:
        """All ones in the width of the field, at bit 0."""
        return (1 << self.width) - 1


@dataclass(frozen=True)
class Instruction:
    """One form of an instruction: `bits` long, with its named fields in bit order.

    `fixed` holds the fields that make it this instruction; they are encoded without being given. `operations` names
    the values its operation field (`tsk_eu_typ`, `cmd_special_function`) may take. `family` is the name that short and
    long forms share. `reserved` are the stretches of bits no row names, called `reserved_<bit>`: zero in every command
    written here, yet kept when a command that sets them is decoded and encoded again. What follows is derived, for
    speed: `layout` is (name, bit, mask) of each field.
    """

    name: str
    family: str
    engine: Engine
    bits: int
    fields: tuple[Field, ...]
    fixed: Mapping[str, int]
    operations: type[IntEnum]
    reserved: tuple[Field, ...] = field(init=False)
    layout: tuple[tuple[str, int, int], ...] = field(init=False, repr=False)
    slots: Mapping[str, tuple[int, int]] = field(init=False, repr=False)
    opcode_word: int = field(init=False, repr=False)
    reserved_mask: int = field(init=False, repr=False)
    operation_codes: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reserved = tuple(_gaps(self.name, self.fields, self.bits))
        slots = {row.name: (row.bit, row.width) for row in (*self.fields, *reserved)}
        assert len(slots) == len(self.fields) + len(reserved), f"{self.name} names a field twice"
        derived = {
            "fixed": MappingProxyType(dict(self.fixed)),
            "reserved": reserved,
            "layout": tuple((row.name, row.bit, row.mask) for row in self.fields),
            "slots": MappingProxyType(slots),
            "opcode_word": sum(value << slots[name][0] for name, value in self.fixed.items()),
            "reserved_mask": sum(row.mask << row.bit for row in reserved),
            "operation_codes": frozenset(int(code) for code in self.operations),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """Bytes of one command."""
        return self.bits // 8

    @property
    def operation_field(self) -> str:
        """The field whose value `operations` names."""
        return _OPERATION_FIELD[self.engine]

    def operation_of(self, word: int) -> int:
        """The value of the operation field in an encoded command."""
        bit, width = self.slots[self.operation_field]
        return word >> bit & ((1 << width) - 1)


def rows(text: str) -> tuple[Field, ...]:
    """The fields of a table written `name@bit:width name@bit:width ...`, in bit order."""
    fields = []
    for row in text.split():
        name, _, place = row.partition("@")
        bit, _, width = place.partition(":")
        fields.append(Field(name, int(bit), int(width)))
    return tuple(sorted(fields, key=lambda each: each.bit))


def _gaps(name: str, fields: tuple[Field, ...], bits: int) -> Iterator[Field]:
    """The stretches of bits between the fields, checking that no two fields overlap."""
    end = 0
    for row in fields:
        assert row.bit >= end, f"{name}.{row.name} overlaps the field before it"
        if row.bit > end:
            yield Field(f"reserved_{end}", end, row.bit - end)
        end = row.bit + row.width
    assert end <= bits, f"{name} has fields beyond its {bits} bits"
    if end < bits:
        yield Field(f"reserved_{end}", end, bits - end)
