"""Flatbuffers by schema rows: dictionaries in, bytes out, and back.

Reading trusts nothing: the accessors of the flatbuffers package follow any offset, so bounds are checked here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers

from tpu_deploy.codegen.bmodel.schema import SCALARS, STRUCTS, TABLES, Row

# A well-formed file reads each byte a few times at most (several tables share one list of slots). More reads than
# this come from tables that contain each other many times over.
_READS_PER_BYTE = 32
_MOST_READ = 1 << 26


class MalformedTableError(Exception):
    """The bytes are no flatbuffer of the schema."""


def read_tables(data: bytes, root: str) -> dict[str, Any]:
    """The root table as a dictionary of field name to value, tables in it likewise.

    Absent scalars have their default, absent vectors are empty, absent strings, structs and tables None; vectors of u8
    are bytes. Raises MalformedTableError.
    """
    reading = _Reading(data)
    return reading.table(root, reading.follow(0))


def build_tables(root: str, values: Mapping[str, Any]) -> bytes:
    """The flatbuffer whose root table holds `values`: dictionaries for tables and structs, None or absent for nothing.

    Scalars given are written even when they equal the default, because readers differ in what they take for it.
    """
    builder = flatbuffers.Builder(4096)
    builder.ForceDefaults(True)
    builder.Finish(_write_table(builder, root, values))
    return bytes(builder.Output())


class _Reading:
    """Bounded access to one flatbuffer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.budget = min(_READS_PER_BYTE * len(data) + 4096, _MOST_READ)

    def _charge(self, at: int, size: int) -> None:
        if at < 0 or at + size > len(self.data):
            raise MalformedTableError(f"it refers to byte {at} of {len(self.data)}")
        self.budget -= size
        if self.budget < 0:
            raise MalformedTableError("its tables refer to each other too often")

    def scalar(self, kind: str, at: int) -> Any:
        packed = SCALARS[kind]
        self._charge(at, packed.size)
        return packed.unpack_from(self.data, at)[0]

    def follow(self, at: int) -> int:
        """The position the offset at `at` points to."""
        return at + int(self.scalar("u32", at))

    def block(self, at: int, element_size: int) -> tuple[int, int]:
        """Start and element count of the string or vector at `at`, which lies wholly in the buffer."""
        count = self.scalar("u32", at)
        self._charge(at + 4, count * element_size)
        return at + 4, count

    def string(self, at: int) -> str:
        start, count = self.block(at, 1)
        try:
            return self.data[start : start + count].decode()
        except UnicodeDecodeError as error:
            raise MalformedTableError(f"the text at byte {start} is not UTF-8") from error

    def struct(self, name: str, at: int) -> dict[str, int]:
        values = {}
        for field, kind in STRUCTS[name]:
            values[field] = self.scalar(kind, at)
            at += SCALARS[kind].size
        return values

    def vector(self, element: str, at: int) -> Sequence[Any]:
        if element in SCALARS:
            size = SCALARS[element].size
            start, count = self.block(at, size)
            if element == "u8":
                return self.data[start : start + count]
            return [self.scalar(element, start + index * size) for index in range(count)]
        start, count = self.block(at, 4)
        return [self.table(element, self.follow(start + 4 * index)) for index in range(count)]

    def table(self, name: str, at: int) -> dict[str, Any]:
        slots = at - int(self.scalar("i32", at))
        slot_bytes = int.from_bytes(self._two_bytes(slots), "little")
        values: dict[str, Any] = {}
        for row in TABLES[name]:
            place = 4 + 2 * row.slot
            offset = int.from_bytes(self._two_bytes(slots + place), "little") if place + 2 <= slot_bytes else 0
            values[row.name] = self.field(row, at + offset) if offset else _absent(row)
        return values

    def _two_bytes(self, at: int) -> bytes:
        self._charge(at, 2)
        return self.data[at : at + 2]

    def field(self, row: Row, at: int) -> Any:
        if row.type in SCALARS:
            return self.scalar(row.type, at)
        if row.type in STRUCTS:
            return self.struct(row.type, at)
        target = self.follow(at)
        if row.type == "str":
            return self.string(target)
        if row.type.startswith("["):
            return self.vector(row.type[1:-1], target)
        return self.table(row.type, target)


def _absent(row: Row) -> Any:
    if row.type in SCALARS:
        return row.default
    if row.type == "[u8]":
        return b""
    return [] if row.type.startswith("[") else None


def _write_table(builder: flatbuffers.Builder, name: str, values: Mapping[str, Any]) -> int:
    rows = TABLES[name]
    unknown = set(values) - {row.name for row in rows}
    assert not unknown, f"{name} has no fields {unknown}"
    given = {row: values[row.name] for row in rows if values.get(row.name) is not None}
    # What a table refers to must be finished before the table is begun.
    places = {row: _write_child(builder, row.type, value) for row, value in given.items() if _lies_outside(row.type)}
    builder.StartObject(max(row.slot for row in rows) + 1)
    for row, value in given.items():
        if row in places:
            builder.PrependUOffsetTRelativeSlot(row.slot, places[row], 0)
        elif row.type in STRUCTS:
            builder.PrependStructSlot(row.slot, _write_struct(builder, row.type, value), 0)
        else:
            _SLOT_WRITERS[row.type](builder, row.slot, value, row.default)
    return int(builder.EndObject())


_SLOT_WRITERS = {
    "u32": flatbuffers.Builder.PrependUint32Slot,
    "i32": flatbuffers.Builder.PrependInt32Slot,
    "u64": flatbuffers.Builder.PrependUint64Slot,
    "f32": flatbuffers.Builder.PrependFloat32Slot,
}
_SCALAR_WRITERS = {
    "u32": flatbuffers.Builder.PrependUint32,
    "i32": flatbuffers.Builder.PrependInt32,
    "u64": flatbuffers.Builder.PrependUint64,
}


def _lies_outside(kind: str) -> bool:
    return kind not in SCALARS and kind not in STRUCTS


def _write_child(builder: flatbuffers.Builder, kind: str, value: Any) -> int:
    if kind == "str":
        return int(builder.CreateString(value))
    if kind == "[u8]":
        return int(builder.CreateByteVector(value))
    if not kind.startswith("["):
        return _write_table(builder, kind, value)
    element = kind[1:-1]
    if element in SCALARS:
        size = SCALARS[element].size
        builder.StartVector(size, len(value), size)
        for each in reversed(value):
            _SCALAR_WRITERS[element](builder, each)
    else:
        tables = [_write_table(builder, element, each) for each in value]
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _write_struct(builder: flatbuffers.Builder, name: str, value: Mapping[str, int]) -> int:
    fields = STRUCTS[name]
    sizes = [SCALARS[kind].size for _, kind in fields]
    builder.Prep(max(sizes), sum(sizes))
    for field, kind in reversed(fields):
        _SCALAR_WRITERS[kind](builder, value[field])
    return int(builder.Offset())
