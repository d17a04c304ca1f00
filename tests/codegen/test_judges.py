"""The judges of decoded commands: regions, hazards, legality."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.hazards import check_hazards, check_initialized
from tpu_deploy.codegen.isa import Command, Engine, decode_stream, encode
from tpu_deploy.codegen.isa.addresses import DDR, GDMA_LOCAL, LANE_BYTES, STATIC
from tpu_deploy.codegen.legality import GlobalRanges, check_legality
from tpu_deploy.codegen.places import Place
from tpu_deploy.codegen.regions import Block, blocks

Commands = list[tuple[str, dict[str, int]]]

END: dict[Engine, tuple[str, dict[str, int]]] = {"TIU": ("SYSID", {"tsk_eu_typ": 31}), "GDMA": ("sDMA_sys", {})}


def queue(engine: Engine, commands: Commands) -> list[Command]:
    """The commands with their identifiers and the end command, encoded and decoded."""
    rows = [*commands, END[engine]]
    encoded = [
        encode(name, {"cmd_id": number} | ({} if name == "SYSID" else {"cmd_id_en": 1}) | fields)
        for number, (name, fields) in enumerate(rows, 1)
    ]
    return decode_stream(b"".join(encoded), engine)


def address(side: str, value: int) -> dict[str, int]:
    return {f"{side}_start_addr_l32": value & 0xFFFF_FFFF, f"{side}_start_addr_h8": value >> 32}


def load(offset: int, dims: tuple[int, int, int, int] = (1, 64, 1, 64), lane: int = 0, **fields: int) -> Any:
    """Bytes from the start of global memory into the aligned layout."""
    _, c, h, w = dims
    strides = {"src_nstride": c * h * w, "src_cstride": h * w, "src_hstride": w, "src_wstride": 1}
    row = -(-h * w // 64) * 64
    strides |= {"dst_nstride": -(-(lane + c) // 64) * row, "dst_cstride": row, "dst_hstride": w, "dst_wstride": 1}
    sizes = {f"src_{axis}size": size for axis, size in zip("nchw", dims, strict=True)}
    place = address("src", DDR) | address("dst", GDMA_LOCAL + lane * LANE_BYTES + offset)
    return "DMA_tensor", {"stride_enable": 1, "nchw_copy": 1} | strides | sizes | place | fields


def store(offset: int, target: int = DDR + 0x10000, **fields: int) -> Any:
    """64 bytes of every lane to global memory."""
    strides = {f"{side}_{axis}stride": 64 for side in ("src", "dst") for axis in "nch"}
    strides |= {"dst_nstride": 4096, "src_wstride": 1, "dst_wstride": 1}
    sizes = {"src_nsize": 1, "src_csize": 64, "src_hsize": 1, "src_wsize": 64}
    place = address("src", GDMA_LOCAL + offset) | address("dst", target)
    return "DMA_tensor", {"stride_enable": 1, "nchw_copy": 1} | strides | sizes | place | fields


def copy(source: int, target: int, **fields: int) -> Any:
    """64 bytes of every lane, within local memory."""
    shape = {"res0_n": 1, "res0_c": 64, "res0_h": 1, "res0_w": 64}
    return "sAR", {"tsk_eu_typ": 19, "tsk_opd_num": 1, "opd0_addr": source, "res0_addr": target} | shape | fields


def hazards(tiu: Commands, gdma: Commands) -> list[str]:
    return [str(found) for found in check_hazards(queue("TIU", tiu), queue("GDMA", gdma))]


class TestHazards:
    def test_commands_that_wait_for_each_other_in_turn_are_safe(self):
        tiu = [copy(0, 0x1000, cmd_id_dep=1), copy(0x2000, 0x3000, cmd_id_dep=2)]
        gdma = [load(0), load(0x2000), store(0x1000, cmd_id_dep=1), store(0x3000, cmd_id_dep=2)]
        assert hazards(tiu, gdma) == []

    @pytest.mark.parametrize(
        "tiu, gdma, one, other",
        [
            ([copy(0, 0x1000)], [load(0)], "a at lanes 0-63 0x0..0x40", "destination at lanes 0-63 0x0..0x40"),
            (
                [copy(0, 0x1000)],
                [store(0x1000)],
                "y at lanes 0-63 0x1000..0x1040",
                "source at lanes 0-63 0x1000..0x1040",
            ),
            (
                [copy(0, 0x1000)],
                [load(0x1020, (1, 64, 1, 8))],
                "y at lanes 0-63 0x1000",
                "destination at lanes 0-63 0x1020",
            ),
        ],
        ids=["read after write", "write after write being read", "write after write"],
    )
    def test_a_race_names_both_commands_and_what_they_touch(self, tiu, gdma, one, other):
        (message,) = hazards(tiu, gdma)
        assert message.startswith("TIU 1 (AR.copy) and GDMA 1 (GDMA.tensor): race")
        assert one in message and other in message

    def test_a_dependency_of_an_earlier_command_of_the_queue_counts(self):
        gdma = [load(0), load(0x2000)]
        assert hazards([copy(0x4000, 0x5000, cmd_id_dep=2), copy(0, 0x1000)], gdma) == []
        assert len(hazards([copy(0x4000, 0x5000, cmd_id_dep=1), copy(0x2000, 0x1000)], gdma)) == 1

    def test_a_transfer_that_waits_for_a_later_command_cannot_race_with_an_earlier_one(self):
        assert hazards([copy(0, 0x1000), copy(0x2000, 0x3000)], [load(0, cmd_id_dep=2)]) == []
        assert len(hazards([copy(0x2000, 0x3000), copy(0, 0x1000)], [load(0, cmd_id_dep=1)])) == 1

    def test_two_readers_do_not_race(self):
        assert hazards([copy(0, 0x1000)], [store(0)]) == []

    def test_other_lanes_do_not_race(self):
        assert hazards([copy(0, 0x1000, res0_c=8)], [load(0, (1, 8, 1, 64), lane=8)]) == []
        assert len(hazards([copy(0, 0x1000, res0_c=9)], [load(0, (1, 8, 1, 64), lane=8)])) == 1

    def test_channels_beyond_lane_63_lie_in_the_next_row_of_the_first_lanes(self):
        beyond = load(0, (1, 70, 1, 64))
        assert len(hazards([copy(0x40, 0x1000, res0_c=6)], [beyond])) == 1
        assert hazards([copy(0x40 + 6 * LANE_BYTES, 0x1000, res0_c=6)], [beyond]) == []

    def test_interleaved_rows_do_not_race(self):
        every_other = {"dst_hstride": 32, "dst_cstride": 64, "dst_nstride": 64}
        row = {"opd0_str": 3, "opd0_h_str": 32, "opd0_w_str": 1, "res0_h": 2, "res0_w": 16}
        gdma = [load(0, (1, 64, 2, 16), **every_other)]
        assert hazards([copy(16, 0x1000, **row)], gdma) == []
        assert len(hazards([copy(15, 0x1000, **row)], gdma)) == 1

    def test_a_dependency_on_a_command_that_does_not_exist_is_a_deadlock(self):
        (message,) = hazards([copy(0, 0x1000, cmd_id_dep=9)], [load(0)])
        assert message == "deadlock: TIU 1 (AR.copy) waits for GDMA 9, which does not exist"

    def test_engines_that_wait_for_each_other_are_a_deadlock(self):
        (message,) = hazards([copy(0, 0x1000, cmd_id_dep=1)], [load(0x2000, cmd_id_dep=1)])
        assert message == "deadlock: TIU 1 (AR.copy) waits for GDMA 1 while GDMA 1 (GDMA.tensor) waits for TIU 1"

    def test_identifiers_count_from_one(self):
        (message,) = hazards([copy(0, 0x1000, cmd_id=5)], [])
        assert message == "TIU 5 (AR.copy): has cmd_id 5 as command number 1"

    def test_memory_nothing_has_written_is_found(self):
        def uninitialized(tiu: Commands, gdma: Commands) -> list[str]:
            return [str(found) for found in check_initialized([(queue("TIU", tiu), queue("GDMA", gdma))])]

        assert uninitialized([copy(0, 0x1000, cmd_id_dep=1), copy(0x1000, 0x2000)], [load(0)]) == []
        (message,) = uninitialized([copy(0, 0x1000, cmd_id_dep=1)], [load(0, (1, 63, 1, 64))])
        assert message == "TIU 1 (AR.copy): reads memory nothing has written: a at lanes 0-63 0x0..0x40"

    def test_what_one_group_wrote_the_next_may_read(self):
        groups = [(queue("TIU", []), queue("GDMA", [load(0)])), (queue("TIU", [copy(0, 64)]), queue("GDMA", []))]
        assert check_initialized(groups) == []


places = st.builds(
    Place,
    st.just("local"),
    st.integers(0, 63),
    st.integers(0, 40),
    st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 63, 64, 65, 130]), st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(0, 12), st.integers(0, 3)),
    st.sampled_from([1, 2, 4]),
)


def bytes_of(place: Place) -> set[tuple[int, int]]:
    """(lane, offset) of every byte, one by one."""
    (n, c, h, w), (sn, sc, sh, sw) = place.dims, place.strides
    return {
        ((place.lane + j) % 64, place.offset + i * sn + (place.lane + j) // 64 * sc + k * sh + m * sw + b)
        for i in range(n)
        for j in range(c)
        for k in range(h)
        for m in range(w)
        for b in range(place.itemsize)
    }


def block_bytes(block: Block) -> set[tuple[int, int]]:
    lanes = [lane for lane in range(64) if block.lanes >> lane & 1]
    return {(lane, int(start) + b) for lane in lanes for start in block.starts() for b in range(block.run)}


class TestRegions:
    @settings(derandomize=True, max_examples=60, deadline=None)
    @given(places)
    def test_the_blocks_of_a_place_are_its_bytes(self, place):
        found = set().union(*(block_bytes(block) for block in blocks(place)))
        assert found == bytes_of(place)
        assert place.end == 1 + max(offset for _, offset in bytes_of(place))

    @settings(derandomize=True, max_examples=150, deadline=None)
    @given(places, places)
    def test_blocks_overlap_exactly_where_they_share_a_byte(self, one, other):
        for a in blocks(one):
            for b in blocks(other):
                assert a.overlaps(b) == bool(block_bytes(a) & block_bytes(b))


CONV = {
    "res0_n": 1,
    "res0_c": 64,
    "res0_h": 4,
    "res0_w": 4,
    "opd0_c": 64,
    "opd0_h": 4,
    "opd0_w": 4,
    "opd1_h": 1,
    "opd1_w": 1,
}
CONV |= {"res_op_x_str": 1, "res_op_y_str": 1, "opd2_const": 1, "opd3_const": 1, "res0_prec": 4, "opd0_addr": 0}
CONV |= {"opd1_addr": 0x1000, "res0_addr": 0x2000}
POOL = {key: value for key, value in CONV.items() if key not in ("opd0_c", "opd1_addr")}
POOL |= {"tsk_eu_typ": 4, "res0_prec": 0}
ADD = {"tsk_eu_typ": 2, "tsk_opd_num": 2, "res0_n": 1, "res0_c": 64, "res0_h": 1, "res0_w": 64}
ADD |= {"opd0_addr": 0, "opd1_addr": 0x1000, "res0_addr": 0x2000}
REQUANT = {"tsk_eu_typ": 1, "res0_n": 1, "res0_c": 64, "res0_h": 1, "res0_w": 16, "opd0_prec": 4, "res0_addr": 0x2000}
TABLE = {
    "tsk_eu_typ": 5,
    "opd0_str": 3,
    "res0_n": 1,
    "res0_c": 64,
    "res0_h": 1,
    "res0_w": 64,
    "opd0_h": 1,
    "opd0_w": 256,
}
TABLE |= {"opd1_c": 64, "opd1_w": 64, "opd0_addr": 0, "opd1_addr": 0x4000, "res0_addr": 0x8000}
ROWS = {"tsk_eu_typ": 4, "res0_prec": 4, "res0_c": 8, "res0_w": 8, "opd1_c": 8, "opd1_w": 8, "opd2_const": 1}
ROWS |= {"opd0_addr": 0, "opd1_addr": 0x1000, "res0_addr": 0x2000}
SPREAD = {
    "tsk_eu_typ": 3,
    "res0_n": 1,
    "res0_c": 64,
    "res0_h": 1,
    "res0_w": 8,
    "opd0_c": 1,
    "opd0_w": 8,
    "res0_addr": 0x2000,
}
LANE_5 = 5 * LANE_BYTES


def complaints(engine: Engine, name: str, fields: dict[str, int], memory: GlobalRanges | None = None) -> list[str]:
    commands = queue(engine, [(name, fields)])
    return [str(found).split(": ", 1)[1] for found in check_legality(commands, memory)]


class TestLegality:
    @pytest.mark.parametrize(
        "name, fields",
        [("sCONV", CONV), ("sPorD", POOL), ("sAR", ADD), ("sRQ_sDQ", REQUANT), ("sSG", TABLE), ("sMM2", ROWS)],
    )
    def test_the_commands_the_cases_below_start_from_are_legal(self, name, fields):
        assert complaints("TIU", name, fields) == []
        assert complaints("TIU", "sTRANS_sBC", SPREAD) == []
        assert complaints("GDMA", *load(0)) == []

    @pytest.mark.parametrize(
        "name, base, change, complaint",
        [
            ("sCONV", CONV, {"opd0_addr": LANE_5}, "x starts at lane 5, not 0"),
            ("sCONV", CONV, {"opd1_addr": LANE_5 + 0x1000}, "weight starts at lane 5, not 0"),
            ("sCONV", CONV, {"opd1_addr": 0x1004}, "weight at lanes 0-63 0x1004..0x1044 is not aligned to 64 bytes"),
            ("sCONV", CONV, {"res0_prec": 0, "res_add": 1}, "adds to a result that is neither i32 nor f32"),
            ("sCONV", CONV, {"opd1_h": 5}, "its windows need 8 elements along h and the padded input has 4"),
            ("sCONV", CONV, {"res_op_x_str": 0}, "the stride along w is 0"),
            ("sCONV", CONV, {"res0_addr": 0x1020}, "y at lanes 0-63 0x1020..0x1060 overlaps weight"),
            ("sCONV", CONV, {"res0_n": 0}, "y has sizes [0, 64, 4, 4]; each must be 1 to 65535"),
            ("sPorD", POOL, {"opd0_addr": LANE_5}, "x starts at lane 5, not 0"),
            ("sPorD", POOL, {"res0_prec": 4}, "the result of a maximum has another element type"),
            ("sPorD", POOL, {"res0_addr": 0x20}, "y at lanes 0-63 0x20..0x30 is not aligned to 64 bytes"),
            ("sAR", ADD, {"opd1_addr": LANE_5}, "b starts at lane 5, not 0"),
            ("sAR", ADD, {"opd0_str": 1}, "a has layout 1; only 0 (aligned) and 3 (strides) are safe"),
            ("sAR", ADD, {"opd0_str": 3, "opd0_h_str": 1 << 18}, "a has a stride of 262144 elements"),
            ("sAR", ADD, {"res0_addr": 0x20}, "y at lanes 0-63 0x20..0x60 overlaps a at lanes 0-63 0x0..0x40"),
            (
                "sAR",
                ADD,
                {"res0_addr": 0, "res0_prec": 3},
                "y at lanes 0-63 0x0..0x80 overlaps a at lanes 0-63 0x0..0x40",
            ),
            ("sAR", ADD, {"opd0_const": 1, "opd1_const": 1}, "both operands are constants"),
            ("sAR", ADD, {"res0_addr": 0x3FFF0}, "y reaches to lanes 0-63 0x3fff0..0x40030, beyond its memory"),
            ("sAR", ADD, {"tsk_eu_typ": 4, "opd0_sign": 1}, "the extreme of operands, or a result, of different"),
            ("sAR", ADD, {"tsk_eu_typ": 12}, "div is for floats"),
            ("sAR", ADD, {"opd0_addr": STATIC}, "a lies in static memory"),
            ("sAR", ADD, {"opd0_addr": 0x0300_0000}, "a: 0x3000000 is an address of no memory"),
            ("sRQ_sDQ", REQUANT, {"opd0_prec": 0}, "requantizes I8 to I8; it takes I16 or I32 and gives I8 or I16"),
            ("sRQ_sDQ", REQUANT, {"tsk_eu_typ": 3, "opd0_prec": 0, "opd2_n_str": 5}, "rounds a float half up or down"),
            ("sSG", TABLE, {"res0_addr": 0x1000}, "y and table share bank 0"),
            ("sSG", TABLE, {"opd0_addr": LANE_5}, "table starts at lane 5, not 0"),
            ("sMM2", ROWS, {"opd0_prec": 2}, "f32 inputs are for MM"),
            ("sMM2", ROWS, {"opd0_addr": 0x8}, "left at lanes 0-7 0x8..0x10 is not aligned to 64 bytes"),
            ("sTRANS_sBC", SPREAD, {"res0_addr": LANE_5}, "broadcasts to 64 lanes from lane 5"),
        ],
    )
    def test_each_rule_names_what_breaks_it(self, name, base, change, complaint):
        found = complaints("TIU", name, base | change)
        assert any(each.startswith(complaint) for each in found), found

    @pytest.mark.parametrize(
        "change, complaint",
        [
            ({"src_wstride": 0}, "source has its elements 0 bytes apart; 1 to 128 are possible"),
            ({"src_wstride": 129}, "source has its elements 129 bytes apart"),
            (
                {"nchw_copy": 0, "dst_nsize": 1, "dst_csize": 64, "dst_hsize": 1, "dst_wsize": 63},
                "moves 4096 elements to a",
            ),
            (address("src", GDMA_LOCAL), "destination at lanes 0-63 0x0..0x40 overlaps source"),
            (address("dst", STATIC), "destination lies in static memory"),
            (
                {"src_data_format": 4} | address("src", DDR + 2),
                "source at DDR 0x2..0x4002 is not aligned to its elements",
            ),
            ({"cmd_id_en": 0}, "cmd_id_en is not 1"),
        ],
    )
    def test_each_rule_for_transfers_names_what_breaks_it(self, change, complaint):
        name, fields = load(0)
        found = complaints("GDMA", name, fields | change)
        assert any(each.startswith(complaint) for each in found), found

    def test_narrowing_in_place_is_legal(self):
        narrowing = {"res0_addr": 0, "opd0_addr": 0, "opd0_prec": 4, "res0_prec": 0}
        assert complaints("TIU", "sRQ_sDQ", REQUANT | narrowing | {"opd1_addr": 0x1000}) == []

    def test_global_memory_belongs_to_coefficients_and_context(self):
        ranges = GlobalRanges((DDR, DDR + 4096), (DDR + 0x10000, DDR + 0x11000))
        assert complaints("GDMA", *load(0), ranges) == []
        assert complaints("GDMA", *store(0), ranges) == []
        short = GlobalRanges((DDR, DDR + 4095), ranges.context)
        assert complaints("GDMA", *load(0), short) == [
            "source at 0x100000000..0x100001000 is outside the stage's global memory"
        ]
        (message,) = complaints("GDMA", *store(0, DDR), ranges)
        assert message.startswith("destination at 0x100000000")

    def test_a_command_nobody_can_read_is_a_finding(self):
        assert complaints("TIU", "sVC", {"tsk_eu_typ": 0}) == ["cannot be judged: VC is not supported"]
