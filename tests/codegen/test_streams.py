"""The judges of command streams accept what is compiled, and refuse what is broken, naming the culprits."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from network_parts import Parts, bouquet
from random_networks import OPERATIONS, chain, single

from tpu_deploy.codegen.bmodel import decode_group
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.hazards import check_hazards, check_initialized
from tpu_deploy.codegen.isa import Command
from tpu_deploy.codegen.legality import GlobalRanges, check_legality
from tpu_deploy.ir.network import Network

Queue = list[Command]

LANE = 0x40000
"""Bytes between the local memories of neighbouring lanes."""


def queues(network: Network) -> tuple[Queue, Queue, GlobalRanges]:
    """Both decoded queues of the only command group, and the memory the stage owns."""
    (net,) = compile_network(network, optimize=0).bmodel.nets
    (stage,) = net.stages
    ((_, group),) = stage.command_groups()
    tiu, gdma = decode_group(group, "test")
    data = stage.coefficients
    ranges = GlobalRanges(
        (data.address, data.address + len(data.data)) if data else None,
        (stage.ctx_addr, stage.ctx_addr + stage.ctx_size),
    )
    return tiu, gdma, ranges


def everything() -> Network:
    """A network with every kind of instruction."""
    p = Parts((2, 70, 9, 8))
    x = p.start()
    y = p.same_conv(p.same_conv(x, 70), 70, group=70)
    y = p.lut(p.add(p.max_pool(y, (2, 2)), p.average_pool(y, (2, 2))))
    return p.returning(p.dequantize(y), p.softmax(p.dequantize(p.requantize(y, x)), 1))


@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_commands_of_every_operation_are_legal_and_ordered(kind):
    for seed in range(10, 12):
        assert findings(*queues(single(kind, seed))) == []


@pytest.mark.parametrize("network", [chain(1), chain(2), bouquet(1), everything()], ids=str)
def test_commands_of_networks_are_legal_and_ordered(network):
    assert findings(*queues(network)) == []


def findings(tiu: Queue, gdma: Queue, ranges: GlobalRanges) -> list[str]:
    found = [*check_legality(tiu, ranges), *check_legality(gdma, ranges)]
    return [str(f) for f in (*found, *check_hazards(tiu, gdma), *check_initialized([(tiu, gdma)]))]


def changed(queue: Queue, index: int, **fields: int) -> Queue:
    """The queue with fields of one command set anew."""
    command = queue[index]
    assert fields.keys() <= command.fields.keys()
    other = replace(command, fields={**command.fields, **fields})
    return [*queue[:index], other, *queue[index + 1 :]]


def waits(queue: Queue) -> list[tuple[int, int]]:
    """(index, wait that suffices without it) of each command that waits for more than those before it."""
    found, held = [], 0
    for index, command in enumerate(queue):
        wait = command.fields.get("cmd_id_dep", 0)
        if wait > held:
            found.append((index, held))
            held = wait
    return found


@pytest.mark.parametrize("engine", ["TIU", "GDMA"])
def test_without_any_one_wait_two_commands_race_and_both_are_named(engine):
    tiu, gdma, _ = queues(everything())
    own = tiu if engine == "TIU" else gdma
    for index, enough in waits(own):
        broken = changed(own, index, cmd_id_dep=enough)
        if own[index].is_end:
            continue
        found = check_hazards(broken, gdma) if engine == "TIU" else check_hazards(tiu, broken)
        assert found, f"{engine} {index + 1} may be let go"
        names = {tuple(name.split()[:2]) for name in found[0].culprits}
        assert {kind for kind, _ in names} == {"TIU", "GDMA"}
        ((_, blamed),) = (name for name in names if name[0] != engine)
        assert enough < int(blamed) <= own[index].fields["cmd_id_dep"]
        assert all(name in found[0].message for name in found[0].culprits)


def test_commands_that_wait_for_each_other_are_a_deadlock():
    tiu, gdma, _ = queues(everything())
    first = next(index for index, c in enumerate(tiu) if c.fields["cmd_id_dep"])
    wanted = tiu[first].fields["cmd_id_dep"]
    broken = changed(gdma, wanted - 1, cmd_id_dep=first + 1)
    (found,) = check_hazards(tiu, broken)
    assert found.rule == "deadlock"
    assert {name.split(" (")[0] for name in found.culprits} == {f"TIU {first + 1}", f"GDMA {wanted}"}


def test_a_load_to_another_place_leaves_memory_that_nothing_has_written():
    tiu, gdma, _ = queues(everything())
    found = check_initialized(
        [(tiu, changed(gdma, 0, dst_start_addr_l32=gdma[0].fields["dst_start_addr_l32"] + LANE // 2))]
    )
    assert found[0].culprits[0].startswith("TIU ")


def first(queue: Queue, name: str, operation: int | None = None) -> int:
    """The index of the first command of a form."""
    return next(
        index for index, c in enumerate(queue) if c.name == name and (operation is None or c.operation == operation)
    )


Break = Callable[[dict[str, int]], dict[str, int]]

BROKEN: dict[str, tuple[str, Break, str]] = {
    "a result that is not aligned": ("sCONV", lambda f: {"res0_addr": f["res0_addr"] + 2}, "aligned"),
    "filters in another lane than the result": ("sCONV", lambda f: {"opd1_addr": f["opd1_addr"] + LANE}, "lane"),
    "an input that does not begin in lane 0": ("sCONV", lambda f: {"opd0_addr": f["opd0_addr"] + LANE}, "lane"),
    "windows that reach beyond the input": ("sCONV", lambda f: {"res0_h": f["res0_h"] + 1}, "windows"),
    "a convolution without stride": ("sCONV", lambda f: {"res_op_x_str": 0}, "stride"),
    "a result over its own input": ("sCONV", lambda f: {"res0_addr": f["opd0_addr"]}, "overlaps"),
    "a result beyond the lane": ("sCONV", lambda f: {"res0_addr": LANE - 64}, "beyond"),
    "a maximum of another type": ("sPorD", lambda f: {"res0_prec": 4}, "type"),
    "an operand in another lane": ("sAR", lambda f: {"opd0_addr": f["opd0_addr"] + LANE}, "lane"),
    "an operand of no size": ("sAR", lambda f: {"res0_c": 0}, "size"),
    "a requantization table that is not aligned": ("sRQ_sDQ", lambda f: {"opd0_addr": f["opd0_addr"] + 4}, "aligned"),
    "a look-up table in the bank of the index": ("sSG", lambda f: {"opd0_addr": f["opd1_addr"] // 16384 * 16384}, ""),
    "a transfer from an address of no memory": (
        "DMA_tensor",
        lambda f: {"src_start_addr_h8": 0, "src_start_addr_l32": 5},
        "",
    ),
    "a transfer from memory the stage does not own": ("DMA_tensor", lambda f: {"src_start_addr_h8": 9}, "outside"),
    "elements of a row too far apart": ("DMA_tensor", lambda f: {"src_wstride": 129}, "apart"),
    "constants from behind the coefficients": ("DMA_matrix", lambda f: {"src_start_addr_h8": 2}, "outside"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_command_is_refused_by_name(name):
    form, damage, word = BROKEN[name]
    tiu, gdma, ranges = queues(everything())
    queue = gdma if form.startswith("DMA") else tiu
    index = first(queue, form)
    if name == "a maximum of another type":
        index = first(queue, form, 4)
    found = check_legality(changed(queue, index, **damage(queue[index].fields)), ranges)
    assert found
    assert all(f.culprits == found[0].culprits for f in found)
    assert found[0].culprits[0].startswith(f"{queue[index].engine} {index + 1} ")
    assert any(word in f.message for f in found)
