"""What a person should know of a quantized network although its figures may look well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tpu_deploy.reports.layers import Layer

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""

SATURATION = 0.01
"""Share of saturated values from which a tensor is worth a finding."""

GAIN = 0.02
"""How far a tensor's gain may be from 1 where the cosine says that nothing is wrong."""

GOOD_COSINE = 0.99
"""From here on a cosine looks well: what it hides is told."""

NEAR_ZERO = 0.3
"""A root mean square below this many steps is less than rounding to nearest adds to any tensor (1 / sqrt(12))."""


@dataclass(frozen=True)
class Finding:
    """One of them: `kind` for programs, the tensor it is about, and a sentence that goes on from the tensor's name."""

    severity: Severity
    kind: str
    tensor: str
    message: str

    def __str__(self) -> str:
        return f"{self.tensor}: {self.message}"


def findings(layers: Sequence[Layer], outputs: Iterable[str]) -> list[Finding]:
    """What is to be known of the layers, errors first, then in the order of the network."""
    ends = set(outputs)
    found = [each for layer in layers for each in _of_layer(layer, layer.name in ends)]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def _of_layer(layer: Layer, is_output: bool) -> Iterator[Finding]:
    near = layer.similarity
    name = layer.name
    if near.not_finite:
        is_narrow = layer.dtype == "float16" or layer.operation == "Cast"
        cure = " (f16 ends at 65504; BF16 and F32 reach further)" if is_narrow else ""
        told = f"{near.not_finite} of {near.elements} values are NaN or infinite{cure}"
        yield Finding("error", "not_finite", name, told)
    constant = near.is_constant and not near.expected_is_constant
    if constant and is_output:
        told = "is an output and constant over all samples; the float network's is not"
        yield Finding("error", "constant_output", name, told)
    if near.saturated > SATURATION:
        told = f"{near.saturated:.1%} of its values saturate (beyond what {layer.dtype} holds)"
        yield Finding("warning", "saturation", name, told)
    if layer.is_below_resolution:
        told = f"all its values round to zero (largest below half its scale {layer.scale:.3g})"
        yield Finding("warning", "below_resolution", name, told)
    elif constant and not is_output:
        yield Finding("error", "constant", name, "is constant over all samples; the float network's is not")
    else:
        yield from _hidden(layer)


def _hidden(layer: Layer) -> Iterator[Finding]:
    """What the figures of a tensor that lives do not show."""
    near, explained = layer.similarity, layer.explanation
    dead = () if explained is None else explained.dead_channels
    if dead:
        severity: Severity = "error" if 2 * len(dead) >= layer.channels else "warning"
        told = f"{_listed(dead, layer.channels)} constant over all samples; in the float network not"
        yield Finding(severity, "dead_channels", layer.name, told)
    if abs(near.gain - 1) > GAIN and near.pooled_cosine > GOOD_COSINE:
        change = f"{abs(near.gain - 1):.1%} too {'large' if near.gain > 1 else 'small'}"
        told = f"its values are {change}, which its cosine of {near.pooled_cosine:.4f} does not show"
        yield Finding("warning", "gain", layer.name, told)
    if _is_near_zero(layer):
        told = "is almost zero on all samples: its similarity says little; verify on samples that excite it"
        yield Finding("note", "near_zero", layer.name, told)


def _is_near_zero(layer: Layer) -> bool:
    near = layer.similarity
    if near.expected_min == near.expected_max == 0:
        return near.elements > 1
    return layer.scale is not None and 0 < near.expected_rms < NEAR_ZERO * layer.scale


def _listed(channels: Sequence[int], count: int) -> str:
    shown = ", ".join(map(str, channels[:4]))
    more = f" and {len(channels) - 4} more" if len(channels) > 4 else ""
    return f"channel {shown} of {count} is" if len(channels) == 1 else f"channels {shown}{more} of {count} are"
