"""The search for a good schedule, judged by the cycles that its commands take on a simulated clock.

It begins with the cheapest divisions by estimates that weigh things differently, and climbs from the best of them by
small changes. Its budget is counted in commands written, so that the same network gets the same schedule anywhere.
"""

from __future__ import annotations

from dataclasses import replace

from tpu_deploy.codegen.arrangement import Arrangement, Arranger, PartWithoutRoom
from tpu_deploy.codegen.grouping import Planner
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.measure import Weights
from tpu_deploy.codegen.moves import Moves
from tpu_deploy.codegen.schedule import InvalidSchedule, Schedule

BUDGETS = {0: 0, 1: 20_000, 2: 300_000, 3: 3_000_000}
"""How many commands may be written at each level of optimization before the search ends."""
LEAST = 16
"""How many schedules are tried whatever they cost, from level 1 on."""
PATIENCE = {1: 30, 2: 120, 3: 600}
"""How many schedules in a row may be no better before the search ends."""
IDLE = {1: 0.005, 2: 0.0, 3: 0.0}
"""The share of the time that the busier engine may wait in a schedule that only less work can make better."""

SLACK = 1.1
"""A peak of local memory beyond this many times what is alive at once is looked into."""
HEIGHTS = (1.0, 1.04, 1.08, 1.12)
"""Heights of local memory that are tried then, as shares of what is alive at once."""

WEIGHTS = (
    Weights(),
    Weights(moved=0.2),
    Weights(exposed=0.3),
    Weights(moved=1.0, exposed=0.3, group=2000.0),
    Weights(exposed=2.0),
)
"""What the first schedules are the cheapest by."""


class Search:
    """The best schedule tried so far, and what may still be tried."""

    def __init__(self, arranger: Arranger, level: int) -> None:
        self.arranger = arranger
        self.level = level
        self.commands = BUDGETS[level]
        self.trials = LEAST
        self.best: Arrangement | None = None
        self.tried: set[Schedule] = set()

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.commands <= 0 and self.trials <= 0

    @property
    def is_tight(self) -> bool:
        """Whether the best schedule keeps one engine busy nearly all the time: only less work makes it better."""
        return self.best is not None and self.best.cycles * (1 - IDLE[self.level]) <= self.best.ordered.busiest

    def tries(self, schedule: Schedule) -> bool:
        """Whether a schedule not tried before is better than all before."""
        if schedule in self.tried:
            return False
        self.tried.add(schedule)
        self.trials -= 1
        try:
            return self.takes(self.arranger.arrange(schedule))
        except (InvalidSchedule, PartWithoutRoom):
            return False

    def takes(self, found: Arrangement) -> bool:
        """Whether what was tried is better than all before."""
        self.tried.add(found.schedule)
        self.commands -= len(found.ordered.order)
        if self.best is not None and found.cycles >= self.best.cycles:
            return False
        self.best = found
        return True


def first_fit(arranger: Arranger, planner: Planner) -> Arrangement:
    """The cheapest division by the estimate that can be placed.

    Parts that cannot be placed first give up hiding their stores, then are divided.
    """
    while True:
        schedule = planner.schedule()
        for linger in (schedule.linger, 0):
            try:
                return arranger.arrange(replace(schedule, linger=linger))
            except PartWithoutRoom as problem:
                failed = schedule.parts[problem.part]
        planner.refuse(failed)


def search(arranger: Arranger, level: int) -> Arrangement:
    """The best schedule found at a level of optimization, carried out; level 0 takes the first that fits."""
    planner = Planner(arranger.forms, WEIGHTS[0])
    first = first_fit(arranger, planner)
    if level == 0:
        return first
    state, moves = Search(arranger, level), Moves(planner)
    for weights in WEIGHTS:
        if state.is_over or state.is_tight:
            break
        other = Planner(arranger.forms, weights, refused=set(planner.refused), tiled=dict(planner.tiled))
        found = first if weights is planner.weights else first_fit(arranger, other)
        if found.schedule not in state.tried:
            state.takes(found)
            state.tries(moves.eager(found.schedule))
    assert state.best is not None
    _climb(state, moves)
    return _slimmer(arranger, state.best)


def _slimmer(arranger: Arranger, found: Arrangement) -> Arrangement:
    """The same in less local memory, where much of it is lost between blocks, if that takes no longer."""
    placed = found.placed
    if placed.peak <= SLACK * placed.lower_bound:
        return found
    for share in HEIGHTS:
        height = round_up(int(share * placed.lower_bound), arranger.chip.vector_bytes)
        try:
            other = arranger.arrange(replace(found.schedule, height=height))
        except PartWithoutRoom:
            continue
        if other.cycles <= found.cycles:
            return other
    return found


def _climb(state: Search, moves: Moves) -> None:
    """Changes the best schedule while that makes it better."""
    assert state.best is not None
    vain = 0
    while True:
        improved = False
        for dearer, schedule in moves.of(state.best.schedule):
            if state.is_over or vain >= PATIENCE[state.level] or (state.is_tight and dearer >= 0):
                return
            if schedule in state.tried:
                continue
            if state.tries(schedule):
                vain, improved = 0, True
                break
            vain += 1
        if not improved:
            return
