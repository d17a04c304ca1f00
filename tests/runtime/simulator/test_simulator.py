"""Whole bmodels on the simulator: what it computes, and what it refuses."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from tpu_deploy.codegen.bmodel import Bmodel, Coefficients, CommandGroup, Net, Stage, TensorInfo, write_bmodel
from tpu_deploy.codegen.isa import encode
from tpu_deploy.codegen.isa.addresses import DDR, GDMA_LOCAL, L2
from tpu_deploy.errors import BadInput, CheckFailed
from tpu_deploy.runtime.simulator import SimulationError, Simulator

SHAPE = (1, 64, 1, 64)
CONTEXT = DDR + 0x1000
OUTPUT = CONTEXT + 0x1000
LOCAL = GDMA_LOCAL


@dataclass
class Program:
    """A stage under construction, from int8 x to int8 y; a negative dependency means everything issued so far."""

    tiu: list[bytes] = field(default_factory=list)
    gdma: list[bytes] = field(default_factory=list)
    groups: list[CommandGroup] = field(default_factory=list)

    def compute(self, name: str, after: int = -1, **fields: int) -> None:
        wait = len(self.gdma) if after < 0 else after
        identity = {"cmd_id": len(self.tiu) + 1, "cmd_id_dep": wait, "cmd_id_en": 1}
        self.tiu.append(encode(name, identity | fields))

    def move(self, source: int, target: int, after: int = -1, **fields: int) -> None:
        """4,096 bytes: dense in global memory and L2, 64 in each lane of local memory."""
        wait = len(self.tiu) if after < 0 else after
        fields = {"cmd_id": len(self.gdma) + 1, "cmd_id_dep": wait, "cmd_id_en": 1, "nchw_copy": 1} | fields
        fields |= {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
        for side, address in (("src", source), ("dst", target)):
            fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields = {f"src_{axis}size": size for axis, size in zip("nchw", SHAPE, strict=True)} | fields
        self.gdma.append(encode("DMA_tensor", fields))

    def end_group(self) -> None:
        tiu = b"".join([*self.tiu, encode("SYSID", {"cmd_id": len(self.tiu) + 1, "tsk_eu_typ": 31})])
        gdma = b"".join([*self.gdma, encode("sDMA_sys", {"cmd_id": len(self.gdma) + 1, "cmd_id_en": 1})])
        self.groups.append(CommandGroup(tiu, gdma, len(self.tiu) + 1, len(self.gdma) + 1))
        self.tiu, self.gdma = [], []

    def stage(self) -> Stage:
        if self.tiu or self.gdma:
            self.end_group()
        return Stage(
            inputs=(TensorInfo("x", "int8", SHAPE, CONTEXT),),
            outputs=(TensorInfo("y", "int8", SHAPE, OUTPUT),),
            ctx_addr=CONTEXT,
            ctx_size=0x2000,
            coefficients=Coefficients(DDR, bytes(range(256)) * 16),
            groups=tuple(self.groups),
        )

    def bmodel(self) -> Bmodel:
        return Bmodel("BM1684X", (Net("net", (self.stage(),)),), source="test.bmodel")


def add(a: int, target: int, **fields: int) -> dict[str, int]:
    """The fields of y = saturate(a + 100)."""
    shape = {f"res0_{axis}": size for axis, size in zip("nchw", SHAPE, strict=True)}
    constant = {"opd1_const": 1, "opd1_addr": 100, "opd0_sign": 1, "opd1_sign": 1}
    return {"tsk_eu_typ": 15, "tsk_opd_num": 2, "opd0_addr": a, "res0_addr": target} | shape | constant | fields


def adding() -> Program:
    program = Program()
    program.move(CONTEXT, LOCAL)
    program.compute("sAR", **add(0, 0x1000))
    program.move(LOCAL + 0x1000, OUTPUT)
    return program


@pytest.fixture
def x() -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.random.default_rng(0).integers(-128, 128, SHAPE).astype(np.int8)


def refusal(program: Program | Bmodel, **options: Any) -> str:
    model = program.bmodel() if isinstance(program, Program) else program
    with pytest.raises(SimulationError) as caught:
        Simulator(model, **options).run({"x": np.zeros(SHAPE, np.int8)})
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestRuns:
    def test_the_commands_of_a_file_compute_its_outputs(self, x, tmp_path):
        write_bmodel(adding().bmodel(), tmp_path / "adding.bmodel")
        found = Simulator(tmp_path / "adding.bmodel").run({"x": x})
        assert list(found) == ["y"] and found["y"].dtype == np.int8
        assert np.array_equal(found["y"], np.clip(x.astype(int) + 100, -128, 127))

    def test_runs_do_not_see_each_other(self, x):
        simulator = Simulator(adding().bmodel())
        first = simulator.run({"x": x})["y"]
        assert np.array_equal(simulator.run({"x": np.zeros_like(x)})["y"], np.full(SHAPE, 100))
        assert np.array_equal(simulator.run({"x": x})["y"], first)

    def test_coefficients_and_l2_can_be_read(self):
        program = Program()
        program.move(DDR, L2)
        program.move(L2, OUTPUT)
        found = Simulator(program.bmodel()).run({"x": np.zeros(SHAPE, np.int8)})["y"]
        assert np.array_equal(found.reshape(-1).view(np.uint8), np.tile(np.arange(256, dtype=np.uint8), 16))

    def test_local_memory_lasts_from_one_command_group_to_the_next(self, x):
        program = Program()
        program.move(CONTEXT, LOCAL)
        program.end_group()
        program.compute("sAR", **add(0, 0x1000))
        program.move(LOCAL + 0x1000, OUTPUT)
        found = Simulator(program.bmodel()).run({"x": x})["y"]
        assert np.array_equal(found, np.clip(x.astype(int) + 100, -128, 127))

    def test_the_long_form_of_a_command_is_the_same_command(self, x):
        program = adding()
        program.tiu[0] = encode("AR", {"cmd_id": 1, "cmd_id_dep": 1, "cmd_id_en": 1} | add(0, 0x1000))
        assert np.array_equal(Simulator(program.bmodel()).run({"x": x})["y"], np.clip(x.astype(int) + 100, -128, 127))


class TestRefusals:
    def test_a_race_names_both_commands(self):
        program = Program()
        program.move(CONTEXT, LOCAL)
        program.compute("sAR", after=0, **add(0, 0x1000))
        message = refusal(program)
        assert message.startswith("test.bmodel: TIU 1 (AR.adds) and GDMA 1 (GDMA.tensor): race")
        assert isinstance(SimulationError(""), CheckFailed)

    def test_a_deadlock_is_found_with_and_without_checks(self):
        program = Program()
        program.move(CONTEXT, LOCAL, after=1)
        program.compute("sAR", after=1, **add(0, 0x1000))
        wanted = "test.bmodel: deadlock: TIU 1 (AR.adds) waits for GDMA 1 while GDMA 1 (GDMA.tensor) waits for TIU 1"
        assert refusal(program) == refusal(program, check=False) == wanted

    def test_an_address_beyond_the_stages_memory_is_refused(self):
        program = Program()
        program.move(LOCAL, OUTPUT + 0x800)
        expected = "test.bmodel: GDMA 1 (GDMA.tensor): destination at 0x100002800..0x100003800 is outside the stage's"
        assert refusal(program).startswith(expected)
        assert "belongs to no tensor" in refusal(program, check=False)

    def test_coefficients_are_not_written(self):
        program = Program()
        program.move(LOCAL, DDR)
        assert "destination at 0x100000000" in refusal(program)

    def test_a_tensor_beyond_the_end_of_a_lane_is_refused(self):
        program = adding()
        program.compute("sAR", **add(0, 0x3FFE0))
        assert "beyond its memory" in refusal(program)
        assert "reaches beyond the 0x40000 bytes of a lane" in refusal(program, check=False)

    def test_an_illegal_command_is_refused_and_the_others_counted(self):
        program = adding()
        program.compute("sAR", **add(0x20, 0x1000))
        program.compute("sAR", **add(0x30, 0x1000))
        message = refusal(program)
        assert message.startswith("test.bmodel: TIU 2 (AR.adds): a at lanes 0-63 0x20..0x60 is not aligned to 64 bytes")
        assert message.endswith("(1 more such findings)")

    @pytest.mark.parametrize(
        "name, fields, reason",
        [
            ("sVC", {}, "VC is not supported"),
            ("sAR", {"tsk_eu_typ": 24}, "AR operation element_index"),
            ("sAR", {"res0_prec": 6}, "res0_prec=6 is no supported element type"),
            ("sSG", {"tsk_eu_typ": 9}, "SG operation pe_nonzero"),
        ],
    )
    def test_what_is_not_simulated_is_said_instead_of_computed_wrongly(self, name, fields, reason):
        program = adding()
        program.compute(name, **((add(0, 0x2000) if name == "sAR" else {}) | fields))
        message = refusal(program, check=False)
        assert message.startswith("TIU 2 (") and "cannot be simulated" in message and reason in message

    def test_reads_of_unwritten_memory_are_reported_refused_or_ignored(self, x):
        program = Program()
        program.compute("sAR", **add(0x2000, 0x1000))
        model = program.bmodel()
        (found,) = Simulator(model).findings
        assert str(found).startswith("TIU 1 (AR.adds): reads memory nothing has written: a at lanes 0-63 0x2000")
        assert Simulator(model, uninitialized="ignore").findings == []
        assert str(found) in refusal(model, uninitialized="fail")


class TestBadInput:
    @pytest.mark.parametrize(
        "feeds, reason",
        [
            ({}, "input 'x' is not given"),
            ({"z": np.zeros(SHAPE, np.int8)}, "has no input 'z'; it takes x"),
            ({"x": np.zeros(SHAPE, np.uint8)}, "input 'x' is uint8[1, 64, 1, 64], not int8[1, 64, 1, 64]"),
            ({"x": np.zeros((1, 64, 64), np.int8)}, "input 'x' is int8[1, 64, 64], not int8[1, 64, 1, 64]"),
        ],
    )
    def test_inputs_must_be_what_the_file_says(self, feeds, reason):
        with pytest.raises(BadInput) as caught:
            Simulator(adding().bmodel()).run(feeds)
        assert str(caught.value).startswith("test.bmodel: ") and reason in str(caught.value)

    def test_net_and_stage_must_exist_and_suit_the_machine(self):
        stage = adding().stage()
        one, two = Net("one", (stage,)), Net("two", (stage, stage))

        def reason(*nets: Net, chip: str = "BM1684X", **options: Any) -> str:
            with pytest.raises(BadInput) as caught:
                Simulator(Bmodel(chip, nets, source="m"), **options)
            return str(caught.value)

        assert reason(one, two) == "m: has several nets; choose one of one, two"
        assert reason(one, net="three") == "m: has no net three; there is one"
        assert reason(two, stage=2) == "m: net two has 2 stages; there is no stage 2"
        assert reason(one, chip="BM1688") == "m: is for chip BM1688; only BM1684X is simulated"
        assert "addresses that are placed" in reason(replace(one, addr_mode=1))
        assert "shapes known only when it runs" in reason(Net("one", (replace(stage, is_dynamic=True),)))
        assert Simulator(Bmodel("BM1684X", (one, two)), net="two", stage=1).run({"x": np.zeros(SHAPE, np.int8)})
