"""The search for schedules: more of it is never worse, and the same anywhere."""

import pytest
from network_parts import tangle
from random_networks import chain

from tpu_deploy.chips import chip
from tpu_deploy.codegen.arrangement import Arranger
from tpu_deploy.codegen.dependencies import dependencies
from tpu_deploy.codegen.search import search
from tpu_deploy.codegen.storages import place
from tpu_deploy.codegen.timing import replay_plan

CHIP = chip("bm1684x")
NETWORKS = {"chain": lambda: chain(5), "tangle": lambda: tangle(4, 6), "large": lambda: tangle(1, 8, 300_000)}


def arranger(name: str) -> Arranger:
    return Arranger(place(NETWORKS[name](), CHIP), CHIP)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_search_finds_nothing_worse_than_the_first_guess(name):
    assert search(arranger(name), 1).cycles <= search(arranger(name), 0).cycles


@pytest.mark.parametrize("name", NETWORKS)
def test_cycles_are_those_of_the_commands_and_no_less_than_the_busier_engine_needs(name):
    found = search(arranger(name), 1)
    timeline = replay_plan(found.commands, dependencies(found.commands, CHIP), CHIP)
    assert found.cycles == timeline.total
    assert found.ordered.busiest == max(timeline.tiu_busy, timeline.gdma_busy) <= found.cycles


def test_searching_twice_finds_the_same():
    assert search(arranger("tangle"), 1).schedule == search(arranger("tangle"), 1).schedule
