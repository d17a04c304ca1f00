"""Functions of single elements as instructions: each step of a program of `ir.float_functions` becomes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.emitters import instructions as tiu
from tpu_deploy.codegen.emitters.floating import F32, WORD, converted
from tpu_deploy.codegen.emitters.instructions import Constant, Local
from tpu_deploy.codegen.emitters.packing import Bytes
from tpu_deploy.codegen.emitters.requantization import I32, chunks, part_of
from tpu_deploy.codegen.isa import ArithmeticOp
from tpu_deploy.codegen.layout import aligned_bytes, round_up
from tpu_deploy.codegen.program import Access, Action, Buffer, LoadConstant, joined
from tpu_deploy.ir.float_functions import Program, Step, X
from tpu_deploy.numbers import RoundMode, rounded, widened

REGISTER_BYTES = 8192
"""Bytes of a lane that a value between steps may take: the larger, the fewer commands; the smaller, the more room."""

ARITHMETIC = {
    "mul": ArithmeticOp.MUL,
    "add": ArithmeticOp.ADD,
    "sub": ArithmeticOp.SUB,
    "max": ArithmeticOp.MAX,
    "min": ArithmeticOp.MIN,
}
ON_BITS = {"add_bits": ArithmeticOp.ADD, "sub_bits": ArithmeticOp.SUB, "or_bits": ArithmeticOp.OR}
EXPONENT_SHIFT = Constant(23, np.dtype(np.int8))

Operand = Local | Constant


def with_number(program: Program, name: str, value: float) -> Program:
    """The program with a number in place of an operand."""
    return tuple(replace(s, operands=tuple(value if o == name else o for o in s.operands)) for s in program)


def computing_type(program: Program, kind: np.dtype[Any]) -> np.dtype[Any]:
    """The type to compute in so that the result, of type `kind`, has the same bits as one rounded once from float32.

    Of operands that 16 bits hold one sum or product rounded to 16 bits has, and extremes keep the order of what is
    rounded. Source: S. A. Figueroa, When is double rounding innocuous?, 1995.
    """
    if not all(step.operation in ARITHMETIC for step in program):
        return F32
    rounding = sum(step.operation not in ("max", "min") for step in program)
    numbers = np.array([o for step in program for o in step.operands if not isinstance(o, str)], np.float32)
    held = bool((widened(rounded(numbers, kind)) == numbers).all())
    return kind if rounding == 0 or (rounding == 1 and held) else F32


@dataclass
class Registers:
    """Buffers for values between steps, each given back after the last step that reads it."""

    last_use: Mapping[str, int]
    homes: dict[str, str] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)
    count: int = 0

    def take(self, name: str) -> str:
        """A buffer for a value."""
        if not self.free:
            self.free.append(f"r{self.count}")
            self.count += 1
        self.homes[name] = self.free.pop()
        return self.homes[name]

    def release(self, index: int) -> None:
        """Gives back what no step after `index` reads."""
        for name in [n for n in self.homes if self.last_use.get(n, -1) <= index]:
            self.free.append(self.homes.pop(name))


@dataclass(frozen=True)
class Translation:
    """A program as instructions, its values of the type `kind`; `others` are operands beside x, by name.

    An operand that differs between channels is made for the channel groups of a part.
    """

    program: Program
    kind: np.dtype[Any]
    others: Mapping[str, Callable[[tuple[int, int]], Operand]]
    chip: Chip

    @property
    def polynomials(self) -> list[tuple[float, ...]]:
        """Coefficients of all polynomials, each once."""
        return list(dict.fromkeys(step.coefficients for step in self.program if step.coefficients))

    def coefficients(self) -> tuple[list[Buffer], list[Action]]:
        """The load of all coefficients into every lane."""
        if not self.polynomials:
            return [], []
        size = sum(self._size(p) for p in self.polynomials)
        load = LoadConstant(f"polynomials:{self.polynomials}", self.chip.lanes, size, "polynomials", self._pack)
        return [Buffer("polynomials", size)], [load]

    def _size(self, polynomial: tuple[float, ...]) -> int:
        return round_up(len(polynomial) * WORD, self.chip.vector_bytes)

    def _pack(self) -> Bytes:
        rows = [np.zeros(self._size(p) // WORD, np.float32) for p in self.polynomials]
        for row, polynomial in zip(rows, self.polynomials, strict=True):
            row[: len(polynomial)] = polynomial
        return np.tile(np.concatenate(rows).view(np.uint8), (self.chip.lanes, 1))

    def _table(self, polynomial: tuple[float, ...]) -> Access:
        start = sum(self._size(p) for p in self.polynomials[: self.polynomials.index(polynomial)])
        return Access("polynomials", start, start + self._size(polynomial))

    def over(self, x: Local, y: Local) -> tuple[list[Buffer], list[Action]]:
        """The program over a tile, a part of it at a time."""
        vector = self.chip.vector_bytes // x.dtype.itemsize
        buffers: list[Buffer] = []
        actions: list[Action] = []
        for chunk in chunks(x.dims, self.chip, vector // math.gcd(x.dims[3], vector), REGISTER_BYTES):
            source, target = part_of(x, chunk, self.chip), part_of(y, chunk, self.chip)
            registers, steps = self._part(source, target, chunk.slots)
            buffers, actions = [*buffers, *registers], [*actions, *steps]
        return list(joined(buffers)), actions

    def _part(self, x: Local, y: Local, slots: tuple[int, int]) -> tuple[list[Buffer], list[Action]]:
        if not self.program:
            return [], [tiu.arithmetic(ArithmeticOp.COPY, y, x, None, self.chip)]
        last_use = {o: k for k, step in enumerate(self.program) for o in step.operands if isinstance(o, str)}
        registers = Registers(last_use)
        values: dict[str, Operand] = {X: x, **{name: make(slots) for name, make in self.others.items()}}
        actions: list[Action] = []

        def fresh(name: str) -> Local:
            return Local(registers.take(name), x.dims, self.kind)

        if x.dtype != self.kind:
            wide = values[X] = fresh(X)
            actions.append(converted(wide, x, self.chip))
        for index, step in enumerate(self.program):
            is_last = index == len(self.program) - 1
            target = y if is_last and y.dtype == self.kind else fresh(step.result)
            actions.append(self._instruction(step, target, values))
            if is_last and target is not y:
                actions.append(converted(y, target, self.chip))
            values[step.result] = target
            registers.release(index)
        size = aligned_bytes(x.dims, self.kind.itemsize, self.chip)
        return [Buffer(f"r{k}", size) for k in range(registers.count)], actions

    def _instruction(self, step: Step, result: Local, values: Mapping[str, Operand]) -> Action:
        chip = self.chip

        def number(operand: str | float) -> Operand:
            return values[operand] if isinstance(operand, str) else Constant.floating(operand, self.kind)

        def bits(operand: str | float) -> Operand:
            found = values[operand] if isinstance(operand, str) else Constant(int(operand), I32)
            return replace(found, dtype=I32)

        def tensor(operand: str | float) -> Local:
            assert isinstance(operand, str)
            found = values[operand]
            assert isinstance(found, Local)
            return found

        whole, first = replace(result, dtype=I32), step.operands[0]
        if step.operation in ARITHMETIC:
            left, right = map(number, step.operands)
            return tiu.arithmetic(ARITHMETIC[step.operation], result, left, right, chip)
        if step.operation in ON_BITS:
            left, right = map(bits, step.operands)
            return tiu.arithmetic(ON_BITS[step.operation], whole, left, right, chip)
        if step.operation == "shift_left_23":
            return tiu.arithmetic(ArithmeticOp.ARITHMETIC_SHIFT, whole, bits(first), EXPONENT_SHIFT, chip)
        if step.operation == "to_integer":
            return tiu.cast(whole, tensor(first), chip, RoundMode.HALF_EVEN)
        if step.operation == "to_float":
            return tiu.cast(result, replace(tensor(first), dtype=I32), chip, RoundMode.HALF_EVEN)
        assert step.operation == "horner", step.operation
        return tiu.taylor(result, tensor(first), self._table(step.coefficients), len(step.coefficients), chip)
