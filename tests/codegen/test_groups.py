"""What a compiled network tells about its layer groups and its local memory, command by command."""

from itertools import combinations

import pytest
from network_parts import bouquet
from random_networks import chain

from tpu_deploy.codegen.commands import Space
from tpu_deploy.codegen.compile import Compiled, compile_network

COMPILED = {f"chain {seed}": lambda seed=seed: chain(seed) for seed in (3, 5)} | {"bouquet": lambda: bouquet(2)}


@pytest.fixture(scope="module", params=COMPILED)
def compiled(request) -> Compiled:
    return compile_network(COMPILED[request.param]())


def test_every_command_belongs_to_a_group_that_works_for_its_tensor(compiled):
    assert len(compiled.command_groups) == len(compiled.commands)
    for command, number in zip(compiled.commands, compiled.command_groups, strict=True):
        assert command.origin in compiled.groups[number].operations


def test_every_operation_stands_in_the_groups_in_order_of_computation(compiled):
    order = [c.origin for c in compiled.commands if c.engine == "TIU"]
    first_seen = list(dict.fromkeys(order))
    named = [name for group in compiled.groups for name in group.operations if name in first_seen]
    assert named == first_seen


def test_local_bytes_are_touched_only_within_blocks_in_use(compiled):
    for index, command in enumerate(compiled.commands):
        in_use = [b for b in compiled.blocks if b.first <= index <= b.last]
        for part in (*command.reads, *command.writes):
            assert any(b.offset <= part.start and part.stop <= b.offset + b.bytes for b in in_use)
        for address in command.addresses.values():
            if address.space is Space.LOCAL:
                assert any(b.offset <= address.offset < b.offset + b.bytes for b in in_use)


def test_blocks_in_use_at_once_do_not_overlap(compiled):
    for one, other in combinations(compiled.blocks, 2):
        if one.first <= other.last and other.first <= one.last:
            assert one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
