import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.isa import INSTRUCTIONS, Command, decode_stream, disassemble, encode, opcode

ALL_LANES = {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}


def command(name: str, **fields: int) -> Command:
    engine = INSTRUCTIONS[name].engine
    end = encode("SYSID", {"tsk_eu_typ": 31}) if engine == "TIU" else encode("sDMA_sys", {})
    operation = fields.get(INSTRUCTIONS[name].operation_field, 0)
    closes = (name, operation) in (("SYSID", 31), ("sDMA_sys", 0))
    return decode_stream(encode(name, fields) + (b"" if closes else end), engine)[0]


def shape(prefix: str, n: int, c: int, h: int, w: int, suffix: str = "") -> dict[str, int]:
    return {f"{prefix}{axis}{suffix}": size for axis, size in zip("nchw", (n, c, h, w), strict=True)}


def test_a_convolution_reads_as_shapes_places_and_window():
    line = disassemble(
        command(
            "sCONV",
            cmd_id=15,
            cmd_id_dep=3,
            opd0_sign=1,
            opd1_sign=1,
            res0_prec=4,
            opd2_const=1,
            opd3_const=1,
            **shape("res0_", 1, 64, 28, 28),
            **{"opd0_c": 32, "opd0_h": 56, "opd0_w": 56, "opd1_h": 3, "opd1_w": 3},
            **{"opd0_up_pad": 1, "opd0_lf_pad": 1, "res_op_x_str": 2, "res_op_y_str": 2},
            res0_addr=0x8000,
            opd1_addr=5 * 0x40000 + 0x40,
        )
    )
    assert line == (
        "TIU 15 after GDMA 3: CONV y=i32[1,64,28,28] lane0+0x8000, x=i8[1,32,56,56] lane0+0x0, "
        "weight=i8[64,32,3,3] lane5+0x40 | kernel=3x3 stride=2x2 pads=1,0,1,0"
    )


def test_strides_constants_and_rounding_are_shown():
    fields = {"tsk_eu_typ": 20, "tsk_opd_num": 3, "opd0_sign": 1, "res0_prec": 3, "opd2_n_str": 5, "cmd_id": 9}
    line = disassemble(
        command(
            "sAR",
            **fields,
            **shape("res0_", 1, 8, 2, 2),
            **{"opd0_str": 3, "opd0_c_str": 16, "opd1_const": 1, "opd1_addr": 7, "opd2_const": 1, "opd2_addr": -2},
        )
    )
    assert line == (
        "TIU 9: AR.muls y=i16[1,8,2,2] lane0+0x0, a=i8[1,8,2,2]:(0,16,0,0) lane0+0x0, b=u8 0x7, c=u8 0xfe"
        " | round=half_up"
    )
    line = disassemble(command("sRQ_sDQ", tsk_eu_typ=1, opd1_const=1, opd1_addr=-5, opd2_addr=-12 & 0xFF | 3 << 16))
    assert line.endswith("| multiplier=-5 shift=-12 zero_point=3")


def test_transfers_name_their_memories():
    fields = shape("src_", 1, 3, 4, 5, "size") | shape("src_", 60, 20, 5, 1, "stride") | ALL_LANES
    load = command(
        "DMA_tensor",
        **fields,
        **shape("dst_", 64, 64, 5, 1, "stride"),
        **{"cmd_id": 2, "stride_enable": 1, "nchw_copy": 1, "src_start_addr_l32": 0x100, "src_start_addr_h8": 1},
        dst_start_addr_l32=0x0800_0000 + 2 * 0x40000,
    )
    assert disassemble(load) == (
        "GDMA 2: GDMA.tensor dst=i8[1,3,4,5]:(64,64,5,1) lane2+0x0, src=i8[1,3,4,5]:(60,20,5,1) DDR+0x100"
    )
    fill = command(
        "DMA_tensor",
        **shape("dst_", 1, 1, 1, 8, "size"),
        **{"src_data_format": 2, "fill_constant_en": 1, "constant_value": 0x3F800000, "localmem_mask_l32": 3},
        dst_start_addr_l32=0x1000_0040,
    )
    assert disassemble(fill) == "GDMA 0: GDMA.tensor dst=f32[1,1,1,8] L2+0x40, src=f32 0x3f800000 | lanes=0x3"


@pytest.mark.parametrize(
    ("name", "operation", "expected"),
    [
        ("sCONV", 0, "CONV"),
        ("CONV", 2, "CONV.wrq_relu"),
        ("sAR", 15, "AR.adds"),
        ("sAR", 19, "AR.copy"),
        ("sMM2", 5, "MM2.nt"),
        ("SYSID", 31, "SYSID.end"),
    ],
)
def test_opcodes_are_short_names(name, operation, expected):
    assert opcode(command(name, tsk_eu_typ=operation)) == expected


def test_opcodes_of_transfers_carry_their_special_function():
    assert opcode(command("DMA_tensor")) == "GDMA.tensor"
    assert opcode(command("DMA_tensor", cmd_special_function=3)) == "GDMA.tensor.broadcast"
    assert opcode(command("sDMA_sys")) == "GDMA.sys.end"


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.sampled_from(list(INSTRUCTIONS.values())), st.data())
def test_any_bits_of_a_known_opcode_disassemble_to_one_line(instruction, data):
    word = data.draw(st.integers(0, (1 << instruction.bits) - 1))
    fields = {row.name: word >> row.bit & row.mask for row in instruction.fields if row.name not in instruction.fixed}
    fields[instruction.operation_field] = data.draw(st.sampled_from([int(code) for code in instruction.operations]))
    line = disassemble(command(instruction.name, **fields))
    assert "\n" not in line and line.startswith(f"{instruction.engine} ") and line == line.strip()
