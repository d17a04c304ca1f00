"""`auto` returns nothing that is further from the float network than a plain plan, says why, and repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_model import feeds, small_model

from tpu_deploy.calibration import open_samples
from tpu_deploy.calibration.statistics import Statistics
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.to_tpu import lower_to_tpu
from tpu_deploy.pipeline import tuning
from tpu_deploy.pipeline.source import Source, canonical_network, input_specs
from tpu_deploy.pipeline.tables import collect
from tpu_deploy.pipeline.tuning import Workshop, split, tune
from tpu_deploy.pipeline.tuning_judging import Judge
from tpu_deploy.pipeline.tuning_recipe import ASYMMETRIC, NAMES, PASSES, Recipe, chosen_passes
from tpu_deploy.quant import QuantizationPlan

COUNT = 24


@pytest.fixture(scope="module")
def subject() -> tuple[Network, Statistics]:
    """The small model with channels of different ranges, and what is known of the samples it may be tuned on."""
    model = small_model()
    for tensor in model.graph.initializer:
        if tensor.name == "gamma":
            tensor.raw_data = (2.0 ** -np.arange(8)).astype(np.float32).tobytes()
    source = Source.of(model)
    network = canonical_network(source, None)
    return network, collect(network, source, open_samples(parts()[0], input_specs(network)))


def parts() -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    every = feeds(COUNT)
    return tuple([every[k] for k in numbers] for numbers in split(COUNT))


def tuned(subject: tuple[Network, Statistics], names: list[str] | None = None) -> QuantizationPlan:
    return tune(*subject, *parts(), "bm1684x", chosen_passes(names))


@pytest.fixture(scope="module")
def plan(subject: tuple[Network, Statistics]) -> QuantizationPlan:
    """What all passes lead to."""
    return tuned(subject)


def test_auto_is_nearer_than_plain_and_each_trial_says_what_it_brought(
    subject: tuple[Network, Statistics], plan: QuantizationPlan
) -> None:
    network, statistics = subject
    judge = Judge(network, parts()[1], "bm1684x")
    plain = Workshop(network, statistics, parts()[0], "bm1684x").plan(Recipe())
    assert judge.noise(plan) < 0.5 * judge.noise(plain)
    assert [trial.name for trial in plan.trials] == [each.name for each in chosen_passes()]
    state = -10 * np.log10(judge.noise(plain))
    for trial in plan.trials:
        assert trial.before == pytest.approx(state)
        assert not trial.kept or trial.after > trial.before
        state = trial.after if trial.kept else state
    assert state == pytest.approx(-10 * np.log10(judge.noise(plan)))


def test_auto_gives_the_same_plan_again(subject: tuple[Network, Statistics], plan: QuantizationPlan) -> None:
    assert tuned(subject) == plan


def test_a_plan_is_read_back_with_its_trials(plan: QuantizationPlan) -> None:
    assert QuantizationPlan.from_json(plan.to_json(), plan.arrays()) == plan


def test_nothing_is_kept_that_makes_matters_worse(
    subject: tuple[Network, Statistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes that spoil the plan are tried and dropped."""

    class Spoiler(Workshop):
        def plan(self, recipe: Recipe) -> QuantizationPlan:
            plan = super().plan(Recipe())
            if not recipe.passes:
                return plan
            return replace(plan, tensors={n: replace(t, scale=4 * t.scale) for n, t in plan.tensors.items()})

    monkeypatch.setattr(tuning, "Workshop", Spoiler)
    plan = tuned(subject)
    assert not any(trial.kept for trial in plan.trials)
    assert plan.tensors == Workshop(*subject, parts()[0], "bm1684x").plan(Recipe()).tensors


def test_a_pass_must_be_worth_its_cycles(subject: tuple[Network, Statistics], monkeypatch: pytest.MonkeyPatch) -> None:
    passes = ["float_outputs", "float_sums"]
    assert {trial.name for trial in tuned(subject, passes).trials if trial.kept}
    monkeypatch.setattr(Judge, "cycles", lambda self, plan: 100_000 if plan.results else 1000)
    assert not any(trial.kept for trial in tuned(subject, passes).trials)


def test_only_passes_asked_for_change_the_plan(subject: tuple[Network, Statistics]) -> None:
    plan = tuned(subject, [ASYMMETRIC])
    assert not plan.weights and not plan.results
    assert not any(kind.factors for kind in plan.tensors.values())
    symmetric = tune(*subject, *parts(), "bm1684x", chosen_passes(symmetric=True))
    assert all(kind.zero_point == 0 for kind in symmetric.tensors.values())


def test_plans_of_all_passes_together_are_lowered(subject: tuple[Network, Statistics]) -> None:
    workshop = Workshop(*subject, parts()[0], "bm1684x")
    lower_to_tpu(workshop.network, workshop.plan(Recipe(frozenset(NAMES))))


def test_the_split_is_fixed_and_leaves_a_quarter_out() -> None:
    for count in (4, 5, 17, 100):
        made, judged = split(count)
        assert (made, judged) == split(count)
        assert sorted([*made, *judged]) == list(range(count))
        assert len(judged) == round(count / 4)
    assert split(3) == ([0, 1, 2], [0, 1, 2])


def test_passes_are_chosen_by_name() -> None:
    assert chosen_passes() == chosen_passes(NAMES) == PASSES
    assert [p.name for p in chosen_passes(["Rounding", "bias"])] == ["bias", "rounding"]
    assert "bias" not in {p.name for p in chosen_passes(without=["bias"])}
    assert ASYMMETRIC not in {p.name for p in chosen_passes(symmetric=True)}
    for wrong in ({"passes": ["speed"]}, {"without": ["speed"]}, {"passes": [ASYMMETRIC], "symmetric": True}):
        with pytest.raises(BadInput, match=r"^--"):
            chosen_passes(**wrong)
