"""The order of the DMA engine's queue: legal whatever it moves, and as fast as its own clock says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_parts import tangle
from random_networks import chain

from tpu_deploy.chips import chip
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.dependencies import dependencies
from tpu_deploy.codegen.queue_order import in_good_order
from tpu_deploy.codegen.timing import replay_plan

CHIP = chip("bm1684x")
PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)
SLOT = 256


def transfer(offset: int, far: int, size: int, load: bool) -> PlannedCommand:
    """Moves `size` bytes between slot `offset` of lane 0 and byte `far` of the context."""
    fields = {"stride_enable": 1, "nchw_copy": 1} | {f"src_{k}size": 1 for k in "nch"} | {"src_wsize": size}
    fields |= {f"{side}_{k}stride": 1 if k == "w" else size for side in ("src", "dst") for k in "nchw"}
    near, outside = Address(Space.LOCAL, offset * SLOT), Address(Space.CONTEXT, far)
    span = (LocalRange(offset * SLOT, offset * SLOT + size),)
    if load:
        return PlannedCommand("DMA_tensor", "GDMA", fields, {"src": outside, "dst": near}, (), span)
    return PlannedCommand("DMA_tensor", "GDMA", fields, {"src": near, "dst": outside}, span, ())


def computation(source: int, target: int, vectors: int) -> PlannedCommand:
    """An AR from one slot to another."""
    fields = {"tsk_opd_num": 1, "res0_n": 1, "res0_c": 64, "res0_h": 1, "res0_w": 64 * vectors, "tsk_eu_typ": 19}
    addresses = {"opd0_addr": Address(Space.LOCAL, source * SLOT), "res0_addr": Address(Space.LOCAL, target * SLOT)}
    reads, writes = ((LocalRange(k * SLOT, k * SLOT + SLOT),) for k in (source, target))
    return PlannedCommand("sAR", "TIU", fields, addresses, reads, writes)


slots = st.integers(0, 5)
transfers = st.builds(transfer, slots, st.sampled_from([0, 100, 256, 5000]), st.sampled_from([64, 256]), st.booleans())
computations = st.builds(computation, slots, slots, st.integers(1, 40))
streams = st.lists(transfers | computations, min_size=1, max_size=25)


def regions(command: PlannedCommand, kind: str) -> list[tuple[str, int, int]]:
    """Bytes of local and context memory that a command reads or writes."""
    found = [("local", r.start, r.stop) for r in getattr(command, kind)]
    outside = command.addresses.get({"reads": "src", "writes": "dst"}[kind])
    if command.engine == "GDMA" and outside is not None and outside.space is Space.CONTEXT:
        found.append(("context", outside.offset, outside.offset + command.fields["src_wsize"]))
    return found


def meet(one: PlannedCommand, other: PlannedCommand) -> bool:
    pairs = (("writes", "reads"), ("reads", "writes"), ("writes", "writes"))
    return any(
        a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
        for mine, theirs in pairs
        for a in regions(one, mine)
        for b in regions(other, theirs)
    )


@PROPERTY
@given(streams)
def test_commands_that_meet_in_memory_and_those_of_the_tiu_keep_their_order(commands):
    order = in_good_order(commands, CHIP).order
    assert sorted(order) == list(range(len(commands)))
    place = {index: k for k, index in enumerate(order)}
    for one in range(len(commands)):
        for other in range(one + 1, len(commands)):
            both_compute = commands[one].engine == commands[other].engine == "TIU"
            if both_compute or meet(commands[one], commands[other]):
                assert place[one] < place[other]


@PROPERTY
@given(streams)
def test_the_clock_of_the_ordering_is_that_of_the_replay(commands):
    found = in_good_order(commands, CHIP)
    ordered = [commands[k] for k in found.order]
    assert replay_plan(ordered, dependencies(ordered, CHIP), CHIP).total == found.cycles


@pytest.mark.parametrize("network", [chain(3), tangle(1), tangle(2, 16, 300_000)], ids=["chain", "tangle", "large"])
def test_an_order_that_is_good_already_stays(network):
    commands = list(compile_network(network).commands)
    assert in_good_order(commands, CHIP).cycles <= replay_plan(commands, dependencies(commands, CHIP), CHIP).total


def test_a_load_for_later_runs_while_the_first_computation_keeps_a_store_waiting():
    """In the order given the load of slot 3 stands behind a store that waits for the TIU."""
    commands = [
        transfer(0, 0, 256, load=True),
        computation(0, 1, 4000),
        transfer(1, 5000, 256, load=False),
        transfer(3, 100, 64, load=True),
        computation(3, 4, 1),
    ]
    assert in_good_order(commands, CHIP).order.index(3) < in_good_order(commands, CHIP).order.index(2)
