import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.chips import chip
from tpu_deploy.codegen.assemble import encode_stream
from tpu_deploy.codegen.bmodel import Bmodel, CommandGroup, Net, parse_bmodel
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.dependencies import dependencies
from tpu_deploy.codegen.isa import INSTRUCTIONS, ArithmeticOp, Command, Precision, decode_stream, encode
from tpu_deploy.codegen.timing import Cost, command_cycles, estimate, planned_cost, replay, replay_plan
from tpu_deploy.codegen.timing_gdma import GDMA_FORMULAS
from tpu_deploy.codegen.timing_tiu import TIU_FORMULAS
from tpu_deploy.errors import BadInput

DDR, LOCAL, BANK = 0x1_0000_0000, 0x0800_0000, 0x4000
VENDOR_FILES = Path(__file__).parent / "bmodel"
I8, F16, F32, I16, I32 = (Precision[name] for name in ("I8", "F16", "F32", "I16", "I32"))


def result(shape, address=0, **others):
    return {f"res0_{axis}": size for axis, size in zip("nchw", shape, strict=True)} | {"res0_addr": address} | others


def arithmetic(shape=(1, 64, 56, 56), operation=ArithmeticOp.ADDS, precisions=(I8, I8, I8), **others):
    """Operands and result in banks of their own."""
    named = dict(zip(("opd0_prec", "opd1_prec", "res0_prec"), precisions, strict=True))
    places = {"opd0_addr": 4 * BANK, "opd1_addr": 8 * BANK, "tsk_eu_typ": operation}
    return command_cycles("sAR", result(shape) | named | places | others).cycles


def dma(name, shape, source=DDR, target=LOCAL, src=(0, 0, 0, 0), dst=(0, 0, 0, 0), code=I8, **others):
    fields = {"src_data_format": code, "stride_enable": 1}
    for side, address, strides in (("src", source, src), ("dst", target, dst)):
        fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields |= {f"{side}_{axis}stride": stride for axis, stride in zip("nchw", strides, strict=True)}
        fields |= {f"{side}_{axis}size": size for axis, size in zip("nchw", shape, strict=True)}
    return command_cycles(name, fields | others)


# Costs read off the vendor's functions once.


@pytest.mark.parametrize(
    ("shape", "channels", "kernel", "precision", "cycles"),
    [
        ((1, 32, 112, 112), 3, (3, 3), I8, 28224),
        ((1, 64, 112, 112), 21, (1, 7), I8, 21952),
        ((1, 1000, 1, 1), 2048, (1, 1), I8, 512),
        ((2, 65, 7, 7), 33, (1, 1), F16, 104),
        ((1, 64, 4, 4), 10, (2, 2), F32, 40),
    ],
)
def test_a_convolution_takes_its_blocks_of_pixels_and_channels(shape, channels, kernel, precision, cycles):
    fields = result(shape) | {"opd0_c": channels, "opd1_h": kernel[0], "opd1_w": kernel[1], "opd0_prec": precision}
    assert command_cycles("sCONV", fields) == Cost(cycles)


def test_arithmetic_takes_the_vectors_of_its_widest_operand():
    assert arithmetic() == 49
    assert arithmetic(precisions=(I8, I8, I16)) == 98
    assert arithmetic(precisions=(I16, I8, I32)) == 196
    assert arithmetic(operation=ArithmeticOp.DIV, precisions=(F32, F32, F32), opd2_n_str=3) == 196 * 39


def test_channels_that_begin_in_a_later_lane_may_take_another_group():
    assert arithmetic((1, 64, 8, 8)) == 1
    assert arithmetic((1, 64, 8, 8), res0_addr=1 << 18) == 2
    assert arithmetic((1, 63, 8, 8), res0_addr=1 << 18) == 1


def test_arithmetic_in_place_takes_twice_as_long_except_copies_and_constants():
    assert arithmetic(opd0_addr=0) == arithmetic(opd1_addr=0) == 98
    assert arithmetic(opd1_addr=64) == arithmetic(opd1_addr=0, opd1_const=1) == 49
    assert arithmetic(operation=ArithmeticOp.COPY, opd0_addr=0) == 49
    assert arithmetic(operation=ArithmeticOp.CAST, opd0_addr=0) == 98
    assert arithmetic(operation=ArithmeticOp.CAST, opd1_addr=0) == 49


def test_strides_cost_the_vectors_they_touch():
    def copy(**strides):
        return arithmetic(operation=ArithmeticOp.COPY, **strides)

    assert copy(opd0_str=3, opd0_h_str=56, opd0_w_str=1) == 49
    assert copy(opd0_str=3, opd0_h_str=100, opd0_w_str=1) == 49
    assert copy(opd0_str=3, opd0_h_str=128, opd0_w_str=1) == 49
    assert copy(opd0_str=3, opd0_h_str=200, opd0_w_str=1) == 49
    assert copy(opd0_str=3, opd0_h_str=250, opd0_w_str=1) == 98
    assert copy(opd0_str=3, opd0_h_str=112, opd0_w_str=2) == 98
    assert copy(opd0_str=3, opd0_h_str=1, opd0_w_str=56) == 49 * 56
    assert copy(res0_str=3, res0_h_str=1, res0_w_str=100) == 49 * 64


def test_depthwise_pays_for_its_result_and_three_times_for_strides_both_ways():
    def depthwise(precision, y=1, x=1, kernel=(3, 3)):
        window = {"opd1_h": kernel[0], "opd1_w": kernel[1], "res_op_y_str": y, "res_op_x_str": x}
        return command_cycles("sPorD", result((1, 64, 56, 56), res0_prec=precision) | window).cycles

    assert [depthwise(precision) for precision in (I8, I16, I32)] == [441, 882, 1764]
    assert depthwise(I32, 2, 2) == 3 * 1764 and depthwise(I32, 2, 1) == 1764
    assert depthwise(I8, kernel=(3, 1)) == 3 * 49 and depthwise(I8, kernel=(1, 3)) == 3 * 56


def test_requantization_takes_twice_as_long_within_one_bank():
    fields = result((1, 64, 56, 56), address=BANK)
    assert command_cycles("sRQ_sDQ", fields | {"opd0_addr": 2 * BANK}).cycles == 196
    assert command_cycles("sRQ_sDQ", fields | {"opd0_addr": 2 * BANK - 64}).cycles == 392


def test_a_dma_move_has_the_rate_of_its_direction():
    dense, lane = (2**18, 4096, 64, 1), (4096, 4096, 64, 1)
    shape = (1, 64, 64, 64)
    size = 64**3

    def rate(source, target, src, dst):
        cost = dma("DMA_tensor", shape, source, target, src, dst)
        assert cost.bytes == size
        return cost.direction, round(size / cost.cycles, 1)

    assert rate(DDR, LOCAL, dense, lane) == ("global->local", 54.0)
    assert rate(LOCAL, DDR, lane, dense) == ("local->global", 41.0)
    assert rate(DDR, DDR, dense, dense) == ("global->global", 26.1)
    assert rate(LOCAL, LOCAL, lane, lane) == ("local->local", 26.1)


def test_rows_of_fewer_than_256_bytes_take_as_long_as_whole_ones():
    def cycles(w):
        return dma("DMA_tensor", (1, 64, 64, w), src=(2**22, 65536, 1024, 1), dst=(2**22, 65536, 1024, 1)).cycles

    assert cycles(256) == pytest.approx(cycles(1), abs=1) == pytest.approx(cycles(200), abs=1)
    assert cycles(512) == pytest.approx(2 * cycles(256), abs=1)


def slow_move(shape, src, dst, direction, size):
    """A move into or out of global memory, counted block by block in float32."""
    n, c, h, w = shape
    strides = src if direction == 0 else dst
    rate = np.float32(58 if direction == 0 else 44)
    whole = src[2] == w and dst[2] == w
    row = (w * h if whole else w if src[3] == 1 and dst[3] == 1 else 1) * size
    if row < 256:
        rate = rate * np.float32(row) / np.float32(256)
    touched = set()
    for i in range(n):
        for k in range(c):
            start = (i * strides[0] + k * strides[1]) * size
            blocks = -(-(strides[2] or w) * h * size // 4096)
            touched |= {page for page in range(start // 4096, start // 4096 + blocks) if start < 16384 and page < 4}
    rate *= np.float32(len(touched)) / np.float32(4)
    return int(np.float32(np.float64(np.float32(n * c * h * w * size) / rate) * 1.073741824))


SMALL = st.integers(1, 9)
STEP = st.one_of(st.integers(0, 5000), st.sampled_from((0, 1, 64, 1024, 2048, 4096, 8192)))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.tuples(SMALL, SMALL, SMALL, st.integers(1, 300)),
    st.tuples(STEP, STEP, STEP, st.sampled_from((1, 1, 3))),
    st.tuples(STEP, STEP, STEP, st.just(1)),
    st.sampled_from((I8, F16, F32)),
    st.booleans(),
)
def test_a_move_is_slower_when_its_blocks_share_pages_of_global_memory(shape, src, dst, code, out):
    ends = (LOCAL, DDR) if out else (DDR, LOCAL)
    expected = slow_move(shape, src, dst, int(out), code.itemsize)
    assert dma("DMA_tensor", shape, *ends, src, dst, code).cycles == expected


def test_a_row_stride_of_zero_costs_what_dense_rows_do_though_no_judge_agrees():
    costs = [dma("DMA_tensor", (1, 64, 1, 309), src=(0, 2352, h, 1), dst=(320, 320, 309, 1)) for h in (0, 309)]
    assert costs[0].cycles == costs[1].cycles > 0 and [cost.estimated for cost in costs] == [True, False]


def test_matrices_move_faster_and_transposed_ones_slower():
    def rate(in_lane, special=0, outward=False):
        shapes = {"src_hsize": 64, "src_wsize": 4096, "dst_wsize": in_lane}
        if outward:
            shapes = {"dst_hsize": 64, "dst_wsize": 4096, "src_wsize": in_lane}
        ends = (LOCAL, DDR) if outward else (DDR, LOCAL)
        cost = dma("DMA_matrix", (1, 1, 1, 1), *ends, cmd_special_function=special, **shapes)
        return round(64 * 4096 / cost.cycles, 1)

    assert rate(256) == 58.0 and rate(256, outward=True) == 44.0
    assert rate(128) == 29.0 and rate(256, special=1) == 43.5


def test_constants_need_no_source_and_name_none():
    cost = dma("DMA_tensor", (1, 64, 56, 56), dst=(4096, 3136, 56, 1), fill_constant_en=1)
    assert cost == Cost(3460, 64 * 3136, "constant->local")


def test_fields_not_given_count_as_zero():
    for name in ("sAR", "sCONV", "sMM", "sTRANS_sBC", "sSG", "DMA_tensor", "DMA_matrix", "DMA_gather"):
        given_fields = {"res0_n": 1, "res0_c": 7, "res0_h": 3, "res0_w": 5, "src_nsize": 1, "src_csize": 2}
        every_field = dict.fromkeys(INSTRUCTIONS[name].slots, 0)
        known = {key: value for key, value in given_fields.items() if key in every_field}
        assert command_cycles(name, known) == command_cycles(name, every_field | known), name


def test_commands_of_no_elements_cost_nothing():
    fields = {"opd0_str": 3, "opd0_h_str": 5, "opd2_const": 1, "src_start_addr_h8": 1, "dst_start_addr_l32": LOCAL}
    for name, instruction in INSTRUCTIONS.items():
        for special in ({}, {"fill_constant_en": 1}, {"cmd_special_function": 3}):
            known = {key: value for key, value in (fields | special).items() if key in instruction.slots}
            assert command_cycles(name, known).cycles <= 1, name


def test_every_operation_of_every_instruction_has_a_cost_from_fields_of_its_own():
    for name, instruction in INSTRUCTIONS.items():
        for operation in instruction.operations:
            fields = dict.fromkeys(instruction.slots, 1) | {instruction.operation_field: int(operation)}
            if instruction.family in ("SYSID", "sys"):
                assert command_cycles(name, fields) == Cost(0)
                continue
            formulas = TIU_FORMULAS if instruction.engine == "TIU" else GDMA_FORMULAS
            assert formulas[instruction.family](fields).cycles >= 0, (name, operation)


def test_what_no_judge_covers_is_marked():
    marked = {name for name in INSTRUCTIONS if command_cycles(name, {}).estimated}
    assert marked == {"LAR", "LIN", "sLIN", "VC", "sVC", "SGL", "sSGL", "sSFU", "SFU"} | {
        f"DMA_{name}" for name in ("general", "scatter", "masked_select", "nonzero")
    }  # SFU because the zeros make it 8-bit
    assert not command_cycles("sSFU", {"opd0_prec": F32}).estimated
    assert command_cycles("sMM2", {"opd0_prec": F32}).estimated


# Replaying the engines


def tiu(number, wait, cycles):
    """A command that takes `cycles`."""
    fields = result((1, 64, 1, 64 * cycles), cmd_id=number, cmd_id_dep=wait, opd0_addr=4 * BANK, opd1_addr=8 * BANK)
    return Command("sAR", "TIU", fields, 0, 64)


def gdma(number, wait, cycles):
    shape = {"src_nsize": 1, "src_csize": 1, "src_hsize": 1, "src_wsize": 64 * cycles}
    place = {"src_start_addr_h8": 1, "dst_start_addr_l32": LOCAL}
    return Command("DMA_cw_transpose", "GDMA", shape | place | {"cmd_id": number, "cmd_id_dep": wait}, 0, 96)


TIU_END = Command("SYSID", "TIU", {"cmd_id": 3, "cmd_id_dep": 0, "tsk_eu_typ": 31}, 0, 16)
GDMA_END = Command("sDMA_sys", "GDMA", {"cmd_id": 4, "cmd_id_dep": 0, "cmd_special_function": 0}, 0, 16)


def test_a_command_waits_for_its_own_engine_and_for_the_one_it_names():
    line = replay(
        [tiu(1, 1, 10), tiu(2, 2, 1), TIU_END],
        [gdma(1, 0, 5), gdma(2, 0, 5), gdma(3, 1, 7), GDMA_END],
        start=100,
    )
    assert [span[:2] for span in line.tiu] == [(105, 115), (115, 116), (116, 116)]
    assert [span[:2] for span in line.gdma] == [(100, 105), (105, 110), (115, 122), (122, 122)]
    assert (line.start, line.end, line.total) == (100, 122, 22)
    assert (line.tiu_busy, line.gdma_busy) == (11, 17)
    assert line.dma_bytes == {"global->local": 17 * 64}


def test_engines_that_wait_for_each_other_are_named():
    with pytest.raises(ValueError, match=r"TIU 1 waits for GDMA 2 and GDMA 1 waits for TIU 1$"):
        replay([tiu(1, 2, 1)], [gdma(1, 1, 1), gdma(2, 0, 1)])
    with pytest.raises(ValueError, match=r"standstill: GDMA 1 waits for TIU 7$"):
        replay([tiu(1, 0, 1)], [gdma(1, 7, 1)])


def test_no_commands_take_no_time():
    assert replay([], [], 5).end == 5 and replay([], [GDMA_END]).total == 0


def test_a_command_without_identifier_keeps_its_place_in_the_queue():
    lar = Command("LAR", "TIU", {"res0_c": 64, "res0_w": 64, "res0_addr": 64}, 0, 16)
    line = replay([tiu(1, 0, 3), lar, tiu(2, 0, 3)], [])
    assert [span[:2] for span in line.tiu] == [(0, 3), (3, 4), (4, 7)]


@st.composite
def plans(draw):
    """Two queues, each command after one that the other engine was given before."""
    queues = {"TIU": [], "GDMA": []}
    for _ in range(draw(st.integers(1, 30))):
        make, engine, other = draw(st.sampled_from(((tiu, "TIU", "GDMA"), (gdma, "GDMA", "TIU"))))
        wait = draw(st.integers(0, len(queues[other])))
        queues[engine].append(make(len(queues[engine]) + 1, wait, draw(st.integers(1, 20))))
    return queues["TIU"], queues["GDMA"]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(plans())
def test_each_command_starts_as_soon_as_it_may(plan):
    line = replay(*plan)
    ends = [[0] + [span.end for span in spans] for spans in (line.tiu, line.gdma)]
    for own, (commands, spans) in enumerate(zip(plan, (line.tiu, line.gdma), strict=True)):
        for index, (command, span) in enumerate(zip(commands, spans, strict=True)):
            assert span.start == max(ends[own][index], ends[1 - own][command.fields["cmd_id_dep"]])
            assert span.end == span.start + span.cost.cycles
    assert max(line.tiu_busy, line.gdma_busy) <= line.total <= line.tiu_busy + line.gdma_busy


# Planned commands


def planned_add_and_store():
    add = {"opd0_prec": I8, "opd1_prec": I8, "res0_prec": I8, "tsk_eu_typ": ArithmeticOp.ADDS}
    places = {"res0_addr": Address(Space.LOCAL, 0, 3), "opd0_addr": Address(Space.LOCAL, 0, 3)}
    places["opd1_addr"] = Address(Space.LOCAL, BANK, 3)
    moves = {
        f"{side}_{axis}size": size for side in ("src", "dst") for axis, size in zip("nchw", (1, 64, 8, 64), strict=True)
    }
    moves |= {"src_nstride": 1024, "src_cstride": 512, "src_hstride": 64, "src_wstride": 1, "stride_enable": 1}
    moves |= {"dst_nstride": 32768, "dst_cstride": 512, "dst_hstride": 64, "dst_wstride": 1}
    store = {"src": Address(Space.LOCAL, 0, 3), "dst": Address(Space.CONTEXT, 4096)}
    written = LocalRange(0, 1024)
    return [
        PlannedCommand("sAR", "TIU", result((1, 64, 8, 64)) | add, places, (), (written,)),
        PlannedCommand("DMA_tensor", "GDMA", moves, store, (written,), ()),
    ]


def test_a_plan_takes_the_time_of_the_commands_it_becomes():
    bm1684x = chip("bm1684x")
    commands = planned_add_and_store()
    bases = {Space.COEFFICIENTS: DDR, Space.CONTEXT: DDR + 2**20}
    stream = encode_stream(commands, bases, bm1684x)
    queues = decode_stream(stream.tiu, "TIU"), decode_stream(stream.gdma, "GDMA")
    line = replay(*queues)
    planned = replay_plan(commands, dependencies(commands, bm1684x), bm1684x)
    assert (planned.tiu, planned.gdma) == (line.tiu[:-1], line.gdma[:-1]) and planned.total == line.total
    assert planned_cost(commands[0], bm1684x) == Cost(32)
    assert line.gdma[0].start == line.tiu[0].end == 32
    assert line.dma_bytes == {"local->global": 64 * 512}


# Whole files


@pytest.fixture(scope="module")
def two_nets() -> Bmodel:
    return parse_bmodel(gzip.decompress((VENDOR_FILES / "vendor_two_nets_two_stages.bmodel.gz").read_bytes()))


def test_a_vendors_file_takes_the_cycles_its_own_compiler_counts(two_nets):
    found = estimate(two_nets)
    assert found.cycles == 1112 and found.milliseconds == pytest.approx(0.001112)
    assert (found.tiu_busy, found.gdma_busy) == (323, 789)
    assert found.stages == {("tiny", 0): 259, ("tiny", 1): 420, ("other", 0): 433}
    assert found.dma_bytes == {"global->local": 2816, "local->global": 448}
    assert found.estimated_opcodes == {}
    by_opcode = found.cycles_by_opcode
    assert list(by_opcode)[:2] == ["GDMA.tensor", "CONV"] and by_opcode["GDMA.tensor"] == 753
    assert sum(by_opcode.values()) == 323 + 789


def test_rows_tell_when_each_command_of_a_file_runs(two_nets):
    rows = list(estimate(two_nets).rows())
    assert len(rows) == 41
    last = max(rows, key=lambda row: row.end)
    assert last[:7] == ("other", 0, "group 0", "GDMA", 4, 3, "GDMA.tensor")
    assert (last.start, last.end, last.cycles, last.bytes) == (1013, 1112, 99, 256)
    assert not last.estimated and last.direction == "local->global"


def test_another_chip_is_refused():
    model = parse_bmodel(gzip.decompress((VENDOR_FILES / "vendor_bm1688.bmodel.gz").read_bytes()))
    with pytest.raises(BadInput, match="is for 'BM1688'"):
        estimate(model)


def test_queues_that_never_end_are_the_fault_of_the_file(two_nets):
    stage = two_nets.nets[1].stages[0]
    waits = encode("sAR", result((1, 1, 1, 1)) | {"cmd_id": 1, "cmd_id_dep": 9})
    queue = waits + encode("SYSID", {"cmd_id": 2, "tsk_eu_typ": 31})
    group = CommandGroup(queue, encode("sDMA_sys", {"cmd_id": 1}), 2, 1)
    model = Bmodel("BM1684X", (Net("x", (replace(stage, sub_nets=(), groups=(group,)),)),), source="m.bmodel")
    with pytest.raises(BadInput, match=r"^m\.bmodel: net 'x' stage 0 group 0: .* TIU 1 waits for GDMA 9; the file"):
        estimate(model)
