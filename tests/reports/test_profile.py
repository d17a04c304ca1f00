"""Profiles: their figures are those of the timing, their causes those of streams written down by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import LANES, Queues, bmodel, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from network_parts import bouquet
from random_networks import chain

from tpu_deploy.chips import chip
from tpu_deploy.codegen.bmodel import Bmodel, parse_bmodel
from tpu_deploy.codegen.compile import Compiled, compile_network
from tpu_deploy.codegen.isa import Precision
from tpu_deploy.codegen.products import products, products_per_cycle
from tpu_deploy.codegen.timing import estimate
from tpu_deploy.errors import BadInput
from tpu_deploy.reports import profile_record, profile_text
from tpu_deploy.reports.profile import Profile, StageProfile, profile

VENDOR = Path(__file__).parents[1] / "codegen" / "bmodel" / "vendor_two_nets_two_stages.bmodel.gz"

COMPILED = {f"chain {seed}": lambda seed=seed: chain(seed) for seed in (3, 5, 8)} | {"bouquet": lambda: bouquet(2)}


@pytest.fixture(scope="module")
def vendor() -> Bmodel:
    return parse_bmodel(gzip.decompress(VENDOR.read_bytes()))


@pytest.fixture(scope="module", params=COMPILED)
def compiled(request) -> Compiled:
    return compile_network(COMPILED[request.param]())


@pytest.fixture(scope="module", params=["known", "from the commands alone"])
def ours(request, compiled: Compiled) -> Profile:
    """A profile of what we compiled, with and without what compiling it told."""
    return profile(compiled.bmodel, compiled if request.param == "known" else None)


def only(made: Bmodel) -> StageProfile:
    (stage,) = profile(made).stages
    return stage


# ---- figures


def check_figures(found: Profile, made: Bmodel) -> None:
    timing = estimate(made)
    assert found.cycles == timing.cycles
    assert {(s.net, s.stage): s.cycles for s in found.stages} == timing.stages
    assert sum(s.tiu_busy for s in found.stages) == timing.tiu_busy
    assert sum(s.gdma_busy for s in found.stages) == timing.gdma_busy
    moved = timing.dma_bytes
    traffic = [row for stage in found.stages for row in stage.traffic]
    within = moved.get("global->global", 0)
    assert sum(row.read for row in traffic) == moved.get("global->local", 0) + within
    written = moved.get("local->global", 0) + moved.get("constant->global", 0) + within
    assert sum(row.written for row in traffic) == written
    assert sum(stage.within_chip_bytes for stage in found.stages) == moved.get("local->local", 0)


def test_figures_are_those_of_the_timing(ours, compiled):
    check_figures(ours, compiled.bmodel)


def test_figures_of_the_vendors_file_are_those_of_the_timing_for_every_stage(vendor):
    found = profile(vendor)
    check_figures(found, vendor)
    assert [(s.net, s.stage) for s in found.stages] == [("tiny", 0), ("tiny", 1), ("other", 0)]


def test_the_chain_that_sets_the_time_has_all_of_its_cycles(ours, vendor):
    for stage in (*ours.stages, *profile(vendor).stages):
        assert sum(c.cycles for c in stage.commands if c.is_critical) == stage.cycles
        for shares in (stage.operations, stage.kinds):
            assert sum(share.critical for share in shares) == stage.cycles
            assert sum(share.tiu_cycles for share in shares) == stage.tiu_busy
            assert sum(share.gdma_cycles for share in shares) == stage.gdma_busy


def test_the_cycles_of_groups_and_phases_add_up(ours, vendor):
    for stage in (*ours.stages, *profile(vendor).stages):
        assert sum(part.cycles for part in stage.parts) == stage.cycles
        assert sum(part.tiu_busy for part in stage.parts) == stage.tiu_busy
        assert sum(part.bound.products for part in stage.parts) == stage.bound.products


def test_gaps_are_the_cycles_an_engine_is_not_busy(ours):
    (stage,) = ours.stages
    for engine, busy in (("TIU", stage.tiu_busy), ("GDMA", stage.gdma_busy)):
        assert sum(gap.cycles for gap in stage.gaps if gap.engine == engine) == stage.cycles - busy


def test_nothing_is_faster_than_its_bound(ours, vendor):
    for stage in (*ours.stages, *profile(vendor).stages):
        assert 0 < stage.bound.cycles <= stage.cycles and stage.distance >= 1


def test_operations_and_groups_have_the_names_of_the_network(compiled):
    (stage,) = profile(compiled.bmodel, compiled).stages
    assert stage.parts_are == "layer groups" and len(stage.parts) == len(compiled.groups)
    assert {share.name for share in stage.operations} == {command.origin for command in compiled.commands}


def test_a_file_of_ours_names_most_operations_that_have_coefficients(compiled):
    """Not all: lanes that a tensor leaves alone may still hold another operation's coefficients."""
    (known,), (found,) = (profile(compiled.bmodel, given).stages for given in (compiled, None))
    pairs = [(f.operation, k.operation) for f, k in zip(found.commands, known.commands, strict=True)]
    named = [(one, other) for one, other in pairs if not one.endswith("no coefficients")]
    assert len(named) > 5 and sum(one == other for one, other in named) >= 0.75 * len(named)


def test_a_file_that_names_nothing_is_told_by_where_its_coefficients_lie(vendor):
    assert {"tpu.Conv2D.weight+0x0"} <= {share.name for share in profile(vendor).stages[0].operations}
    queues = Queues()
    queues.load(128, 0, 64)
    queues.load(1 << 14, 4096, 64)
    queues.add(0, 4096, 8192, 64, after=2)
    queues.add(8192, 4096, 12288, 64)
    queues.store(12288, 1 << 15, 64, after=2)
    stage = only(bmodel(queues, coefficients=1 << 14))
    used, nameless = "coefficients+0x80", "AR.adds, no coefficients"
    assert [command.operation for command in stage.commands] == [used, used, used, nameless, nameless]


# ---- local memory


def test_local_memory_found_in_the_commands_lies_within_what_was_planned(compiled):
    (planned,), (found,) = (profile(compiled.bmodel, given).stages for given in (compiled, None))
    assert planned.memory.is_planned and not found.memory.is_planned
    assert found.memory.peak <= planned.memory.peak == compiled.memory.local_peak
    for block in found.memory.blocks:
        around = [b for b in planned.memory.blocks if b.offset <= block.offset and block.end <= b.end]
        assert any(b.since <= block.since and block.until <= b.until for b in around), block


def test_planned_blocks_never_meet(compiled):
    (stage,) = profile(compiled.bmodel, compiled).stages
    blocks = stage.memory.blocks
    for k, one in enumerate(blocks):
        for other in blocks[k + 1 :]:
            apart_in_time = one.until <= other.since or other.until <= one.since
            assert apart_in_time or one.end <= other.offset or other.end <= one.offset


def test_a_block_lives_from_its_writer_to_its_last_reader():
    queues = Queues()
    queues.load(0, 0, 256)
    queues.load(1 << 14, 4096, 256)
    queues.add(0, 4096, 8192, 256, after=2)
    queues.add(0, 8192, 8192, 256)
    queues.store(8192, 1 << 15, 256, after=2)
    stage = only(bmodel(queues))
    first, second, one, other, last = stage.commands
    found = {(b.offset, b.end, b.kind): (b.since, b.until) for b in stage.memory.blocks}
    assert found == {
        (0, 256, "intermediates"): (first.start, other.end),
        (4096, 4352, "intermediates"): (second.start, one.end),
        (8192, 8448, "results"): (one.start, last.end),
    }
    assert (stage.memory.peak, stage.memory.lower_bound) == (8448, 3 * 256)


def test_memory_written_anew_is_another_block():
    queues = Queues()
    queues.load(0, 0, 256)
    queues.add(0, 0, 8192, 256, after=1)
    queues.load(1 << 14, 0, 256, after=1)
    queues.add(0, 8192, 4096, 256, after=2)
    stage = only(bmodel(queues))
    loads = [c for c in stage.commands if c.engine == "GDMA"]
    again = [(b.since, b.until) for b in stage.memory.blocks if b.offset == 0]
    assert [since for since, _ in again] == [load.start for load in loads]
    assert again[0][1] <= again[1][0]


# ---- waiting


def test_an_idle_engine_says_what_it_waits_for_and_why():
    queues = Queues()
    queues.load(0, 0, 4096)
    queues.add(0, 0, 8192, 4096, after=1)
    queues.load(1 << 19, 0, 4096, after=1)
    queues.store(16384, 1 << 18, 64, after=1)
    stage = only(bmodel(queues))
    load, add, second, _ = stage.commands
    first, room, done = sorted(stage.gaps, key=lambda gap: gap.start)
    assert (first.engine, first.start, first.cycles, first.reason) == ("TIU", 0, load.cycles, "data")
    assert (stage.commands[first.waiting].opcode, stage.commands[first.before].opcode) == ("AR.adds", "GDMA.tensor")
    assert (room.engine, room.start, room.cycles, room.reason) == ("GDMA", load.end, add.cycles, "room")
    assert stage.commands[room.waiting] == second and stage.commands[room.before] == add
    assert (done.engine, done.start, done.cycles) == ("TIU", add.end, stage.cycles - add.end)
    assert done.waiting is None and "nothing left to do" in profile_text.cause(stage, done)
    assert "waits for the data of GDMA 1" in profile_text.cause(stage, first)


def test_waiting_for_a_command_that_shares_no_byte_is_told():
    queues = Queues()
    queues.load(0, 0, 4096)
    queues.add(32768, 36864, 40960, 64, after=1)
    stage = only(bmodel(queues))
    gap = next(gap for gap in stage.gaps if gap.engine == "TIU")
    assert gap.reason == "order" and "shares no byte" in profile_text.cause(stage, gap)


def test_command_groups_run_one_after_another():
    def half() -> Queues:
        queues = Queues()
        queues.load(0, 0, 1024)
        queues.add(0, 0, 8192, 1024, after=1)
        return queues

    one, both = only(bmodel(half())), only(bmodel(half(), half()))
    assert both.cycles == 2 * one.cycles and len(both.parts) == 2
    assert sum(c.cycles for c in both.commands if c.is_critical) == both.cycles


# ---- phases


def test_a_phase_ends_where_local_memory_holds_nothing_that_is_read_later():
    queues, done = Queues(), 0
    for place in (0, 1 << 15):
        number = queues.load(place, place, 256, after=done)
        done = queues.add(place, place, place + 8192, 256, after=number)
        queues.store(place + 8192, 1 << 18, 256, after=done)
    overlapping = Queues()
    overlapping.load(0, 0, 256)
    overlapping.load(1 << 15, 1 << 15, 256)
    for place in (0, 1 << 15):
        done = overlapping.add(place, place, place + 8192, 256, after=2)
        overlapping.store(place + 8192, 1 << 18, 256, after=done)
    apart, together = only(bmodel(queues)), only(bmodel(overlapping))
    assert [command.part for command in apart.commands] == [0, 0, 0, 1, 1, 1]
    assert [part.name for part in apart.parts] == ["phase 1: 1 AR.adds", "phase 2: 1 AR.adds"]
    assert len(together.parts) == 1 and together.parts_are == "phases"


# ---- traffic and bounds


def test_traffic_is_told_apart_by_what_lies_there():
    size = 1024 * LANES
    queues = Queues()
    queues.load(0, 0, 1024)  # coefficients
    queues.load(size, 4096, 1024)  # the input
    queues.add(0, 4096, 8192, 1024, after=2)
    queues.store(8192, 2 * size, 1024, after=1)  # an intermediate tensor where the output will be
    queues.load(2 * size, 4096, 1024)
    queues.add(0, 4096, 8192, 1024, after=4)
    queues.store(8192, 2 * size, 1024, after=2)  # the output
    queues.store(8192, size, 1024)  # over the input
    queues.load(size, 0, 1024)
    made = bmodel(queues, coefficients=size, inputs=[tensor("x", size, size)], outputs=[tensor("y", 2 * size, size)])
    stage = only(made)
    assert {row.name: (row.read, row.written) for row in stage.traffic} == {
        "coefficients": (size, 0),
        "inputs": (size, 0),
        "outputs": (0, size),
        "intermediates": (2 * size, 2 * size),
    }
    assert stage.bound.bytes == 3 * size and stage.bound.traffic == math.ceil(3 * size / 58)
    assert [c.purpose for c in stage.commands if c.engine == "GDMA"] == [
        "coefficients",
        "inputs",
        "intermediates",
        "intermediates",
        "outputs",
        "intermediates",
        "intermediates",
    ]


def test_bytes_that_are_moved_twice_must_move_once():
    queues = Queues()
    for target in (0, 4096):
        queues.load(0, target, 1024)
    queues.load(1024 * LANES // 2, 8192, 1024)
    stage = only(bmodel(queues, coefficients=1 << 20))
    assert stage.traffic[0].read == 3 * 1024 * LANES and stage.bound.bytes == 3 * 1024 * LANES // 2


def test_products_bound_a_convolution():
    queues = Queues()
    queues.multiply(4096, 0, 65536, 131072)
    stage = only(bmodel(queues))
    assert stage.bound.products == 4096 * 64 * 64
    assert stage.bound.arithmetic == stage.bound.cycles == 4096 * 64 * 64 // 16384 == stage.cycles
    assert stage.bound.binds == "arithmetic" and stage.distance == 1


def test_narrower_types_have_their_own_rate():
    rates = {Precision.I8: 16384, Precision.F16: 8192, Precision.BF16: 8192, Precision.F32: 1024}
    assert {precision: products_per_cycle(precision) for precision in rates} == rates
    assert products_per_cycle(Precision.I8) == chip("bm1684x").macs_per_cycle_i8


def test_matrix_products_count_the_columns_of_the_last_lane():
    fields = {"opd0_n": 3, "opd0_c": 5, "opd0_w": 64, "opd1_w": 10, "res0_c": 2, "res0_w": 7}
    assert products("MM", fields) == 3 * (4 * 64 + 10) * 14
    assert products("MM2", {"tsk_eu_typ": 4, "opd1_c": 9, "res0_c": 3, "res0_w": 4}) == 3 * 4 * 9
    assert products("PorD", fields) == products("AR", fields) == 0


# ---- text and records


def test_the_overview_has_every_figure(ours):
    (stage,) = ours.stages
    text = profile_text.overview(ours)
    wanted = (stage.cycles, stage.tiu_busy, stage.gdma_busy, stage.bound.cycles)
    assert all(f"{figure:,}" in text for figure in wanted)
    assert f"{stage.milliseconds:.3f} ms at 1 GHz" in text and f"{stage.distance:.2f} ×" in text


def test_of_many_parts_the_worst_are_shown_and_a_line_for_the_rest():
    queues = Queues()
    for place in range(20):
        number = queues.load(place << 14, 0, 64 * (1 + place), after=place)
        queues.add(0, 0, 8192, 64 * (1 + place), after=number)
    text = profile_text.overview(profile(bmodel(queues)))
    assert text.count("\nphase ") == profile_text.WORST + 1 and "10 other phases: " in text


def test_a_record_is_json_and_adds_up(ours):
    record = json.loads(json.dumps(profile_record.record(ours), allow_nan=False))
    (stage,) = record["stages"]
    assert stage["cycles"] == record["cycles"] == ours.cycles
    assert sum(part["cycles"] for part in stage["parts"]) == stage["cycles"]
    assert stage["bound"]["cycles"] == max(stage["bound"]["arithmetic"], stage["bound"]["traffic"])


def test_the_csv_has_a_row_for_each_command(ours):
    (stage,) = ours.stages
    rows = list(csv.DictReader(io.StringIO(profile_record.commands_csv(ours))))
    assert [int(row["start"]) for row in rows] == [command.start for command in stage.commands]
    assert sum(int(row["end"]) - int(row["start"]) for row in rows if row["engine"] == "TIU") == stage.tiu_busy


def test_a_stage_without_commands_has_a_profile():
    stage = only(bmodel())
    assert (stage.cycles, stage.commands, stage.bound.cycles) == (0, (), 0) and math.isnan(stage.distance)
    assert "-" in profile_text.whole(profile(bmodel()), 10)
    json.dumps(profile_record.record(profile(bmodel(Queues()))), allow_nan=False)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(flips=st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 16)), min_size=1, max_size=20))
def test_damaged_commands_are_refused_or_shown(vendor, flips):
    net = vendor.nets[0]
    stage = replace(net.stages[0], sub_nets=())
    (group,) = stage.groups
    queues = [bytearray(group.tiu), bytearray(group.gdma)]
    for which, bit in flips:
        queue = queues[which]
        queue[bit // 8 % len(queue)] ^= 1 << bit % 8
    damaged = replace(group, tiu=bytes(queues[0]), gdma=bytes(queues[1]))
    made = replace(vendor, nets=(replace(net, stages=(replace(stage, groups=(damaged,)),)),))
    try:
        found = profile(made)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert found.cycles == estimate(made).cycles and profile_text.whole(found, 3)
