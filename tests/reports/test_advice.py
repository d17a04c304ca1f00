"""Advice in words: only what was tried and helped is proposed, with its effect and cost."""

from __future__ import annotations

from dataclasses import replace

from tpu_deploy.reports.advice import Advice, Figures, Remedy, Trial, sentence, together
from tpu_deploy.reports.causes import Cause
from tpu_deploy.reports.summary import worst_layers

BEFORE = Figures(0.93, 8.7, 0.968, 11.4, 1000)
AFTER = Figures(0.998, 24.1, 0.981, 14.2, 1000)
TRIAL = Trial("threshold", "relu_17", "percentile → max on `relu_17`", BEFORE, AFTER, 8, 0, 2.8, True)


def test_a_remedy_is_told_with_its_effect_and_its_cost() -> None:
    told = (
        "percentile → max on `relu_17`: the layer alone 0.930 → 0.998, the output 0.968 → 0.981 (11.4 dB → 14.2 dB), "
    )
    assert sentence(TRIAL).startswith(told)
    dear = replace(TRIAL, after=replace(AFTER, cycles=1250))
    assert sentence(dear).endswith(", +250 cycles")
    assert sentence(replace(TRIAL, after=replace(AFTER, cycles=None))).endswith("cycles unknown")


def test_changes_together_are_told_only_where_they_help_more_than_one_alone() -> None:
    both = replace(TRIAL, kind="together", after=replace(AFTER, output_sqnr_db=15.0))
    assert together([TRIAL, both]) is both
    assert together([TRIAL, replace(both, after=AFTER)]) is None
    assert together([TRIAL, replace(both, helps=False)]) is None
    assert together([]) is None


def test_the_terminal_is_told_the_three_worst_layers() -> None:
    one = Advice("relu_17", "Conv", 1, 0.3, 0.4, Cause("clipping", "80 % is clipping"), 3, Remedy("do this", 0))
    layers = [one, replace(one, tensor="b", remedy=None), replace(one, tensor="c", tried=0, remedy=None)]
    lines = worst_layers([*layers, replace(one, tensor="d")], [TRIAL]).splitlines()
    assert lines[0] == "worst layers, by their share of the output error:"
    assert lines[1:3] == ["  40 %  relu_17 (Conv): 80 % is clipping", "        remedy: do this"]
    assert lines[3:] == [
        "  40 %  b (Conv): 80 % is clipping",
        "        none of 3 changes tried for it helps the output",
        "  40 %  c (Conv): 80 % is clipping",
    ]
    halved = worst_layers(layers, [replace(TRIAL, samples=3, chosen_on=4)])
    assert halved.splitlines()[-1] == "        (chosen on 4 batches, measured on 3 others)"
    assert worst_layers([], []) == ""
    assert "by the error born in them" in worst_layers([replace(one, output_share=None)], [])
