"""The flatbuffer tables of a bmodel as rows, read by writer and reader alike.

A row is `id name:type`, with `=value` where an absent scalar means something else than zero. Scalars are u8, u32, i32,
u64 and f32; `str` is a string, `[...]` a vector, any other type a table or a struct of this file. Source: the field
ids of the public vendor runtime, checked against files its compiler wrote.
"""

import struct
from dataclasses import dataclass

SCALARS: dict[str, struct.Struct] = {
    "u8": struct.Struct("<B"),
    "u32": struct.Struct("<I"),
    "i32": struct.Struct("<i"),
    "u64": struct.Struct("<Q"),
    "f32": struct.Struct("<f"),
}

# Structs lie inside their table or vector: (field name, scalar type) in order of memory.
STRUCTS: dict[str, tuple[tuple[str, str], ...]] = {
    "Binary": (("start", "u64"), ("size", "u64")),
    "RelEntry": (("base_addr_id", "u32"), ("addr_offset", "u32"), ("cmd_offset", "u32")),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One field of a table: its slot number, name, type and what an absent scalar stands for."""

    slot: int
    name: str
    type: str
    default: float


def _rows(text: str) -> tuple[Row, ...]:
    words = text.split()
    rows = []
    for slot, field in zip(words[::2], words[1::2], strict=True):
        name, _, kind = field.partition(":")
        kind, _, default = kind.partition("=")
        rows.append(Row(int(slot), name, kind, float(default) if kind == "f32" and default else int(default or 0)))
    return tuple(rows)


TABLES: dict[str, tuple[Row, ...]] = {
    "Model": _rows("""
        0 type:str 1 version:str 2 time:str 3 chip:str 4 net:[Net] 5 neuron_size:u64 6 kernel_module:KernelModule
        7 device_num:u32 9 bmodel_type:u32
    """),
    "KernelModule": _rows("0 file_name:str 1 binary:Binary"),
    "Net": _rows("0 name:str 3 parameter:[NetParameter] 5 addr_mode:i32"),
    "NetParameter": _rows("""
        0 input_tensor:[Tensor] 1 output_tensor:[Tensor] 2 ctx_addr:u64 3 ctx_size:u64 4 coeff_mem:CoeffMem
        5 is_dynamic:i32 8 cmd_group:[CmdGroup] 12 sub_net:[SubNet] 14 ctx_sizes:[u64] 16 core_num:u32 17 io_addr:u64
        18 io_size:u64
    """),
    "SubNet": _rows("""
        0 subnet_mode:i32 1 cmd_group:[CmdGroup] 3 input_tensor:[Tensor] 4 output_tensor:[Tensor] 5 is_dynamic:i32
        10 id:i32=-1 11 next_subnet_ids:[i32] 14 core_commands:[CoreCommands] 15 run_core:u32
    """),
    "CoreCommands": _rows("0 gdma_tiu_commands:[CmdGroup]"),
    "CmdGroup": _rows("""
        0 bdc_num:u32 1 gdma_num:u32 2 binary_bdc:Binary 3 binary_gdma:Binary 4 bdc_cmd_byte:u32 5 gdma_cmd_byte:u32
    """),
    "CoeffMem": _rows("""
        0 address:u64 1 check_code:[u8] 2 binary_coeff:Binary 3 location:[Location] 4 encrypt_mode:i32
    """),
    "Location": _rows("0 name:str 1 offset:u64 2 size:u64"),
    "Tensor": _rows("""
        0 name:str 1 data_type:u32 3 device_addr:u64 4 size:u64 5 shape:[Shape] 6 mem_type:u32 7 scale:f32=1
        10 zero_point:i32 11 hidden:i32 12 index:i32
    """),
    "Shape": _rows("0 dim:[u64]"),
}
