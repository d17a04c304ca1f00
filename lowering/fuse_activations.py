"""Activations that exporters spell out become one operation: SiLU, HardSwish, Mish, HardSigmoid and GELU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network
from tpu_deploy.ir.top import UNBOUNDED
from tpu_deploy.lowering.affine import read_affine
from tpu_deploy.lowering.clamp import read_clamp
from tpu_deploy.lowering.rewriting import has_relu, private_producer, rebuild

TOLERANCE = 1e-6
"""How far, relatively, a float32 constant such as 1/6 may be from the exact one."""

Found = tuple[str, SSAValue, dict[str, Any]]
"""An operation that a pattern stands for, with its operand and attributes."""


def fuse_activations(network: Network) -> int:
    """The number of patterns replaced. A value inside the pattern that others read, or that is returned, forbids it."""
    changed = 0
    for op in network.operations:
        found = _gated(op) or _hard_swish(network, op) or _hard_sigmoid(network, op) or _gelu(network, op)
        if found is not None:
            name, x, attributes = found
            rebuild(network, op, name, [x], attributes)
            changed += 1
    return changed


def _near(value: float, exact: float) -> bool:
    return bool(np.isclose(value, exact, rtol=TOLERANCE, atol=0))


# ---- x * gate(x)


def _factors(op: Operation) -> Iterator[tuple[SSAValue, SSAValue]]:
    """The two ways to see a product of two values as a value and its gate."""
    if op.name == "top.Mul" and len(op.operands) == 2 and not has_relu(op):
        yield op.operands[0], op.operands[1]
        yield op.operands[1], op.operands[0]


def _gated(op: Operation) -> Found | None:
    for x, gate in _factors(op):
        maker = private_producer(gate)
        for name, is_gate in GATES.items():
            if maker is not None and is_gate(maker, x):
                return name, x, {}
    return None


def _is_sigmoid(op: Operation, x: SSAValue) -> bool:
    if op.name != "top.Sigmoid" or op.operands[0] is not x:
        return False
    attributes = attributes_of(op)
    return (attributes["scale"], attributes["bias"], attributes["log"]) == (1, 0, False)


def _is_hard_sigmoid(op: Operation, x: SSAValue) -> bool:
    if op.name != "top.HardSigmoid" or op.operands[0] is not x:
        return False
    attributes = attributes_of(op)
    return _near(attributes["alpha"], 1 / 6) and _near(attributes["beta"], 0.5)


def _is_tanh_of_softplus(op: Operation, x: SSAValue) -> bool:
    inner = private_producer(op.operands[0]) if op.name == "top.Tanh" else None
    return inner is not None and inner.name == "top.Softplus" and inner.operands[0] is x


GATES: dict[str, Callable[[Operation, SSAValue], bool]] = {
    "top.SiLU": _is_sigmoid,
    "top.HardSwish": _is_hard_sigmoid,
    "top.Mish": _is_tanh_of_softplus,
}
"""For x * gate(x): what the product is, and how to know the operation that makes the gate."""


# ---- clip(slope * x + offset, 0, top), spelt with numbers


@dataclass(frozen=True)
class Ramp:
    """clip(slope * x + offset, 0, top)."""

    x: SSAValue
    slope: float
    offset: float
    top: float


def _ramp(network: Network, value: SSAValue) -> Ramp | None:
    """The ramp that makes a value, its steps read by nobody else; None when there is none or it begins at x = 0."""
    maker = private_producer(value)
    interval = read_clamp(maker) if maker is not None else None
    if maker is None or interval is None or not interval.is_relu or interval.high >= UNBOUNDED:
        return None
    x, slope, offset = _line(network, maker.operands[0])
    return Ramp(x, slope, offset, interval.high) if offset else None


def _line(network: Network, value: SSAValue) -> tuple[SSAValue, float, float]:
    """`x`, `slope` and `offset` of a value that is slope * x + offset, made in steps that nobody else reads."""
    slope, offset = 1.0, 0.0
    while (step := _with_numbers(network, private_producer(value))) is not None:
        value, slope, offset = step[0], slope * step[1], slope * step[2] + offset
    return value, slope, offset


def _with_numbers(network: Network, op: Operation | None) -> tuple[SSAValue, float, float] | None:
    """The operand, factor and addend of an operation that multiplies by one number or adds one."""
    found = read_affine(network, op) if op is not None and not has_relu(op) else None
    if found is None or found[1].axis is not None:
        return None
    return found[0], float(found[1].scale), float(found[1].bias)


def _factor(network: Network, op: Operation | None) -> tuple[SSAValue, float] | None:
    """The operand and factor of an operation that only multiplies by a number."""
    found = _with_numbers(network, op)
    return found[:2] if found is not None and found[2] == 0 else None


def _hard_sigmoid(network: Network, op: Operation) -> Found | None:
    """gain * ramp, up to 1."""
    factor = _factor(network, op)
    ramp = _ramp(network, factor[0]) if factor is not None else None
    if factor is None or ramp is None or not _near(factor[1] * ramp.top, 1):
        return None
    return "top.HardSigmoid", ramp.x, {"alpha": factor[1] * ramp.slope, "beta": factor[1] * ramp.offset}


def _hard_swish(network: Network, op: Operation) -> Found | None:
    """x * ramp / 6, the division behind the product or on x."""
    factor = _factor(network, op)
    product = private_producer(factor[0]) if factor is not None else op
    for x, gate in _factors(product) if product is not None else ():
        gain = factor[1] if factor is not None else 1.0
        scaled = _factor(network, private_producer(x)) if factor is None else None
        if scaled is not None:
            x, gain = scaled
        ramp = _ramp(network, gate)
        if ramp is None or ramp.x is not x or not _near(gain * ramp.top, 1):
            continue
        if _near(gain * ramp.slope, 1 / 6) and _near(gain * ramp.offset, 0.5):
            return "top.HardSwish", x, {}
    return None


# ---- x * (1 + gate(x)) / 2


def _gelu(network: Network, op: Operation) -> Found | None:
    """x * (1 + erf(x / sqrt(2))) / 2, or its approximation by tanh, the half anywhere."""
    factor = _factor(network, op)
    product = private_producer(factor[0]) if factor is not None else op
    for x, gate in _factors(product) if product is not None else ():
        gain = factor[1] if factor is not None else 1.0
        scaled = _factor(network, private_producer(x)) if factor is None else None
        if scaled is not None:
            x, gain = scaled
        inner, slope, offset = _line(network, gate)
        maker = private_producer(inner)
        if maker is None or not (_near(gain * slope, 0.5) and _near(gain * offset, 0.5)):
            continue
        if maker.name == "top.Erf" and _is_scaled(network, maker.operands[0], x, math.sqrt(0.5)):
            return "top.GELU", x, {"approx_mode": "normal"}
        if maker.name == "top.Tanh" and _is_bent(network, maker.operands[0], x):
            return "top.GELU", x, {"approx_mode": "tanh"}
    return None


def _is_scaled(network: Network, value: SSAValue, x: SSAValue, by: float) -> bool:
    """Whether a value is `by` * x, made for one reader."""
    found = _factor(network, private_producer(value))
    return found is not None and found[0] is x and _near(found[1], by)


def _is_bent(network: Network, value: SSAValue, x: SSAValue) -> bool:
    """Whether a value is sqrt(2 / pi) * (x + 0.044715 * x**3)."""
    outer = _factor(network, private_producer(value))
    total = private_producer(outer[0]) if outer is not None else None
    if outer is None or total is None or not _near(outer[1], math.sqrt(2 / math.pi)):
        return False
    if total.name != "top.Add" or len(total.operands) != 2 or has_relu(total) or attributes_of(total).get("coeff"):
        return False
    terms = [each for each in total.operands if each is not x]
    cube = _factor(network, private_producer(terms[0])) if len(terms) == 1 else None
    return cube is not None and _near(cube[1], 0.044715) and _is_cube(cube[0], x)


def _is_cube(value: SSAValue, x: SSAValue) -> bool:
    """Whether a value is x * x * x, made for one reader."""
    maker = private_producer(value)
    for factor, square in _factors(maker) if maker is not None else ():
        inner = private_producer(square)
        if factor is x and inner is not None and any(a is x and b is x for a, b in _factors(inner)):
            return True
    return False
