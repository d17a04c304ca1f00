"""A report for a terminal: the worst layers, each with its cause and the remedy that was tried."""

from __future__ import annotations

from collections.abc import Sequence

from tpu_deploy.quant.plan import Trial as Tried
from tpu_deploy.reports.advice import Advice, Trial, together
from tpu_deploy.reports.text import decibels, percent

SHOWN = 3
"""How many layers are told of."""


def tuning(trials: Sequence[Tried]) -> str:
    """What the passes of tuning brought, those kept and those dropped; empty where nothing was tuned."""
    if not trials:
        return ""
    after = next((each.after for each in reversed(trials) if each.kept), trials[0].before)
    lines = [f"tuned, on samples held out: {decibels(trials[0].before)} → {decibels(after)}"]
    for verdict, kept in (("kept", True), ("dropped", False)):
        told = [f"{t.name.replace('_', ' ')} ({t.after - t.before:+.1f} dB)" for t in trials if t.kept == kept]
        lines += [f"        {verdict}: {', '.join(told)}"] * bool(told)
    return "\n".join(lines)


def worst_layers(told: Sequence[Advice], trials: Sequence[Trial]) -> str:
    """The worst layers in words; empty where no layer adds an error worth a word."""
    if not told:
        return ""
    measured = told[0].output_share is not None
    lines = [f"worst layers, by {'their share of the output error' if measured else 'the error born in them'}:"]
    for each in told[:SHOWN]:
        share = each.born if each.output_share is None else each.output_share
        lines.append(f"{percent(share):>6}  {each.tensor} ({each.operation}): {each.cause.sentence}")
        if each.remedy is not None:
            lines.append(f"        remedy: {each.remedy.sentence}")
        elif each.tried:
            tried = "the one change tried" if each.tried == 1 else f"none of {each.tried} changes tried"
            lines.append(f"        {tried} for it {'does not help' if each.tried == 1 else 'helps'} the output")
    halved = next((each for each in trials if each.chosen_on), None)
    if halved is not None and any(each.remedy is not None for each in told[:SHOWN]):
        lines.append(f"        (chosen on {halved.chosen_on} batches, measured on {halved.samples} others)")
    all_of_them = together(trials)
    if all_of_them is not None:
        before, after = (decibels(figures.output_sqnr_db) for figures in (all_of_them.before, all_of_them.after))
        lines.append(f"        all remedies together: the output {before} → {after}")
    return "\n".join(lines)
