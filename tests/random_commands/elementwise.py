"""Random AR commands: arithmetic, comparisons, casts."""

from dataclasses import dataclass

import numpy as np

from random_commands.case import (
    BF16,
    F16,
    F32,
    FLOATS,
    I8,
    I16,
    I32,
    INTEGERS,
    LANE_WINDOW,
    Arena,
    Case,
    Dims,
    Rng,
    aligned_bytes,
    at,
    chance,
    family,
    fitting,
    float_bits,
    pick,
    random_bits,
    rows_of,
    shape,
    small_dims,
    strides,
)
from tpu_deploy.codegen.isa import Precision
from tpu_deploy.codegen.isa.addresses import LANE_BYTES
from tpu_deploy.codegen.isa.operations import (
    ArithmeticOp,
)


@dataclass
class Elementwise:
    """An AR under construction."""

    rng: Rng
    dims: Dims
    lane: int
    arena: Arena
    fields: dict[str, int]

    def tensor(self, prefix: str, precision: Precision, repeats: bool = True) -> None:
        """An operand or result in the aligned layout or with free strides, now and then zero (a broadcast)."""
        n, c, h, w = self.dims
        self.fields |= {f"{prefix}_prec": precision}
        if not chance(self.rng, 0.35):
            self.fields |= {
                f"{prefix}_addr": at(self.lane, self.arena.take(aligned_bytes(self.dims, precision, self.lane)))
            }
            return
        line = w + pick(self.rng, 0, 1, 2)
        channel = h * line + pick(self.rng, 0, 1, 2)
        image = rows_of(c, self.lane) * channel
        steps = [0 if repeats and chance(self.rng, 0.3) else step for step in (image, channel, line, 1)]
        offset = self.arena.take(n * image * precision.itemsize, precision.itemsize)
        self.fields |= {f"{prefix}_str": 3, f"{prefix}_addr": at(self.lane, offset)}
        self.fields |= strides(prefix, (steps[0], steps[1], steps[2], steps[3]))

    def constant(self, prefix: str, precision: Precision, bits: int) -> None:
        self.fields |= {f"{prefix}_prec": precision, f"{prefix}_const": 1, f"{prefix}_addr": bits}


def elementwise(rng: Rng, operation: ArithmeticOp, operands: int) -> Elementwise:
    dims = small_dims(rng)
    fields = {"tsk_eu_typ": operation, "tsk_opd_num": operands, "opd2_n_str": int(rng.integers(7))} | shape(
        "res0", dims
    )
    return Elementwise(rng, dims, pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW), fields)


def _operands(made: Elementwise, precisions: tuple[Precision, ...], signs: tuple[int, ...]) -> None:
    """Tensors, or one constant among them."""
    constant = pick(made.rng, 0, 1, 2, 3)
    for index, (precision, sign) in enumerate(zip(precisions, signs, strict=True)):
        prefix = f"opd{index}"
        if index == constant and len(precisions) > 1:
            made.constant(prefix, precision, _any_constant(made.rng, precision))
        else:
            made.tensor(prefix, precision)
        made.fields[f"{prefix}_sign"] = sign


def _any_constant(rng: Rng, precision: Precision) -> int:
    if precision.is_float:
        return float_bits(float(rng.choice([0, 1, -1, 3.7, 1e-3, 1e20, -0.0, np.inf])), precision)
    return random_bits(rng, precision)


@family
def integer_arithmetic(rng: Rng) -> Case:
    """Products, sums and differences, with and without a rounding shift: a constant, or one a channel."""
    products = (ArithmeticOp.MUL, ArithmeticOp.MULS)
    sums = (ArithmeticOp.ADD, ArithmeticOp.SUB, ArithmeticOp.ADDS, ArithmeticOp.SUBS)
    operation = ArithmeticOp(pick(rng, *products, *sums))

    def attempt() -> tuple[Case, Arena]:
        made = elementwise(rng, operation, 2 + chance(rng, 0.5))
        first, second, result = (Precision(pick(rng, *INTEGERS)) for _ in range(3))
        if operation in products and first == I32:
            second = Precision(pick(rng, I8, I16))
        _operands(made, (first, second), (chance(rng, 0.5), chance(rng, 0.5)))
        made.tensor("res0", result, repeats=False)
        rows = []
        if made.fields["tsk_opd_num"] == 3:
            made.fields |= {"opd2_prec": I8, "opd2_sign": 1}
            if chance(rng, 0.7):
                made.constant("opd2", I8, pick(rng, *range(-14, 4)) & 0xFF)
            else:
                offset = made.arena.take(rows_of(made.dims[1], made.lane))
                made.fields["opd2_addr"] = at(made.lane, offset)
                rows = [(offset, rng.integers(-14, 4, (64, 4)).astype(np.int8).view(np.uint8))]
        return Case("sAR", made.fields, rows=rows), made.arena

    return fitting(attempt)


@family
def integer_extremes_and_bits(rng: Rng) -> Case:
    two = (ArithmeticOp.MAX, ArithmeticOp.MIN, ArithmeticOp.AND, ArithmeticOp.OR, ArithmeticOp.XOR)
    one = (ArithmeticOp.ABS, ArithmeticOp.COPY, ArithmeticOp.NOT)
    operation = ArithmeticOp(pick(rng, *two, *one))

    def attempt() -> tuple[Case, Arena]:
        precision, sign, count = Precision(pick(rng, *INTEGERS)), chance(rng, 0.5), 1 + (operation in two)
        made = elementwise(rng, operation, count)
        _operands(made, (precision,) * count, (sign,) * count)
        made.tensor("res0", precision, repeats=False)
        return Case("sAR", made.fields), made.arena

    return fitting(attempt)


@family
def selections(rng: Rng) -> Case:
    """(a compared with b) ? constant : 0, on integers and floats."""
    operation = pick(rng, ArithmeticOp.SELECT_GREATER, ArithmeticOp.SELECT_EQUAL, ArithmeticOp.SELECT_LESS)

    def attempt() -> tuple[Case, Arena]:
        compared = Precision(pick(rng, *INTEGERS, *FLOATS))
        narrower = [p for p in (I8, I16, I32) if p.itemsize <= compared.itemsize]
        result, sign = Precision(pick(rng, *narrower)), chance(rng, 0.5)
        made = elementwise(rng, ArithmeticOp(operation), 3)
        _operands(made, (compared, compared), (sign, sign))
        made.tensor("res0", result, repeats=False)
        made.constant("opd2", result, random_bits(rng, result))
        return Case("sAR", made.fields, noise=compared), made.arena

    return fitting(attempt)


@family
def arithmetic_shifts(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        made = elementwise(rng, ArithmeticOp.ARITHMETIC_SHIFT, 2)
        made.tensor("opd0", Precision(pick(rng, *INTEGERS)))
        made.fields |= {"opd0_sign": chance(rng, 0.5), "opd1_sign": 1}
        made.tensor("res0", Precision(pick(rng, *INTEGERS)), repeats=False)
        rows = []
        if chance(rng, 0.5):
            made.constant("opd1", I8, pick(rng, *range(-12, 13)) & 0xFF)
        else:
            made.tensor("opd1", I8)
            start = made.fields["opd1_addr"] % LANE_BYTES
            length = made.arena.used - start
            rows = [(start, rng.integers(-12, 13, (64, length)).astype(np.int8).view(np.uint8))]
        return Case("sAR", made.fields, rows=rows), made.arena

    return fitting(attempt)


@family
def float_arithmetic(rng: Rng) -> Case:
    two = (ArithmeticOp.MUL, ArithmeticOp.ADD, ArithmeticOp.SUB, ArithmeticOp.MAX, ArithmeticOp.MIN)
    operation = ArithmeticOp(pick(rng, *two, ArithmeticOp.ABS, ArithmeticOp.DIV, ArithmeticOp.COPY))

    def attempt() -> tuple[Case, Arena]:
        precision = F32 if operation == ArithmeticOp.DIV else Precision(pick(rng, *FLOATS))
        count = 1 if operation in (ArithmeticOp.ABS, ArithmeticOp.COPY) else 2
        made = elementwise(rng, operation, count)
        made.fields["opd2_n_str"] = int(rng.integers(4))
        _operands(made, (precision,) * count, (1,) * count)
        made.tensor("res0", precision, repeats=False)
        return Case("sAR", made.fields, noise=precision if chance(rng, 0.5) else I8), made.arena

    return fitting(attempt)


@family
def casts(rng: Rng) -> Case:
    """Between all element types but the two 16-bit floats; a float to itself is rounded to whole numbers."""
    pairs = [(a, b) for a in (*INTEGERS, *FLOATS) for b in (*INTEGERS, *FLOATS) if {a, b} != {F16, BF16}]

    def attempt() -> tuple[Case, Arena]:
        source, target = pairs[int(rng.integers(len(pairs)))]
        made = elementwise(rng, ArithmeticOp.CAST, 1)
        made.fields["opd2_n_str"] = int(rng.integers(5 if source.is_float and not target.is_float else 7))
        made.tensor("opd0", source)
        made.tensor("res0", target, repeats=False)
        made.fields |= {"opd0_sign": chance(rng, 0.5), "opd2_sign": chance(rng, 0.5)}
        return Case("sAR", made.fields, noise=source if chance(rng, 0.7) else I8), made.arena

    return fitting(attempt)
