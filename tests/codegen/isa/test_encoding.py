import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.isa import INSTRUCTIONS, Instruction, Precision, decode_stream, encode

QUEUE_COMMANDS = ("SYSID", "sDMA_sys")
END = {"TIU": encode("SYSID", {"cmd_id": 1, "tsk_eu_typ": 31}), "GDMA": encode("sDMA_sys", {"cmd_id": 1})}


@st.composite
def queues(draw: st.DrawFn) -> tuple[str, list[tuple[Instruction, dict[str, int]]]]:
    """An engine and instructions of it, with a random value in every field they leave free, reserved bits included."""
    engine = draw(st.sampled_from(["TIU", "GDMA"]))
    choices = [each for each in INSTRUCTIONS.values() if each.engine == engine and each.name not in QUEUE_COMMANDS]
    picked = []
    for instruction in draw(st.lists(st.sampled_from(choices), min_size=1, max_size=4)):
        word = draw(st.integers(0, (1 << instruction.bits) - 1))
        rows = (*instruction.fields, *instruction.reserved)
        fields = {row.name: word >> row.bit & row.mask for row in rows if row.name not in instruction.fixed}
        fields[instruction.operation_field] = draw(st.sampled_from([int(code) for code in instruction.operations]))
        picked.append((instruction, fields))
    return engine, picked


def test_every_bit_of_every_instruction_belongs_to_exactly_one_row():
    for instruction in INSTRUCTIONS.values():
        covered = sum(row.mask << row.bit for row in (*instruction.fields, *instruction.reserved))
        widths = sum(row.width for row in (*instruction.fields, *instruction.reserved))
        assert covered == (1 << instruction.bits) - 1 and widths == instruction.bits, instruction.name


def test_known_bits_stand_where_the_table_says():
    word = int.from_bytes(
        encode("sCONV", {"cmd_id": 0xABCDE, "opd1_h": 3, "opd1_w": 5, "res0_addr": 0x3FFFFFF}), "little"
    )
    assert word & 1 == 1
    assert word >> 1 & 0xFFFFF == 0xABCDE
    assert word >> 272 & 0xFFFF == 3 and word >> 288 & 0xFFFF == 5
    assert word >> 101 & 0x3FFFFFF == 0x3FFFFFF and word >> 127 == word >> 128 << 1
    word = int.from_bytes(encode("DMA_matrix", {"src_start_addr_l32": 0x12345678, "src_start_addr_h8": 1}), "little")
    assert word >> 512 & 0xFFFFFFFFFF == 0x112345678
    assert word >> 32 & 15 == 1


@settings(derandomize=True, max_examples=100, deadline=None)
@given(queues())
def test_decoding_inverts_encoding_for_any_field_values(queue):
    engine, picked = queue
    stream = b"".join(encode(each.name, fields) for each, fields in picked) + END[engine]
    commands = decode_stream(stream, engine)
    assert [command.name for command in commands[:-1]] == [each.name for each, _ in picked]
    for command, (each, fields) in zip(commands, picked, strict=False):
        assert {name: command.fields.get(name, 0) for name in fields} == fields
        assert {name: command.fields[name] for name in each.fixed} == dict(each.fixed)
    assert b"".join(encode(command.name, command.fields) for command in commands) == stream
    assert commands[-1].is_end and commands[-1].offset + commands[-1].size == len(stream)


def test_negative_values_become_twos_complement_and_others_are_refused_by_name():
    command = decode_stream(encode("sAR", {"opd1_addr": -2}) + END["TIU"], "TIU")[0]
    assert command.fields["opd1_addr"] == 0xFFFFFFFE
    with pytest.raises(ValueError, match=r"sAR: res0_n=65536 does not fit 16 bits"):
        encode("sAR", {"res0_n": 65536})
    with pytest.raises(ValueError, match=r"sAR: res0_n=-32769 does not fit 16 bits"):
        encode("sAR", {"res0_n": -32769})
    with pytest.raises(ValueError, match=r"sAR: has no field kernel_rotate"):
        encode("sAR", {"kernel_rotate": 1})
    with pytest.raises(ValueError, match=r"sMM: tsk_eu_typ=4 names no operation"):
        encode("sMM", {"tsk_eu_typ": 4})
    with pytest.raises(ValueError, match=r"sAR: tsk_typ=4 is not 3"):
        encode("sAR", {"tsk_typ": 4})
    with pytest.raises(ValueError, match=r"CONVOLVE: no such instruction"):
        encode("CONVOLVE", {})


def test_broken_queues_are_refused_with_the_offset():
    add = encode("sAR", {"tsk_eu_typ": 2})
    with pytest.raises(ValueError, match=r"TIU queue: offset 0x40: no end command"):
        decode_stream(add, "TIU")
    with pytest.raises(ValueError, match=r"TIU queue: offset 0x0: sAR is cut off"):
        decode_stream(add[:40], "TIU")
    unknown = bytearray(add)
    unknown[5] = unknown[5] & ~0x1E | 8 << 1  # tsk_typ 8
    with pytest.raises(ValueError, match=r"TIU queue: offset 0x40: unknown opcode"):
        decode_stream(add + bytes(unknown), "TIU")
    with pytest.raises(ValueError, match=r"TIU queue: offset 0x10: bytes after the end command"):
        decode_stream(END["TIU"] + add, "TIU")
    assert len(decode_stream(END["GDMA"] + bytes(112), "GDMA")) == 1


def test_element_sizes():
    assert [Precision(code).itemsize for code in range(6)] == [1, 2, 4, 2, 4, 2]
    with pytest.raises(ValueError, match="packed"):
        _ = Precision.I4.itemsize
    assert Precision.I8.dtype_name(signed=False) == "u8" and Precision.F16.dtype_name(signed=False) == "f16"
