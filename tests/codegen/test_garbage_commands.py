"""Commands of random bits: the judges and the simulator answer in one line, whatever they read."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.hazards import check_hazards, check_initialized
from tpu_deploy.codegen.isa import INSTRUCTIONS, Command
from tpu_deploy.codegen.legality import GlobalRanges, check_legality
from tpu_deploy.runtime.simulator.machine import SimulationError, execute, prepare
from tpu_deploy.runtime.simulator.memory import Memories

DDR = 0x1_0000_0000


@st.composite
def commands(draw: st.DrawFn) -> Command:
    """Any instruction with a known operation; sizes are kept small, everything else is random or zero."""
    instruction = draw(
        st.sampled_from([each for each in INSTRUCTIONS.values() if each.name not in ("LAR", "sDMA_sys")])
    )
    word = draw(st.integers(0, (1 << instruction.bits) - 1)) & draw(st.integers(0, (1 << instruction.bits) - 1))
    fields = {row.name: word >> row.bit & row.mask for row in instruction.fields} | dict(instruction.fixed)
    small = ("_n", "_c", "_h", "_w", "nsize", "csize", "hsize", "wsize", "src_cstride")
    fields |= {name: value % 9 for name, value in fields.items() if name.endswith(small)}
    fields[instruction.operation_field] = draw(st.sampled_from([int(code) for code in instruction.operations]))
    return Command(instruction.name, instruction.engine, fields, 0, instruction.size)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(commands())
def test_no_command_is_too_strange_to_be_judged(command):
    queues: dict[str, list[Command]] = {"TIU": [], "GDMA": [], command.engine: [command]}
    found = check_legality([command], GlobalRanges(None, (DDR, DDR + 4096)))
    found += check_hazards(queues["TIU"], queues["GDMA"])
    assert all("\n" not in str(each) for each in found)
    if not check_legality([command]):
        check_initialized([(queues["TIU"], queues["GDMA"])])


@settings(derandomize=True, max_examples=300, deadline=None)
@given(commands())
def test_no_command_breaks_the_simulator(command):
    memory = Memories()
    memory.segments.append((DDR, np.zeros(1 << 16, np.uint8)))
    try:
        execute(prepare(command), memory)
    except SimulationError as error:
        assert "\n" not in str(error)
