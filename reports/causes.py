"""Why a layer is bad, in a sentence: read from its own figures, never guessed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tpu_deploy.reports.findings import GAIN
from tpu_deploy.reports.layers import Explanation, Layer
from tpu_deploy.reports.text import percent

CONCENTRATED = 0.3
"""From this share on, a single channel is named."""

WORST = 5
"""How many layers are explained in words."""

SMALLEST = 0.001
"""A layer whose born error is a smaller part of its tensor is not worth a word."""

LEAST_SHARE = 0.001
"""Nor is one that has a smaller share of the outputs' error."""

LEAST_NORMAL = 2.0**-14
"""The least number that float16 holds with all its bits."""

EXPLAINED_BY_GAIN = 0.5
"""Part of a layer's born energy that a mere factor must explain to be called the cause."""

SECOND = 0.25
"""From this share on the second largest part is told too."""


@dataclass(frozen=True)
class Cause:
    """What most of a layer's own error comes from: `kind` for programs, and a sentence."""

    kind: str
    sentence: str


def worst_layers(layers: Sequence[Layer], count: int = WORST) -> list[Layer]:
    """The layers to blame most, worst first: NaN, then by their share of the outputs' error or, without it, by what
    is born in them.
    """

    def blame(layer: Layer) -> tuple[float, float]:
        assert layer.explanation is not None
        born = layer.explanation.origin.born
        if math.isnan(born):
            return math.inf, math.inf
        return max(layer.explanation.output_share or 0.0, 0.0), born

    def counts(layer: Layer) -> bool:
        share = None if layer.explanation is None else layer.explanation.output_share
        return share is None or not share < LEAST_SHARE

    explained = [layer for layer in layers if layer.explanation is not None and counts(layer)]
    bad = [layer for layer in explained if not (layer.explanation and layer.explanation.origin.born < SMALLEST)]
    return sorted(bad, key=blame, reverse=True)[:count]


def cause_of(layer: Layer) -> Cause:
    """The cause of an explained layer's own error."""
    why = layer.explanation
    assert why is not None
    if not math.isfinite(why.origin.born) and layer.similarity.not_finite:
        first = "its own arithmetic makes them" if math.isfinite(why.origin.passed) else "they come from its operands"
        return Cause("not_finite", f"{layer.similarity.not_finite} of its values are NaN or infinite; {first}")
    if why.origin.channel in why.dead_channels and why.origin.channel_share > CONCENTRATED:
        of_it = f"{percent(why.origin.channel_share)} of the error born here"
        return Cause("dead_channels", f"channel {why.origin.channel} is dead: it is constant, which is {of_it}")
    parts = own_parts(why)
    if not parts:
        return Cause("passed_on", "it adds no error of its own; what it shows it was given")
    if _underflows(layer, why):
        largest = max(abs(layer.similarity.expected_min), abs(layer.similarity.expected_max))
        told = f"its values, up to {largest:.2g}, lie below what float16 holds well ({LEAST_NORMAL:.2g})"
        return Cause("underflow", f"{told}; in bf16 or f32 they do not")
    (kind, share), *others = parts.items()
    if not kind.endswith("clipping") and _is_gain(why):
        change = f"{percent(abs(why.origin.gain - 1))} too {'large' if why.origin.gain > 1 else 'small'}"
        return Cause("gain", f"its results are {change} throughout: a scale or multiplier is off")
    told = f"{percent(share)} of the error born here is {_PHRASES[kind](layer)}"
    if others and others[0][1] >= SECOND:
        told += f", {percent(others[0][1])} {_SHORT[others[0][0]]}"
    return Cause(kind, told + _channel(layer, why))


def _underflows(layer: Layer, why: Explanation) -> bool:
    near = layer.similarity
    return why.precision == "F16" and 0 < max(abs(near.expected_min), abs(near.expected_max)) < LEAST_NORMAL


def _is_gain(why: Explanation) -> bool:
    off = abs(why.origin.gain - 1)
    return off > GAIN / 2 and off**2 > EXPLAINED_BY_GAIN * why.origin.born**2


def own_parts(why: Explanation) -> dict[str, float]:
    """What a layer adds itself, largest first, as shares that sum to 1.

    Clipping and rounding of operands count only where the layer quantizes them: else they were born elsewhere.
    """
    shares = why.shares
    last = "table" if shares.table else "rounding"
    parts = {
        "weight_rounding": shares.weight_rounding,
        "clipping": shares.result_clipping,
        last: shares.requantization + shares.table - shares.result_clipping,
    }
    if why.quantizes:
        parts |= {"operand_clipping": shares.activation_clipping, "operand_rounding": shares.activation_rounding}
    positive = {kind: share for kind, share in parts.items() if share > 0}
    total = sum(positive.values())
    ordered = sorted(positive.items(), key=lambda item: -item[1])
    return {kind: share / total for kind, share in ordered}


def _channel(layer: Layer, why: Explanation) -> str:
    if why.origin.channel < 0 or why.origin.channel_share < CONCENTRATED or layer.channels < 4:
        return ""
    return f"; channel {why.origin.channel} of {layer.channels} has {percent(why.origin.channel_share)} of it"


def _clipping(layer: Layer) -> str:
    near, held = layer.similarity, layer.stored_range
    stores = "" if held is None else f" ({held[0]:.3g} to {held[1]:.3g})"
    return (
        f"clipping: {percent(near.saturated)} of its values lie beyond what it stores{stores}; "
        f"in float they go from {near.expected_min:.3g} to {near.expected_max:.3g}"
    )


def _rounding(layer: Layer) -> str:
    if layer.scale is None:
        return "rounding of the result"
    steps = layer.similarity.expected_rms / layer.scale
    return f"rounding to {layer.dtype}: its root mean square is {steps:.3g} steps"


_PHRASES: dict[str, Callable[[Layer], str]] = {
    "weight_rounding": lambda layer: "rounding of its weights",
    "clipping": _clipping,
    "rounding": _rounding,
    "table": lambda layer: f"its table's rounding to {layer.dtype}",
    "operand_clipping": lambda layer: "clipping of what it quantizes",
    "operand_rounding": lambda layer: "rounding of what it quantizes",
}

_SHORT = {
    "weight_rounding": "rounding of weights",
    "clipping": "clipping of the result",
    "rounding": "rounding of the result",
    "table": "rounding in its table",
    "operand_clipping": "clipping of what it quantizes",
    "operand_rounding": "rounding of what it quantizes",
}
