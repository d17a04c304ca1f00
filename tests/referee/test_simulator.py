"""Random single commands leave the same bytes in all memories on the simulator and on the vendor's chip model."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from random_commands import FAMILIES, GLOBAL_WINDOW, Bytes, Case, memories

from tpu_deploy.codegen.isa import Command, encode
from tpu_deploy.codegen.isa.addresses import DDR
from tpu_deploy.codegen.isa.disassembly import disassemble
from tpu_deploy.codegen.isa.encoding import _commands
from tpu_deploy.codegen.legality import check_legality
from tpu_deploy.runtime.chip_model import SingleCommand
from tpu_deploy.runtime.chip_model_install import available
from tpu_deploy.runtime.simulator.machine import execute, prepare
from tpu_deploy.runtime.simulator.memory import Memories

COUNT = int(os.environ.get("TPU_DEPLOY_FUZZ", "12"))
"""Random commands of each family; more are worth while after a change of the simulator."""

pytestmark = [
    pytest.mark.referee,
    pytest.mark.skipif(not available(), reason="the chip model is not installed: run tpu-deploy chip-model install"),
]


@pytest.fixture(scope="module")
def chip() -> Iterator[SingleCommand]:
    with SingleCommand(time_limit=120) as session:
        session.batch([("write", "static", 0, Memories().static.tobytes())])
        yield session


def on_chip_model(chip: SingleCommand, case: Case, command: bytes, local: Bytes, dram: Bytes) -> list[Bytes]:
    found = chip.batch(
        [
            ("write", "lanes", 0, local.tobytes()),
            ("write", "global", 0, dram.tobytes()),
            ("execute", case.engine, command),
            ("read", "lanes", 0, case.window),
            ("read", "global", 0, GLOBAL_WINDOW),
        ]
    )
    return [np.frombuffer(data, np.uint8) for data in found]


def on_simulator(case: Case, command: Command, local: Bytes, dram: Bytes) -> list[Bytes]:
    memory = Memories()
    lanes = memory.local.reshape(64, -1)
    lanes[:, : case.window] = local
    memory.segments.append((DDR, dram.copy()))
    execute(prepare(command), memory)
    return [lanes[:, : case.window].reshape(-1), memory.segments[0][1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_command_leaves_the_bytes_the_chip_model_leaves(chip: SingleCommand, family: str):
    for seed in range(COUNT):
        rng = np.random.default_rng([seed, *family.encode()])
        case = FAMILIES[family](rng)
        encoded = encode(case.name, {"cmd_id": 1, "cmd_id_en": 1} | case.fields)
        command = next(iter(_commands(memoryview(encoded), case.engine)))
        local, dram = memories(case, rng)
        where = f"seed {seed}: {disassemble(command)}"
        assert [str(found) for found in check_legality([command])] == [], where
        expected = on_chip_model(chip, case, encoded, local, dram)
        for memory, theirs, ours in zip(
            ("local", "global"), expected, on_simulator(case, command, local, dram), strict=True
        ):
            assert np.array_equal(theirs, ours), f"{where}: {np.count_nonzero(theirs != ours)} bytes of {memory} memory"
