"""The waits between the two engines, against a quadratic oracle."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import chain

from tpu_deploy.chips import chip
from tpu_deploy.codegen.commands import LocalRange, PlannedCommand
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.dependencies import GRANULE, dependencies

CHIP = chip("bm1684x")
PROPERTY = settings(derandomize=True, max_examples=100, deadline=None)

ranges = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda r: LocalRange(r[0] * 32, (r[0] + r[1]) * 32))
commands = st.builds(
    PlannedCommand,
    instruction=st.just("none"),
    engine=st.sampled_from(["TIU", "GDMA"]),
    fields=st.just({}),
    addresses=st.just({}),
    reads=st.lists(ranges, max_size=3).map(tuple),
    writes=st.lists(ranges, max_size=2).map(tuple),
)
streams = st.lists(commands, min_size=1, max_size=40)


def meet(one: tuple[LocalRange, ...], other: tuple[LocalRange, ...], granule: int = 1) -> bool:
    return any(
        a.start // granule < -(-b.stop // granule) and b.start // granule < -(-a.stop // granule)
        for a, b in product(one, other)
    )


def conflict(one: PlannedCommand, other: PlannedCommand, granule: int = 1) -> bool:
    """Whether the order of two commands matters: they touch a byte and one of them writes it."""
    return (
        meet(one.writes, other.writes, granule)
        or meet(one.writes, other.reads, granule)
        or meet(one.reads, other.writes, granule)
    )


def unordered(stream: list[PlannedCommand]) -> list[tuple[int, int]]:
    """Pairs of conflicting commands of different engines that nothing orders."""
    numbered = dependencies(stream, CHIP)
    found = []
    for late, command in enumerate(stream):
        waited = max(wait for k, (_, wait) in enumerate(numbered[: late + 1]) if stream[k].engine == command.engine)
        for early, other in enumerate(stream[:late]):
            if other.engine != command.engine and numbered[early][0] > waited and conflict(command, other):
                found.append((early, late))
    return found


@PROPERTY
@given(streams)
def test_conflicting_commands_of_different_engines_are_ordered(stream):
    assert unordered(stream) == []


@PROPERTY
@given(streams)
def test_identifiers_count_from_one_in_each_engine_and_waits_are_for_earlier_commands(stream):
    count = {"TIU": 0, "GDMA": 0}
    for command, (number, wait) in zip(stream, dependencies(stream, CHIP), strict=True):
        count[command.engine] += 1
        assert number == count[command.engine]
        assert 0 <= wait <= count["GDMA" if command.engine == "TIU" else "TIU"]


@PROPERTY
@given(streams)
def test_a_command_waits_for_nothing_that_no_command_before_it_conflicts_with(stream):
    numbered = dependencies(stream, CHIP)
    for late, (_, wait) in enumerate(numbered):
        if wait == 0:
            continue
        waiting = [c for c in stream[: late + 1] if c.engine == stream[late].engine]
        (cause,) = (
            c
            for c, (number, _) in zip(stream, numbered, strict=True)
            if number == wait and c.engine != stream[late].engine
        )
        assert any(conflict(c, cause, GRANULE) for c in waiting)


def test_compiled_networks_are_ordered():
    for seed in range(3):
        assert unordered(list(compile_network(chain(seed), optimize=0).commands)) == []
