"""Schedules: plain data that fixes every byte; what does not suit the network is refused."""

import json

import pytest
from exactness import differing, noise
from network_parts import bouquet, tangle
from random_networks import chain
from random_schedules import random_schedule

from tpu_deploy.codegen.bmodel import serialize
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.codegen.schedule import InvalidSchedule, Moved, Schedule, Sliced
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.simulator import Simulator

NETWORKS = {"chain": lambda: chain(4), "tangle": lambda: tangle(5), "large": lambda: tangle(2, 16, 300_000)}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_schedule_that_went_through_text_gives_the_same_bytes(name):
    network = NETWORKS[name]()
    searched = compile_network(network)
    text = json.dumps(searched.schedule.to_json())
    again = compile_network(network, schedule=Schedule.from_json(json.loads(text)))
    assert again.schedule == searched.schedule
    assert serialize(again.bmodel) == serialize(searched.bmodel)


@pytest.mark.parametrize(
    "data", [None, [], {}, {"parts": 3}, {"parts": [{"kind": "Else", "start": 0}], "lookahead": 1, "linger": 1}]
)
def test_what_is_no_schedule_is_refused(data):
    with pytest.raises(InvalidSchedule):
        Schedule.from_json(data)


def test_a_schedule_of_another_network_is_refused():
    schedule = compile_network(chain(4), optimize=0).schedule
    with pytest.raises(InvalidSchedule):
        compile_network(chain(7), schedule=schedule)


def test_parts_that_leave_works_out_overlap_or_cannot_run_are_refused():
    network = chain(4)
    parts = compile_network(network, optimize=0).schedule.parts
    count = parts[-1].stop
    for wrong in (
        (),
        parts[:-1],
        (*parts, parts[-1]),
        (*parts, Sliced(count, count + 1, 1, (0,))),
        tuple(Moved(k) for k in range(count)),
        (Sliced(0, count, 0, (0,) * count),),
        (Sliced(0, count, 1, (99,) * count),),
    ):
        with pytest.raises(InvalidSchedule):
            compile_network(network, schedule=Schedule(wrong))


RANDOM = {
    "chain": lambda: chain(6),
    "tangle": lambda: tangle(4, 6),
    "bouquet": lambda: bouquet(4),
    "large": lambda: tangle(7, 8, 300_000),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", RANDOM)
def test_any_schedule_gives_the_same_results(name, seed):
    network = RANDOM[name]()
    schedule = random_schedule(network, seed)
    compiled = compile_network(network, schedule=schedule)
    assert compiled.schedule == schedule
    feeds = noise(network)
    assert (
        differing(Reference(network, 1).run(feeds), Simulator(compiled.bmodel, uninitialized="fail").run(feeds)) == []
    )
