"""The worst layers in words: what is wrong with each, and which change, of those tried, helps most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tpu_deploy.reports.causes import Cause, cause_of
from tpu_deploy.reports.layers import Layer
from tpu_deploy.reports.text import cosine, decibels


@dataclass(frozen=True)
class Figures:
    """What a plan achieves: the layer of a tensor alone, on float operands, and the worst output of the network.

    Decibels are over all samples, cosines those of the worst one. `cycles` is None where nothing was compiled.
    """

    tensor_cosine: float
    tensor_sqnr_db: float
    output_cosine: float
    output_sqnr_db: float
    cycles: int | None


@dataclass(frozen=True)
class Trial:
    """A change that was tried, with the figures before and after it.

    `kind` is threshold, asymmetric, weights, result (a float result), precision (a float operation) or together.
    Figures are of `samples` batches. `chosen_on` tells on how many others trials were held against each other, where
    there were enough for both (0: on the same), and `chosen_gain_db` by how much the worst output came nearer there.
    `helps`: there the output comes nearer by more than chance explains, and on the `samples`, too. Of a layer's trials
    that help, the one to be proposed was compiled and has `cycles`.
    """

    kind: str
    tensor: str
    change: str
    before: Figures
    after: Figures
    samples: int
    chosen_on: int
    chosen_gain_db: float
    helps: bool

    @property
    def gain_db(self) -> float:
        """By how much the worst output comes nearer."""
        return self.after.output_sqnr_db - self.before.output_sqnr_db


@dataclass(frozen=True)
class Remedy:
    """A change that helps, in a sentence; `trial` is its place among the trials."""

    sentence: str
    trial: int


@dataclass(frozen=True)
class Advice:
    """One bad layer. `born` is the error it adds over the norm of its tensor, `output_share` its share of the outputs'
    error (None: not measured), `tried` how many changes were tried for it; `remedy` is what to do, if one of them
    helps.
    """

    tensor: str
    operation: str
    rank: int
    born: float
    output_share: float | None
    cause: Cause
    tried: int
    remedy: Remedy | None


def advice(worst: Sequence[Layer], trials: Sequence[Trial]) -> list[Advice]:
    """What is to be said of the `worst` layers, in their order."""
    return [_of_layer(layer, rank, trials) for rank, layer in enumerate(worst, 1)]


def _of_layer(layer: Layer, rank: int, trials: Sequence[Trial]) -> Advice:
    why = layer.explanation
    assert why is not None
    own = [(k, each) for k, each in enumerate(trials) if each.tensor == layer.name and each.kind != "together"]
    best = next(((k, each) for k, each in own if each.helps and each.after.cycles is not None), None)
    remedy = None if best is None else Remedy(sentence(best[1]), best[0])
    return Advice(
        layer.name, layer.operation, rank, why.origin.born, why.output_share, cause_of(layer), len(own), remedy
    )


def together(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the best changes at once, if it helps more than each of them."""
    single = max((each.gain_db for each in trials if each.kind != "together" and each.helps), default=math.inf)
    return next((t for t in trials if t.kind == "together" and t.helps and t.gain_db > single), None)


def sentence(trial: Trial) -> str:
    """A change with its effect and cost: "percentile → max on `relu_17`: ... 0.93 → 0.998, ..., +0 cycles"."""
    before, after = trial.before, trial.after
    cost = "cycles unknown"
    if after.cycles is not None and before.cycles is not None:
        cost = f"{after.cycles - before.cycles:+,} cycles"
    return (
        f"{trial.change}: the layer alone {_from_to(before.tensor_cosine, after.tensor_cosine)}, "
        f"the output {_from_to(before.output_cosine, after.output_cosine)} "
        f"({decibels(before.output_sqnr_db)} → {decibels(after.output_sqnr_db)}), {cost}"
    )


def _from_to(before: float, after: float) -> str:
    """Two cosines with as many digits as tell both from 1."""
    gap = 1 - max(before, after)
    if not 0 < gap < 1:
        return f"{cosine(before)} → {cosine(after)}"
    digits = min(max(3, -math.floor(math.log10(gap))), 6)
    scale = 10**digits
    return " → ".join(f"{math.floor(value * scale) / scale:.{digits}f}" for value in (before, after))
