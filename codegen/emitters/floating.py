"""Results in floating point: rounding to their type, ReLU, and what makes them of sums of products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters import packing
from tpu_deploy.codegen.emitters.epilogue import Held, Stage, chained
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.operation import OperationView
from tpu_deploy.codegen.emitters.requantization import I32
from tpu_deploy.codegen.emitters.windows import Problem
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import Access, Action, Buffer, Step
from tpu_deploy.numbers import RoundMode

F32 = np.dtype(np.float32)
WORD = 4
"""Bytes of a float32 or int32."""


def converted(result: Local, x: Local, chip: Chip) -> Step:
    """`x` in the float type of the result, rounded half to even."""
    return tiu.cast(result, x, chip, RoundMode.HALF_EVEN)


def ending(op: OperationView, source: np.dtype[Any], chip: Chip) -> list[Stage]:
    """Steps from what is computed, in the type `source`, to the result: rounding, then ReLU in the result's type.

    An unordered maximum is the right operand and an unordered minimum the left one: NaN passes through.
    """
    kind = op.result.dtype
    stages: list[Stage] = []
    if source != kind:
        stages.append((kind, lambda y, x: converted(y, x, chip)))
    if op.attributes["do_relu"]:
        zero, limit = (Constant.floating(v, kind) for v in (0.0, op.attributes["relu_limit"]))
        stages.append((kind, lambda y, x: tiu.arithmetic(ArithmeticOp.MAX, y, zero, x, chip)))
        if op.attributes["relu_limit"] >= 0:
            stages.append((kind, lambda y, x: tiu.arithmetic(ArithmeticOp.MIN, y, x, limit, chip)))
    return stages


def per_channel(buffer: str, offset: int, channels: int, dtype: np.dtype[Any]) -> Local:
    """Numbers of four bytes, one a channel, that lie next to each other in a lane, to be broadcast."""
    return Local(buffer, (1, channels, 1, 1), dtype, offset, (0, 1, 0, 0))


def pack_words(arrays: tuple[np.ndarray[Any, Any], ...], chip: Chip) -> packing.Bytes:
    """Arrays of a four-byte number a channel, one after the other in each lane, padded to vectors."""
    rows = [packing.rows_by_lane(np.ascontiguousarray(a).reshape(-1, 1).view(np.uint8), chip) for a in arrays]
    width = sum(r.shape[1] for r in rows)
    return packing.padded(np.concatenate(rows, axis=1), round_up(width, chip.vector_bytes))


@dataclass(frozen=True)
class FloatSums:
    """The epilogue of float sums, to which the instruction itself adds a float32 bias: rounding and ReLU."""

    problem: Problem
    sums: np.dtype[Any]

    parts = F32

    @property
    def is_direct(self) -> bool:
        """Whether the sums are the result."""
        return not ending(self.problem.op, self.sums, self.problem.chip)

    def constant_bytes(self, slots: int) -> int:
        """Bytes of the bias."""
        return round_up(slots * WORD, self.problem.chip.vector_bytes)

    def pack(self, first: int, last: int) -> packing.Bytes:
        """The bias."""
        return pack_words((self.problem.op.constant("bias")[first:last],), self.problem.chip)

    def prepare(self, constants: Held, place: str, channels: int) -> tuple[list[Buffer], list[Action]]:
        """Nothing: the bias is used where it lies."""
        return [], []

    def bias(self, constants: Held, slots: tuple[int, int]) -> Access | None:
        """The bias of these channel groups."""
        return Access(constants.buffer, slots[0] * WORD, slots[1] * WORD)

    def begin(self, acc: Local, constants: Held, place: str, slots: tuple[int, int]) -> list[Action]:
        """Nothing."""
        return []

    def finish(
        self, acc: Local, y: Local, constants: Held, place: str, slots: tuple[int, int]
    ) -> tuple[list[Buffer], list[Action]]:
        """Rounds and cuts off."""
        chip = self.problem.chip
        copy: Stage = (y.dtype, lambda result, x: tiu.arithmetic(ArithmeticOp.COPY, result, x, None, chip))
        return chained(ending(self.problem.op, acc.dtype, chip) or [copy], acc, y, (f"spare{place}", acc.buffer), chip)


@dataclass(frozen=True)
class Dequantization:
    """The epilogue of int32 sums with a float result: bias, conversion, a scale of each channel, rounding and ReLU.

    `is_bias_added` where the instruction that sums has added the bias.
    """

    problem: Problem
    is_bias_added: bool = False

    sums = parts = I32
    is_direct = False

    def constant_bytes(self, slots: int) -> int:
        """Bytes of bias and scale."""
        return round_up(2 * slots * WORD, self.problem.chip.vector_bytes)

    def pack(self, first: int, last: int) -> packing.Bytes:
        """Bias and scale."""
        op = self.problem.op
        return pack_words((op.constant("bias")[first:last], op.constant("scale")[first:last]), self.problem.chip)

    def prepare(self, constants: Held, place: str, channels: int) -> tuple[list[Buffer], list[Action]]:
        """Nothing: the constants are used where they lie."""
        return [], []

    def bias(self, constants: Held, slots: tuple[int, int]) -> Access | None:
        """The bias of these channel groups, for an instruction that adds int32."""
        return Access(constants.buffer, slots[0] * WORD, slots[1] * WORD) if self.is_bias_added else None

    def begin(self, acc: Local, constants: Held, place: str, slots: tuple[int, int]) -> list[Action]:
        """Nothing."""
        return []

    def finish(
        self, acc: Local, y: Local, constants: Held, place: str, slots: tuple[int, int]
    ) -> tuple[list[Buffer], list[Action]]:
        """Adds, converts, multiplies, rounds and cuts off."""
        op, chip, channels = self.problem.op, self.problem.chip, y.dims[1]
        bias = per_channel(constants.buffer, slots[0] * WORD, channels, I32)
        scale = per_channel(constants.buffer, (constants.slots + slots[0]) * WORD, channels, F32)
        stages: list[Stage] = []
        if not self.is_bias_added:
            stages.append((I32, lambda r, x: tiu.arithmetic(ArithmeticOp.ADD, r, x, bias, chip)))
        stages += [
            (F32, lambda r, x: converted(r, x, chip)),
            (F32, lambda r, x: tiu.arithmetic(ArithmeticOp.MUL, r, x, scale, chip)),
            *ending(op, F32, chip),
        ]
        return chained(stages, acc, y, (f"spare{place}", acc.buffer), chip)
