"""How alike two executions of one TPU network must be: the same bits, but for the freedoms that float kernels have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from tpu_deploy.ir.network import Network

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

SUM_KERNELS = frozenset({"tpu.FloatConv2D", "tpu.FloatMatMul", "tpu.FloatAvgPool2D"})
"""Operations whose float sums are taken in any order; behind them a rounding may fall to the other side."""

FLOAT_KERNELS = frozenset({"tpu.Softmax"})
"""Operations computed by a sequence of float32 steps; behind them results may differ by rounding."""

FLOAT_ULP = 2
"""Units in the last place by which results behind one of FLOAT_KERNELS may differ."""

ROUNDING_SHARE = 2.0
"""Most that results behind one of SUM_KERNELS may differ, over what rounding has moved them from the float network's.

Another order of summation changes few roundings at first, but each change makes others: in deep networks the errors of
two executions end up as good as independent, 1.4 times as far from each other as from the float network."""

SUM_ERROR = 2.0**-16
"""Relative error that is granted to sums in any case: the reference may happen to round as the float network does."""

Rule = Literal["bits", "ulp", "sums"]


@dataclass(frozen=True)
class Agreement:
    """What was found: the blame ("" where nothing is wrong), and how near the executions are, in words."""

    blame: str
    figure: str


def rules(network: Network) -> dict[str, Rule]:
    """By ONNX output name, how alike two executions must be: that follows from the operations the output depends on."""
    sums, floats = (_behind(network, kernels) for kernels in (SUM_KERNELS, SUM_KERNELS | FLOAT_KERNELS))
    return {
        name: "sums" if value in sums else "ulp" if value in floats else "bits"
        for name, value in zip(network.output_names, network.outputs, strict=True)
    }


def _behind(network: Network, kernels: Collection[str]) -> set[SSAValue]:
    """The values that an operation of `kernels` has a part in."""
    touched: set[SSAValue] = set()
    for op in network.operations:
        if op.name in kernels or any(operand in touched for operand in op.operands):
            touched.update(op.results)
    return touched


def compare(
    actual: Sequence[Outputs], expected: Sequence[Outputs], floats: Sequence[Outputs], by_rule: Mapping[str, Rule]
) -> Agreement:
    """Batches of `actual` outputs against `expected` ones, each by its rule; `floats` are the float network's."""
    worst, largest = 0, 0.0
    for ours, theirs, real in zip(actual, expected, floats, strict=True):
        for name, wanted in theirs.items():
            distance = units_apart(ours[name], wanted)
            if distance == 0:
                continue
            if by_rule[name] == "sums":
                error, granted = _error(ours[name], wanted), _granted(wanted, real[name])
                if not error <= granted:
                    blame = f"output {name}: error {error:.2g}, of which the order of sums explains {granted:.2g}"
                    return Agreement(blame, blame)
                largest = max(largest, error)
            elif distance > (FLOAT_ULP if by_rule[name] == "ulp" else 0):
                wrong = int(np.count_nonzero(ours[name].reshape(-1) != wanted.reshape(-1)))
                blame = f"output {name}: {wrong} of {wanted.size} values differ"
                return Agreement(blame, blame)
            else:
                worst = max(worst, distance)
    if largest:
        return Agreement("", f"error {largest:.2g} by the order of sums")
    return Agreement("", f"within {worst} ulp" if worst else "identical bits")


def _error(actual: Array, expected: Array) -> float:
    """How far executions are apart: floats by their relative error, stored integers by their largest difference."""
    if expected.dtype.kind == "f" or actual.shape != expected.shape:
        return relative_error(actual, expected)
    return float(np.abs(actual.astype(np.int64) - expected.astype(np.int64)).max())


def _granted(wanted: Array, real: Array) -> float:
    """What of that another order of sums explains: of integers, one step."""
    if wanted.dtype.kind != "f":
        return 1.0
    return max(ROUNDING_SHARE * relative_error(wanted, real.reshape(wanted.shape)), SUM_ERROR)


def relative_error(actual: Array, expected: Array) -> float:
    """The norm of the difference over that of `expected`; infinite for unlike shapes, and where only one is finite."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return np.inf
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    odd = ~np.isfinite(theirs)
    if not np.array_equal(ours[odd], theirs[odd], equal_nan=True) or not np.isfinite(ours[~odd]).all():
        return np.inf
    norm = float(np.linalg.norm(theirs[~odd]))
    error = float(np.linalg.norm(ours[~odd] - theirs[~odd]))
    return error / norm if norm else (np.inf if error else 0.0)


def units_apart(actual: Array, expected: Array) -> int:
    """The largest distance of two arrays in units in the last place; of integers, and of floats unlike in sign or in
    what is not finite, any difference counts as far too large. One NaN is like another: its bits mean nothing.
    """
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return 1 << 32
    ours, theirs = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    if np.array_equal(ours.view(np.uint8), theirs.view(np.uint8)):
        return 0
    if ours.dtype != np.float32:
        return 1 << 32
    odd = ~np.isfinite(theirs)
    if not np.array_equal(ours[odd], theirs[odd], equal_nan=True) or not np.isfinite(ours[~odd]).all():
        return 1 << 32
    ours, theirs = ours[~odd], theirs[~odd]
    if not np.array_equal(np.signbit(ours), np.signbit(theirs)):
        return 1 << 32
    return int(np.abs(ours.view(np.int32).astype(np.int64) - theirs.view(np.int32)).max(initial=0))
