"""A difference of two builds for a terminal: the figures, and the layers that moved most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tpu_deploy.reports.difference import Difference, Figure, LayerChange
from tpu_deploy.reports.text import columns, cosine, decibels, size

SHOWN = 8
"""Layers of a kind that are listed."""


def terminal(found: Difference) -> str:
    """The difference as lines of text."""
    lines = [f"before  {found.before}", f"after   {found.after}"]
    if not found.is_same_model:
        lines.append("the models are not the same file; layers are matched by name")
    lines += [f"option {key}: {before} → {after}" for key, (before, after) in found.options.items()]
    rows = [(each.name, value(each, each.before), value(each, each.after), verdict(each)) for each in found.figures]
    lines += ["", columns(rows, ("figure", "before", "after", ""), frozenset({1, 2}))]
    lines += _listed("farther from float", found.farther)
    lines += _listed("nearer to float", found.nearer)
    changed = sum(each.threshold_changed for each in found.layers)
    lines += ["", f"thresholds changed: {changed} of {len(found.layers)}"]
    lines.append(f"types or scales changed: {sum(each.type_changed for each in found.layers)} of {len(found.layers)}")
    lines += _named("other type", [_retyped(e) for e in found.layers if e.is_in_both and _retyped(e)])
    lines += _named("renamed", [f"{each.earlier} → {each.name}" for each in found.layers if each.earlier is not None])
    lines += _named("only before", [each.name for each in found.layers if each.after_dtype is None])
    lines += _named("only after", [each.name for each in found.layers if each.before_dtype is None])
    lines += [f"new finding: {each}" for each in found.new_findings]
    lines += [f"finding gone: {each}" for each in found.gone_findings]
    return "\n".join(lines)


def _listed(what: str, layers: Sequence[LayerChange]) -> list[str]:
    if not layers:
        return ["", f"no layer is {what}"]
    rows = [
        (
            each.name,
            each.operation,
            _db(each.before_sqnr_db),
            _db(each.after_sqnr_db),
            f"{each.gain_db:+.1f} dB",
            _threshold(each),
        )
        for each in layers[:SHOWN]
    ]
    more = f" (the first {SHOWN})" if len(layers) > SHOWN else ""
    head = f"{len(layers)} layer{'s' if len(layers) > 1 else ''} {what}{more}"
    return ["", columns(rows, (head, "", "before", "after", "", "threshold"), frozenset({2, 3, 4}))]


def _named(what: str, layers: Sequence[str]) -> list[str]:
    more = f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
    return [f"{what}: {', '.join(layers[:SHOWN])}{more}"] if layers else []


def _retyped(change: LayerChange) -> str:
    if change.before_dtype == change.after_dtype:
        return ""
    return f"{change.name} {change.before_dtype} → {change.after_dtype}"


def _db(level: float | None) -> str:
    return "-" if level is None else decibels(level)


def _threshold(change: LayerChange) -> str:
    if change.threshold_changed:
        return f"{change.before_threshold:.4g} → {change.after_threshold:.4g}"
    return "" if change.before_dtype == change.after_dtype else f"{change.before_dtype} → {change.after_dtype}"


def value(figure: Figure, given: float | str) -> str:
    """One figure as text, in its unit."""
    if isinstance(given, str):
        return given
    if figure.unit == "dB":
        return decibels(given)
    if figure.unit == "B":
        return size(given)
    return cosine(given) if "cosine" in figure.name else f"{given:,.6g}" if isinstance(given, float) else f"{given:,}"


def verdict(figure: Figure) -> str:
    """What became of a figure, in a word or as a change in percent."""
    if figure.better is None:
        return "same"
    word = "better" if figure.better else "worse"
    before, after = figure.before, figure.after
    if figure.unit == "dB" or isinstance(before, str) or isinstance(after, str) or not before:
        return word
    change = after / before - 1
    return f"{word} ({change:+.1%})" if math.isfinite(change) and "cosine" not in figure.name else word
