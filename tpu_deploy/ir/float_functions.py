"""Functions of single elements in float32, as programs of steps that round once each: what the chip is to execute.

A program is the meaning of a row of `ir.tpu_float`. Its steps are single instructions of the chip, so that emitters
translate them one by one and the reference repeats them bit for bit. There is no division: a reciprocal is a first
guess from the bits and Newton's steps, a quarter of the time that the unit's own division takes.

An unordered maximum is the right operand and an unordered minimum the left one; constants therefore stand left in a
maximum and right in a minimum, and NaN passes through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tpu_deploy.ir.top import UNBOUNDED

X = "x"
"""The operand, widened to float32."""

SLOPE = "slope"
"""The second operand of PRelu: a float32 for each index of axis 1, or one for all."""

OPERATIONS = (
    "mul", "add", "sub", "max", "min",
    "horner",
    "to_integer", "to_float", "shift_left_23", "add_bits", "sub_bits", "or_bits",
)  # fmt: skip
"""What a step may do: float32 arithmetic; a polynomial by Horner's scheme, product and sum each rounded; conversion to
int32 half to even, back, an int32 times 2**23; the bits of both operands taken for int32, added or subtracted (which
wraps) or joined by or."""


@dataclass(frozen=True)
class Step:
    """One instruction: `result` = `operation` of `operands`, which are names or constants.

    A constant is a float32 number, to an operation on bits the integer they make. `coefficients` are those of a
    polynomial, lowest power first.
    """

    result: str
    operation: str
    operands: tuple[str | float, ...]
    coefficients: tuple[float, ...] = ()


Program = tuple[Step, ...]
"""Steps in order; the result of the last one is the function's value."""

LOG2_E = 1 / math.log(2)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""log(2) in two parts, the first exact in few bits. Source: Cephes expf."""

TAYLOR = tuple(1 / math.factorial(power) for power in range(8))
"""Coefficients of exp on [-log(2) / 2, log(2) / 2]."""

EXPONENT_REACH = 87.0
"""exp of anything up to here, of either sign, and its reciprocal are normal float32 numbers."""

MISH_REACH = 40.0
"""Where tanh(softplus(x)) is 1 to float32; the square of exp of it is a float32 number."""

TANH_REACH = 9.0
TANH_NUMERATOR = (1.0, 0.13381025, 0.0034955882, 2.0609083e-05, 1.3354662e-08)
TANH_DENOMINATOR = (1.0, 0.46714342, 0.025876982, 0.00032856347, 7.776559e-07)
"""tanh(x) = x * P(x**2) / Q(x**2) for |x| <= TANH_REACH, beyond which it is 1 to float32; relative error 2.1e-8.

Source: fitted for the least maximal relative error, by Lawson's iteratively weighted least squares."""

ERF_REACH = 4.0
ERF_NUMERATOR = (1.1283791, 0.19354652, 0.05310194, 0.0038834058, 0.00028456724, 1.986771e-06)
ERF_DENOMINATOR = (1.0, 0.5048587, 0.115350604, 0.015207375, 0.001185586, 3.7420126e-05)
"""erf(x) = x * P(x**2) / Q(x**2) for |x| <= ERF_REACH, beyond which it is 1 to float32; relative error 2.5e-8.

Source: fitted as those of tanh."""

LOG_NUMERATOR = (
    1.0, -0.49999902, 0.33329964, -0.24954134, 0.19675939, -0.15305592, 0.10603654, -0.056959525, 0.019851457,
    -0.003244024,
)  # fmt: skip
"""log(1 + x) = x * P(x) for x in [0, 1]; relative error 4.7e-9. Source: fitted as those of tanh."""

RECIPROCAL_GUESS = 0x7EF311C7
"""Less the bits of a positive float32, its reciprocal to 5.1 %. Source: the constant with the least such error among
those tried; Blinn, Floating-point tricks, 1997."""

PRECISE_STEPS = 3
"""Newton's steps from there to 1.5e-7, which is float32's own rounding; one less leaves 6.6e-6."""

GELU_CUBIC, GELU_LINEAR = 2 * math.sqrt(2 / math.pi) * 0.044715, 2 * math.sqrt(2 / math.pi)
GELU_SIGMOID = 1.702
"""Both approximations of GELU are x * sigmoid(u). Source: Hendrycks and Gimpel, 2016."""

SIGN_BIT = -(1 << 31)


class Writer:
    """A program under construction; every method adds steps and gives the name of their result."""

    def __init__(self, is_precise: bool) -> None:
        """`is_precise` asks for all bits of a float32; else quotients are right to 17 bits, enough for 16-bit types."""
        self.steps: list[Step] = []
        self._newton_steps = PRECISE_STEPS if is_precise else PRECISE_STEPS - 1

    def do(self, operation: str, *operands: str | float, coefficients: tuple[float, ...] = ()) -> str:
        """One step."""
        name = f"t{len(self.steps)}"
        self.steps.append(Step(name, operation, operands, coefficients))
        return name

    def clamp(self, x: str, low: float, high: float) -> str:
        """x within [low, high]; an absent bound is one that no finite float32 exceeds."""
        if low > -UNBOUNDED:
            x = self.do("max", low, x)
        if high < UNBOUNDED:
            x = self.do("min", x, high)
        return x

    def horner(self, x: str, coefficients: tuple[float, ...]) -> str:
        """The polynomial of x."""
        return self.do("horner", x, coefficients=coefficients)

    def exponential(self, x: str) -> str:
        """exp(x) for |x| <= EXPONENT_REACH: a polynomial of the remainder by log(2), then the exponent's bits."""
        power = self.do("to_integer", self.do("mul", x, LOG2_E))
        whole = self.do("to_float", power)
        rest = self.do("sub", x, self.do("mul", whole, LN2_HIGH))
        rest = self.do("sub", rest, self.do("mul", whole, LN2_LOW))
        value = self.horner(rest, TAYLOR)
        return self.do("add_bits", value, self.do("shift_left_23", power))

    def quotient(self, dividend: str, divisor: str, newton_steps: int | None = None) -> str:
        """dividend / divisor for normal positive divisors whose reciprocal is normal."""
        guess = self.do("sub_bits", RECIPROCAL_GUESS, divisor)
        for _ in range(newton_steps or self._newton_steps):
            guess = self.do("mul", guess, self.do("sub", 2.0, self.do("mul", divisor, guess)))
        return self.do("mul", dividend, guess)

    def sigmoid(self, x: str) -> str:
        """1 / (1 + exp(-x))."""
        power = self.exponential(self.clamp(x, -EXPONENT_REACH, EXPONENT_REACH))
        return self.quotient(power, self.do("add", power, 1.0))

    def odd_ratio(self, x: str, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> tuple[str, str]:
        """x * P(x**2) and Q(x**2)."""
        square = self.do("mul", x, x)
        return self.do("mul", x, self.horner(square, numerator)), self.horner(square, denominator)


def _clip(w: Writer, a: Mapping[str, Any]) -> None:
    w.clamp(X, a["min"], a["max"])


def _leaky_relu(w: Writer, a: Mapping[str, Any]) -> None:
    scaled = w.do("mul", X, a["alpha"])
    if a["alpha"] <= 1:
        w.do("max", scaled, X)
    else:
        w.do("min", X, scaled)


def _prelu(w: Writer, _: Mapping[str, Any]) -> None:
    positive, negative = w.do("max", 0.0, X), w.do("min", X, 0.0)
    w.do("add", positive, w.do("mul", negative, SLOPE))


def _sigmoid(w: Writer, _: Mapping[str, Any]) -> None:
    w.sigmoid(X)


def _tanh(w: Writer, _: Mapping[str, Any]) -> None:
    w.quotient(*w.odd_ratio(w.clamp(X, -TANH_REACH, TANH_REACH), TANH_NUMERATOR, TANH_DENOMINATOR))


def _erf(w: Writer, _: Mapping[str, Any]) -> None:
    w.quotient(*w.odd_ratio(w.clamp(X, -ERF_REACH, ERF_REACH), ERF_NUMERATOR, ERF_DENOMINATOR))


def _hard_sigmoid(w: Writer, a: Mapping[str, Any]) -> None:
    w.clamp(w.do("add", w.do("mul", X, a["alpha"]), a["beta"]), 0.0, 1.0)


def _hard_swish(w: Writer, _: Mapping[str, Any]) -> None:
    w.do("mul", X, w.clamp(w.do("add", w.do("mul", X, 1 / 6), 0.5), 0.0, 1.0))


def _silu(w: Writer, _: Mapping[str, Any]) -> None:
    w.do("mul", X, w.sigmoid(X))


def _mish(w: Writer, _: Mapping[str, Any]) -> None:
    """tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2)."""
    power = w.exponential(w.clamp(X, -EXPONENT_REACH, MISH_REACH))
    dividend = w.do("mul", power, w.do("add", power, 2.0))
    w.do("mul", X, w.quotient(dividend, w.do("add", dividend, 2.0)))


def _softplus(w: Writer, _: Mapping[str, Any]) -> None:
    """max(x, 0) + log(1 + exp(-abs(x)))."""
    away = w.do("max", -EXPONENT_REACH, w.do("or_bits", X, SIGN_BIT))
    power = w.exponential(away)
    logarithm = w.do("mul", power, w.horner(power, LOG_NUMERATOR))
    w.do("add", w.do("max", 0.0, X), logarithm)


def _elu(w: Writer, a: Mapping[str, Any]) -> None:
    """exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2), which keeps the bits of small x."""
    half = w.clamp(w.do("mul", X, 0.5), -TANH_REACH, 0.0)
    numerator, denominator = w.odd_ratio(half, TANH_NUMERATOR, TANH_DENOMINATOR)
    negative = w.quotient(numerator, w.do("sub", denominator, numerator))
    w.do("add", w.do("max", 0.0, X), w.do("mul", negative, 2 * a["alpha"]))


def _gelu(w: Writer, a: Mapping[str, Any]) -> None:
    if a["approx_mode"] == "tanh":
        square = w.do("mul", X, X)
        argument = w.do("mul", X, w.do("add", w.do("mul", square, GELU_CUBIC), GELU_LINEAR))
        share = w.sigmoid(argument)
    elif a["approx_mode"] == "sigm":
        share = w.sigmoid(w.do("mul", X, GELU_SIGMOID))
    else:
        argument = w.clamp(w.do("mul", X, math.sqrt(0.5)), -ERF_REACH, ERF_REACH)
        # Where x is far below zero the share is a difference of halves: it takes all the bits there are.
        error = w.quotient(*w.odd_ratio(argument, ERF_NUMERATOR, ERF_DENOMINATOR), PRECISE_STEPS)
        share = w.do("add", w.do("mul", error, 0.5), 0.5)
    w.do("mul", X, share)


_FUNCTIONS: dict[str, Callable[[Writer, Mapping[str, Any]], None]] = {
    "tpu.Clip": _clip,
    "tpu.LeakyRelu": _leaky_relu,
    "tpu.PRelu": _prelu,
    "tpu.Sigmoid": _sigmoid,
    "tpu.Tanh": _tanh,
    "tpu.Erf": _erf,
    "tpu.HardSigmoid": _hard_sigmoid,
    "tpu.HardSwish": _hard_swish,
    "tpu.SiLU": _silu,
    "tpu.Mish": _mish,
    "tpu.Softplus": _softplus,
    "tpu.Elu": _elu,
    "tpu.GELU": _gelu,
}

FUNCTIONS = tuple(_FUNCTIONS)
"""The operations that have a program."""


def program(kind: str, attributes: Mapping[str, Any], is_precise: bool) -> Program:
    """The steps of the operation `kind` (one of FUNCTIONS); `is_precise` when its result is float32, not 16-bit.

    Without steps (a Clip without bounds) the value is the operand.
    """
    writer = Writer(is_precise)
    _FUNCTIONS[kind](writer, attributes)
    return tuple(writer.steps)
