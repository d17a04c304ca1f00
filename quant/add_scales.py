"""Scales around additions, moved so that 8-bit multipliers represent their ratios.

`tpu.Add` brings each operand to the scale of the result with a multiplier of eight bits, whose step is up to 0.8 % of
it. The scales are free: a tensor whose range is 0.4 % wider or narrower is as good, and then no gain error remains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of
from tpu_deploy.quant.plan import TensorQuantization
from tpu_deploy.quant.ties import Groups

REACH = 0.005
"""How far a scale may move, relatively."""

MAXIMUM_RATIO = 32.0
"""An operand's scale over the result's: more would not leave room in 16 bits, and saturates for all but 4 levels."""


def eight_bit_multiplier(ratio: float) -> tuple[int, int]:
    """`(m, k)` with m / 2**k nearest to `ratio`, m in 128..255 (in -128..-65 for a negative one, 0 for zero)."""
    if ratio == 0:
        return 0, 0
    mantissa, exponent = math.frexp(abs(ratio))
    bits = 8 if ratio > 0 else 7
    multiplier = round(mantissa * 2**bits)
    if multiplier > (255 if ratio > 0 else 128):
        multiplier, exponent = 1 << (bits - 1), exponent + 1
    return (multiplier if ratio > 0 else -multiplier), bits - exponent


def gain_error(ratio: float) -> float:
    """Relative error of the 8-bit multiplier nearest to `ratio`."""
    multiplier, shift = eight_bit_multiplier(ratio)
    return abs(multiplier * 2.0**-shift / ratio - 1) if ratio else 0.0


def term_coefficients(op: Operation) -> list[float]:
    """What each operand of a `top.Add` or `top.Sub` is multiplied by before the sum."""
    attributes = attributes_of(op)
    count = len(op.operands)
    if op.name == "top.Sub":
        signs = [1.0] + [-1.0] * (count - 1)
        return [-s for s in signs] if attributes["is_reverse"] else signs
    return list(attributes["coeff"] or [1.0] * count)


def added_values(network: Network, op: Operation) -> list[tuple[float, SSAValue]]:
    """The terms of an addition that are no constants."""
    terms = zip(term_coefficients(op), op.operands, strict=True)
    return [(c, v) for c, v in terms if c != 0 and network.weight(v) is None]


@dataclass(frozen=True)
class _Addition:
    terms: tuple[tuple[float, str], ...]
    result: str


def align_add_scales(
    network: Network,
    precisions: Mapping[str, str],
    groups: Groups,
    types: Mapping[str, TensorQuantization],
) -> dict[str, TensorQuantization]:
    """`types` (by group) with scales moved by at most REACH so that the multipliers of additions are exact.

    Additions are visited in order. Groups that an earlier addition has settled stay; the result's scale follows from
    the settled operands (the least error where several disagree), and the other operands follow from the result.
    """
    moved = dict(types)
    settled: set[str] = set()
    for op in network.operations:
        if op.name not in ("top.Add", "top.Sub") or precisions[name_of(op)] != "INT8":
            continue
        terms = tuple((c, groups.find(name_of(v))) for c, v in added_values(network, op))
        addition = _Addition(terms, groups.find(name_of(op)))
        _settle_result(addition, moved, settled, types)
        for coefficient, group in addition.terms:
            if group not in settled:
                ratio = coefficient * moved[group].scale / moved[addition.result].scale
                multiplier, shift = eight_bit_multiplier(ratio)
                exact = multiplier * 2.0**-shift / coefficient * moved[addition.result].scale
                moved[group] = replace(moved[group], scale=_within_reach(exact, types[group].scale))
                settled.add(group)
    return moved


def _settle_result(
    addition: _Addition,
    moved: dict[str, TensorQuantization],
    settled: set[str],
    types: Mapping[str, TensorQuantization],
) -> None:
    result = addition.result
    largest = max((abs(c) * moved[g].scale for c, g in addition.terms), default=0.0)
    floor = largest / MAXIMUM_RATIO
    if result in settled:
        return
    settled.add(result)
    wanted = max(types[result].scale, floor)
    fixed = [abs(c) * moved[g].scale * math.copysign(1, c) for c, g in addition.terms if g in settled]
    candidates = [wanted, *(_exact_scale(f, wanted) for f in fixed)]
    best = min(candidates, key=lambda s: max((gain_error(f / s) for f in fixed), default=0.0))
    moved[result] = replace(moved[result], scale=best)


def _exact_scale(numerator: float, wanted: float) -> float:
    """The scale nearest to `wanted` that makes numerator / scale an exact multiplier, at most REACH away."""
    multiplier, shift = eight_bit_multiplier(numerator / wanted)
    return _within_reach(numerator / multiplier * 2.0**shift, wanted)


def _within_reach(scale: float, origin: float) -> float:
    return min(max(scale, origin * (1 - REACH)), origin * (1 + REACH))
