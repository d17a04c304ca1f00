"""Random single commands for tests: every supported instruction and mode, legal, with odd shapes, lanes and strides."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpu_deploy.codegen.isa import Engine, Precision
from tpu_deploy.codegen.isa.addresses import DDR, GDMA_LOCAL, LANE_BYTES, STATIC
from tpu_deploy.codegen.isa.operations import (
    ArithmeticOp,
    CompareOp,
    ConvolutionOp,
    DmaTensorOp,
    LinearOp,
    Matrix2Op,
    MatrixOp,
    PoolOp,
    RequantOp,
    SearchGatherOp,
    SfuOp,
    TransposeOp,
)

Rng = np.random.Generator
Dims = tuple[int, int, int, int]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

LANE_WINDOW = 0x6000
BANKED_WINDOW = 0xC000
GLOBAL_WINDOW = 0x8000
I8, F16, F32, I16, I32, BF16 = (Precision(code) for code in range(6))
INTEGERS = (I8, I16, I32)
FLOATS = (F32, F16, BF16)


@dataclass
class Case:
    """One command and what is special about the memory it meets.

    All memory is noise: random bytes, or random floats of type `noise`. `rows` are then laid over the same offset of
    all lanes (64 rows of bytes); `window` is how many bytes of each lane matter.
    """

    name: str
    fields: dict[str, int]
    engine: Engine = "TIU"
    noise: Precision = I8
    rows: list[tuple[int, Bytes]] = field(default_factory=list)
    window: int = LANE_WINDOW


class Arena:
    """Hands out offsets in a lane (or in global memory), one after the other; `fits` tells whether they were enough."""

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0

    def take(self, size: int, alignment: int = 64) -> int:
        start = -(-self.used // alignment) * alignment
        self.used = start + size
        return start

    @property
    def fits(self) -> bool:
        return self.used <= self.size


def pick(rng: Rng, *options: int) -> int:
    return int(rng.choice(options))


def chance(rng: Rng, probability: float) -> int:
    return int(rng.random() < probability)


def rows_of(channels: int, lane: int) -> int:
    return -(-(channels + lane) // 64)


def aligned_bytes(dims: Dims, precision: Precision, lane: int) -> int:
    n, c, h, w = dims
    return n * rows_of(c, lane) * -(-h * w * precision.itemsize // 64) * 64


def at(lane: int, offset: int) -> int:
    return lane * LANE_BYTES + offset


def shape(prefix: str, dims: Dims) -> dict[str, int]:
    return {f"{prefix}_{axis}": size for axis, size in zip("nchw", dims, strict=True)}


def strides(prefix: str, steps: Dims) -> dict[str, int]:
    return {f"{prefix}_{axis}_str": step for axis, step in zip("nchw", steps, strict=True)}


def small_dims(rng: Rng) -> Dims:
    return pick(rng, 1, 2), pick(rng, 1, 3, 33, 64, 65, 130), int(rng.integers(1, 9)), int(rng.integers(1, 9))


def float_bits(value: float, precision: Precision) -> int:
    single = np.float32(value)
    if precision == F16:
        with np.errstate(over="ignore"):
            return int(np.float16(single).view(np.uint16))
    return int(single.view(np.uint32)) >> (16 if precision == BF16 else 0)


def random_bits(rng: Rng, precision: Precision) -> int:
    return int(rng.integers(2**32)) & ((1 << 8 * precision.itemsize) - 1)


FAMILIES: dict[str, Callable[[Rng], Case]] = {}


def family(function: Callable[[Rng], Case]) -> Callable[[Rng], Case]:
    assert function.__name__ not in FAMILIES
    FAMILIES[function.__name__] = function
    return function


def fitting(attempt: Callable[[], tuple[Case, Arena] | None]) -> Case:
    """The first attempt whose tensors fit into the window."""
    while True:
        made = attempt()
        if made is not None and made[1].fits:
            return made[0]


# --- windows ---


def window_fields(rng: Rng, insertions: tuple[int, ...] = (0, 0, 0, 1, 2)) -> tuple[dict[str, int], Dims] | None:
    """Geometry of a window with (h, w, oh, ow); None when it has no result."""
    fields, sizes = {}, []
    for axis, name, before, after in (("y", "h", "up", "dn"), ("x", "w", "lf", "rt")):
        kernel, size = pick(rng, 1, 1, 2, 3, 5), int(rng.integers(1, 12))
        stride, dilation, inserted = pick(rng, 1, 1, 2, 3), pick(rng, 0, 0, 1), pick(rng, *insertions)
        pads = [int(p) for p in rng.integers(0, 4, 2)]
        extent = (size - 1) * (inserted + 1) + 1 + sum(pads)
        sizes.append((size, (extent - (kernel - 1) * (dilation + 1) - 1) // stride + 1))
        fields |= {f"opd1_{name}": kernel, f"res_op_{axis}_str": stride, f"opd1_{axis}_ins0": dilation}
        fields |= {f"opd0_{axis}_ins0": inserted, f"opd0_{before}_pad": pads[0], f"opd0_{after}_pad": pads[1]}
    (h, oh), (w, ow) = sizes
    return (fields, (h, w, oh, ow)) if oh > 0 and ow > 0 else None


def _convolution(rng: Rng, requantizing: bool) -> Case:
    def attempt() -> tuple[Case, Arena] | None:
        geometry = window_fields(rng)
        if geometry is None:
            return None
        window, (h, w, oh, ow) = geometry
        n, ic, oc = pick(rng, 1, 2), pick(rng, 1, 2, 3, 17, 64, 65, 100, 130), pick(rng, 1, 5, 33, 64, 70, 130)
        lane, result = pick(rng, 0, 0, 5, 40), I8 if requantizing else Precision(pick(rng, I32, I32, I16, I8))
        arena, loose = Arena(LANE_WINDOW), chance(rng, 0.3)
        line = w + (pick(rng, 0, 1, 2) if loose else 0)
        channel = h * line + pick(rng, 0, 3) if loose else -(-h * w // 64) * 64
        image = rows_of(ic, 0) * channel
        x = arena.take(n * image + 64) + (pick(rng, 0, 17) if loose else 0)
        weight = arena.take(rows_of(oc, lane) * -(-ic // 64) * 64 * window["opd1_h"] * window["opd1_w"])
        y = arena.take(aligned_bytes((n, oc, oh, ow), result, lane))
        table = arena.take(2 * rows_of(oc, lane))
        fields = window | shape("res0", (n, oc, oh, ow)) | {"opd0_c": ic, "opd0_h": h, "opd0_w": w}
        fields |= {"res0_addr": at(lane, y), "opd0_addr": x, "res0_prec": result, "opd0_prec": I8}
        fields |= {f"opd{k}_sign": chance(rng, 0.5) for k in range(3)} | {"kernel_rotate": chance(rng, 0.3)}
        fields |= {"opd3_const": 1, "opd3_addr": random_bits(rng, I8)}
        fields |= {"opd1_const": 1, "opd1_addr": random_bits(rng, I8)} if chance(rng, 0.1) else {}
        fields |= {"opd1_addr": at(lane, weight)} if "opd1_const" not in fields else {}
        if chance(rng, 0.6):
            fields |= {"opd2_const": 1, "opd2_addr": random_bits(rng, I16 if requantizing else I8)}
        else:
            fields |= {"opd2_addr": at(lane, table)}
        if loose:
            fields |= {"opd0_str": 3} | strides("opd0", (image, channel, line, 1))
        if requantizing:
            fields |= {"tsk_eu_typ": pick(rng, ConvolutionOp.WRQ, ConvolutionOp.WRQ_RELU), "opd3_addr": pick(rng, 0, 9)}
            fields |= {f"opd0_{side}_pad": 0 for side in ("up", "dn", "lf", "rt")}
            fields["res0_h"], fields["res0_w"] = unpadded = [
                _outputs(fields, axis, name) for axis, name in ("yh", "xw")
            ]
            if min(unpadded) < 1:
                return None
        elif result == I32:
            fields["res_add"] = chance(rng, 0.3)
        return Case("sCONV", fields), arena

    return fitting(attempt)


def _outputs(fields: dict[str, int], axis: str, name: str) -> int:
    """How many windows the input has room for without padding."""
    extent = (fields[f"opd0_{name}"] - 1) * (fields[f"opd0_{axis}_ins0"] + 1) + 1
    reach = (fields[f"opd1_{name}"] - 1) * (fields[f"opd1_{axis}_ins0"] + 1) + 1
    return (extent - reach) // fields[f"res_op_{axis}_str"] + 1


@family
def convolution(rng: Rng) -> Case:
    return _convolution(rng, requantizing=False)


@family
def float_convolution(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena] | None:
        geometry = window_fields(rng)
        if geometry is None:
            return None
        window, (h, w, oh, ow) = geometry
        n, ic, oc, lane = pick(rng, 1, 2), pick(rng, 1, 3, 32, 40, 70), pick(rng, 1, 33, 70), pick(rng, 0, 0, 5, 40)
        precision, arena = Precision(pick(rng, *FLOATS)), Arena(LANE_WINDOW)
        result = Precision(pick(rng, precision, F32))
        packed = ic if precision == F32 else -(-ic // 32) * 32
        taps = window["opd1_h"] * window["opd1_w"]
        x, y = (
            arena.take(aligned_bytes((n, ic, h, w), precision, 0)),
            arena.take(aligned_bytes((n, oc, oh, ow), result, lane)),
        )
        weight = arena.take(rows_of(oc, lane) * packed * taps * precision.itemsize)
        bias = arena.take(4 * rows_of(oc, lane))
        fields = window | shape("res0", (n, oc, oh, ow)) | {"opd0_c": ic, "opd0_h": h, "opd0_w": w}
        fields |= {"res0_addr": at(lane, y), "opd0_addr": x, "res0_prec": result, "opd0_prec": precision}
        fields |= {"opd1_addr": at(lane, weight), "opd2_addr": at(lane, bias), "kernel_rotate": chance(rng, 0.3)}
        fields |= {"opd3_const": 1, "opd3_addr": _constant(rng, precision)}
        fields |= {"opd1_const": 1, "opd1_addr": _constant(rng, precision)} if chance(rng, 0.1) else {}
        fields |= {"opd2_const": 1, "opd2_addr": _constant(rng, F32)} if chance(rng, 0.5) else {}
        fields |= {"res_add": chance(rng, 0.3)} if result == F32 else {}
        return Case("sCONV", fields, noise=precision), arena

    return fitting(attempt)


@family
def requantizing_convolution(rng: Rng) -> Case:
    return _convolution(rng, requantizing=True)


def _pool(rng: Rng, operation: PoolOp, precision: Precision) -> Case:
    def attempt() -> tuple[Case, Arena] | None:
        geometry = window_fields(rng, (0,) if operation == PoolOp.MAX else (0, 0, 0, 1, 2))
        if geometry is None:
            return None
        window, (h, w, oh, ow) = geometry
        n, c, lane = pick(rng, 1, 2), pick(rng, 1, 3, 33, 64, 65, 130), pick(rng, 0, 0, 5, 40)
        widens = precision == I8 and operation != PoolOp.MAX
        result = Precision(pick(rng, I32, I16, I8)) if widens else precision
        arena = Arena(LANE_WINDOW)
        taps = window["opd1_h"] * window["opd1_w"]
        x, y = (arena.take(aligned_bytes(d, p, lane)) for d, p in (((n, c, h, w), precision), ((n, c, oh, ow), result)))
        weight = arena.take(rows_of(c, lane) * taps * precision.itemsize, 4)
        bias = arena.take(rows_of(c, lane) * 4, 4)
        fields = window | shape("res0", (n, c, oh, ow)) | {"opd0_h": h, "opd0_w": w, "tsk_eu_typ": operation}
        fields |= {"res0_addr": at(lane, y), "opd0_addr": at(lane, x), "res0_prec": result, "opd0_prec": precision}
        fields |= {f"opd{k}_sign": chance(rng, 0.5) for k in range(3)} | {"opd2_n_str": int(rng.integers(7))}
        fields |= {"opd3_const": 1, "opd3_addr": _constant(rng, precision)}
        if operation == PoolOp.AVERAGE:
            fields |= {"opd1_const": 1, "opd1_addr": _constant(rng, precision)}
            fields |= {"opd2_const": 1, "opd2_addr": pick(rng, 0, 5, 12) if precision == I8 else 0}
        elif operation != PoolOp.MAX:
            fields |= {"opd1_addr": at(lane, weight), "opd2_addr": at(lane, bias), "kernel_rotate": chance(rng, 0.3)}
            fields |= {"opd1_const": 1, "opd1_addr": _constant(rng, precision)} if chance(rng, 0.15) else {}
            wide = I32 if precision == I8 else precision
            fields |= {"opd2_const": 1, "opd2_addr": _constant(rng, wide)} if chance(rng, 0.4) else {}
            fields |= {"res1_addr": int(rng.integers(24)) << 8} if widens and chance(rng, 0.6) else {}
        return Case("sPorD", fields, noise=precision), arena

    return fitting(attempt)


def _constant(rng: Rng, precision: Precision) -> int:
    if precision.is_float:
        return float_bits(float(rng.choice([0.0, 1.0, -3e4, 1 / 9, 1.7])), precision)
    return random_bits(rng, precision)


@family
def depthwise_convolution(rng: Rng) -> Case:
    return _pool(rng, PoolOp(pick(rng, PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU)), I8)


@family
def pooling(rng: Rng) -> Case:
    return _pool(rng, PoolOp(pick(rng, PoolOp.MAX, PoolOp.AVERAGE)), I8)


@family
def float_pooling(rng: Rng) -> Case:
    operations = (PoolOp.MAX, PoolOp.AVERAGE, PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU)
    return _pool(rng, PoolOp(pick(rng, *operations)), Precision(pick(rng, *FLOATS)))


# --- element-wise ---


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


# --- requantization ---


def _scaling(
    rng: Rng,
    operation: RequantOp,
    x: Precision,
    y: Precision,
    columns: list[Any],
    packed: Callable[..., dict[str, int]],
) -> Case:
    """`columns` make 32-bit words of a table, `packed` the fields of a constant from one word each."""

    def attempt() -> tuple[Case, Arena]:
        dims, lane, arena = small_dims(rng), pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW)
        fields = shape("res0", dims) | {"tsk_eu_typ": operation, "opd0_prec": x, "res0_prec": y}
        fields |= {"opd0_addr": at(lane, arena.take(aligned_bytes(dims, x, lane)))}
        fields |= {"res0_addr": at(lane, arena.take(aligned_bytes(dims, y, lane)))}
        fields |= {"opd0_sign": 1 if x == I32 else chance(rng, 0.5), "opd2_sign": chance(rng, 0.5)}
        words = [np.ascontiguousarray(column(64)).view(np.uint32) for column in columns]
        if chance(rng, 0.4):
            return Case("sRQ_sDQ", fields | packed(*(int(word[0]) for word in words)) | {"opd1_const": 1}), arena
        offset = arena.take(64 * rows_of(dims[1], lane))
        slot = np.stack(words, axis=1).view(np.uint8)
        rows = [(offset + 64 * row, slot) for row in range(rows_of(dims[1], lane))]
        return Case("sRQ_sDQ", fields | {"opd1_addr": at(lane, offset)}, rows=rows), arena

    return fitting(attempt)


@family
def requantization(rng: Rng) -> Case:
    wide = rng.random() < 0.5
    limit = 2**31 if wide else 1000
    columns = [
        lambda count: rng.integers(-limit, limit, count).astype(np.int32),
        lambda count: -(rng.integers(20, 63, count) if wide else rng.integers(-3, 30, count)).astype(np.int32),
        lambda count: rng.integers(-40000, 40000, count).astype(np.int32),
    ]
    case = _scaling(
        rng,
        RequantOp.RQ_INT,
        Precision(pick(rng, I32, I32, I16)),
        Precision(pick(rng, I8, I16)),
        columns,
        lambda multiplier, shift, zero: {"opd1_addr": multiplier, "opd2_addr": shift & 0xFF | (zero & 0xFFFF) << 16},
    )
    case.fields["opd2_n_str"] = int(rng.integers(7))
    return case


@family
def requantization_by_floats(rng: Rng) -> Case:
    columns = [
        lambda count: (10.0 ** rng.uniform(-8, -2, count)).astype(np.float32),
        lambda count: (rng.integers(-4000, 4000, count) / 8).astype(np.float32),
    ]
    types = Precision(pick(rng, I32, I16)), Precision(pick(rng, I8, I16))
    case = _scaling(rng, RequantOp.RQ_FLOAT, *types, columns, lambda s, z: {"opd1_addr": s, "opd2_addr": z})
    case.fields["opd2_n_str"] = int(rng.integers(5)) << 3
    return case


@family
def dequantization(rng: Rng) -> Case:
    columns = [
        lambda count: rng.integers(-40000, 40000, count).astype(np.int32),
        lambda count: (10.0 ** rng.uniform(-6, 3, count)).astype(np.float32),
    ]
    x = Precision(pick(rng, I8, I16))
    return _scaling(rng, RequantOp.DQ_FLOAT, x, F32, columns, lambda z, s: {"opd1_addr": z, "opd2_addr": s})


# --- matrices, lanes, tables, functions ---


def _matrix_of_rows(rng: Rng, precision: Precision, result: Precision) -> Case:
    def attempt() -> tuple[Case, Arena]:
        m, k, n = (pick(rng, 1, 3, 17, 64, 65, 100) for _ in range(3))
        operation, arena = Matrix2Op(pick(rng, *Matrix2Op)), Arena(LANE_WINDOW)
        shapes = {
            Matrix2Op.NN: ((m, k), (k, n), (m, n)),
            Matrix2Op.NT: ((m, k), (n, k), (m, n)),
            Matrix2Op.TT: ((k, m), (n, k), (n, m)),
        }
        left, right, product = shapes[operation]
        places = [
            arena.take(aligned_bytes((1, rows, 1, columns), elements, 0))
            for (rows, columns), elements in ((left, precision), (right, precision), (product, result))
        ]
        fields = dict(zip(("opd0_addr", "opd1_addr", "res0_addr"), places, strict=True))
        fields |= {"tsk_eu_typ": operation, "opd0_prec": precision, "res0_prec": result, "opd2_const": 1}
        fields |= {"res0_c": product[0], "res0_w": product[1], "opd1_c": right[0], "opd1_w": right[1]}
        fields |= {"opd0_sign": chance(rng, 0.5), "opd1_sign": chance(rng, 0.5)}
        fields |= {"opd2_addr": pick(rng, 0, 3, 200)} if precision == I8 else {}
        fields |= {"res_add": chance(rng, 0.3)} if result in (I32, F32) else {}
        return Case("sMM2", fields, noise=precision), arena

    return fitting(attempt)


@family
def matrix_of_rows(rng: Rng) -> Case:
    return _matrix_of_rows(rng, I8, I32)


@family
def float_matrix_of_rows(rng: Rng) -> Case:
    precision = Precision(pick(rng, F16, BF16))
    return _matrix_of_rows(rng, precision, Precision(pick(rng, precision, F32)))


def _matrix(rng: Rng, precision: Precision, result: Precision) -> Case:
    def attempt() -> tuple[Case, Arena]:
        m, k, n = int(rng.integers(1, 9)), pick(rng, 1, 7, 50, 128), pick(rng, 1, 9, 60, 130)
        transposed, lane, arena = chance(rng, 0.3), pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW)
        rows, columns = (k, m) if transposed else (m, k)
        width, result_width = pick(rng, 1, 4, 16, 64, 128), pick(rng, 1, 4, 16, 64, 128)
        lanes, result_lanes = -(-columns // width), -(-n // result_width)
        left = arena.take(aligned_bytes((rows, lanes, 1, width), precision, 0))
        right = arena.take(aligned_bytes((k, result_lanes, 1, result_width), precision, lane))
        y = arena.take(aligned_bytes((m, result_lanes, 1, result_width), result, lane))
        fields = {"tsk_eu_typ": MatrixOp.NORMAL, "opd0_prec": precision, "res0_prec": result, "left_tran": transposed}
        fields |= {"opd0_n": rows, "opd0_c": lanes, "opd0_w": width, "opd1_w": columns - (lanes - 1) * width}
        fields |= {"res0_c": result_lanes, "res0_w": result_width, "opd0_addr": left, "opd1_addr": at(lane, right)}
        fields |= {"res0_addr": at(lane, y), "opd0_sign": chance(rng, 0.5), "opd1_sign": chance(rng, 0.5)}
        if precision == F32:
            fields |= {"res_add": chance(rng, 0.3), "opd2_const": 1, "opd2_addr": _constant(rng, F32)}
        return Case("sMM", fields, noise=precision), arena

    return fitting(attempt)


@family
def matrix(rng: Rng) -> Case:
    return _matrix(rng, I8, I32)


@family
def float_matrix(rng: Rng) -> Case:
    return _matrix(rng, F32, F32)


@family
def lane_movement(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        n, h, precision = pick(rng, 1, 2), int(rng.integers(1, 4)), Precision(pick(rng, I8, I16, F32))
        c, w = (pick(rng, 1, 3, 20, 64, 65) for _ in range(2))
        operation, arena = TransposeOp(int(rng.integers(4))), Arena(LANE_WINDOW)
        start, end = pick(rng, 0, 0, 7), pick(rng, 0, 0, 5, 40)
        x, y = (n, c, h, w), (n, c, h, w)
        if operation in (TransposeOp.CW, TransposeOp.WC):
            y = (n, w, h, c)
            start, end = (0, end) if operation == TransposeOp.CW else (start, 0)
        elif operation == TransposeOp.LANE_BROADCAST:
            x, y = (n, 1, h, w), (n, min(c, 64 - end), h, w)
        source = arena.take(aligned_bytes(x, precision, start))
        lines = (n * h, *y[1:2], 1, y[3]) if operation == TransposeOp.CW else y
        result = arena.take(aligned_bytes(lines, precision, end))
        fields = shape("res0", y) | {"tsk_eu_typ": operation, "res0_prec": precision, "opd0_c": x[1], "opd0_w": x[3]}
        return Case("sTRANS_sBC", fields | {"res0_addr": at(end, result), "opd0_addr": at(start, source)}), arena

    return fitting(attempt)


@family
def static_memory(rng: Rng) -> Case:
    operation = pick(rng, TransposeOp.STATIC_BROADCAST, TransposeOp.STATIC_DISTRIBUTE)
    c, w = pick(rng, 1, 9, 64), int(rng.integers(1, 17)) if operation == TransposeOp.STATIC_BROADCAST else 1
    fields = shape("res0", (1, c, 1, w)) | {"tsk_eu_typ": operation, "res0_prec": I32, "opd0_c": c, "opd0_w": w}
    return Case("sTRANS_sBC", fields | {"res0_addr": 0x40, "opd0_addr": STATIC + 0x5C0})


@family
def table_look_up(rng: Rng) -> Case:
    """Table, indices and result in banks of their own."""
    while True:
        n, c, _, _ = small_dims(rng)
        w, entries, lane = int(rng.integers(1, 60)), pick(rng, 1, 5, 40, 256), pick(rng, 0, 0, 5)
        value, index, shared = Precision(pick(rng, I8, I16, F32)), Precision(pick(rng, I8, I16)), chance(rng, 0.5)
        if not (shared and lane and c > 64 - lane):
            break
    fields = shape("res0", (n, c, 1, w)) | {"tsk_eu_typ": SearchGatherOp.PE_GATHER, "opd0_str": 3 * shared}
    fields |= {"res0_prec": value, "opd0_prec": value, "opd1_prec": index, "opd0_h": 1, "opd0_w": entries}
    fields |= {"opd1_c": c, "opd1_w": w, "opd0_addr": at(lane, 0), "opd1_addr": at(lane, 0x4000)}
    length = aligned_bytes((n, c, 1, w), index, lane) // index.itemsize
    indices = rng.integers(0, entries, (64, length)).astype(f"u{index.itemsize}").view(np.uint8)
    return Case("sSG", fields | {"res0_addr": at(lane, 0x8000)}, rows=[(0x4000, indices)], window=BANKED_WINDOW)


@family
def scattering(rng: Rng) -> Case:
    c, w = pick(rng, 1, 3, 33, 64, 65), int(rng.integers(1, 40))
    value, index, given = Precision(pick(rng, I8, I16, F32)), Precision(pick(rng, I8, I16)), pick(rng, 1, min(5, w), w)
    arena = Arena(LANE_WINDOW)
    source, indices = (arena.take(aligned_bytes((1, c, 1, given), p, 0)) for p in (value, index))
    y = arena.take(aligned_bytes((1, c, 1, w), value, 0))
    fields = shape("res0", (1, c, 1, w)) | {"tsk_eu_typ": SearchGatherOp.PE_SCATTER_HZD, "opd0_h": 1, "opd0_w": given}
    fields |= {"res0_prec": value, "opd0_prec": value, "opd1_prec": index, "opd1_c": c, "opd1_w": given}
    length = aligned_bytes((1, c, 1, given), index, 0) // index.itemsize
    chosen = rng.integers(0, w, (64, length)).astype(f"u{index.itemsize}").view(np.uint8)
    fields |= {"res0_addr": y, "opd0_addr": source, "opd1_addr": indices}
    return Case("sSG", fields, rows=[(indices, chosen)])


@family
def comparison(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        operation, dims, lane = CompareOp(pick(rng, *CompareOp)), small_dims(rng), pick(rng, 0, 0, 5)
        compared, arena = Precision(pick(rng, *INTEGERS)), Arena(LANE_WINDOW)
        both = operation in (CompareOp.MAX_AND_SELECT, CompareOp.MIN_AND_SELECT)
        selected = compared if both else Precision(pick(rng, *INTEGERS))
        fields = shape("res0", dims) | {"tsk_eu_typ": operation, "opd0_prec": compared, "opd2_prec": selected}
        for index, precision in enumerate((compared, compared, selected, selected)):
            if chance(rng, 0.2):
                fields |= {f"opd{index}_const": 1, f"opd{index}_addr": random_bits(rng, precision)}
            else:
                fields |= {f"opd{index}_addr": at(lane, arena.take(aligned_bytes(dims, precision, lane)))}
        for result in ("res0", "res1"):
            fields |= {f"{result}_addr": at(lane, arena.take(aligned_bytes(dims, selected, lane)))}
        return Case("sCMP", fields | {"opd0_sign": chance(rng, 0.5)}), arena

    return fitting(attempt)


@family
def polynomials(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        dims, terms, arena = small_dims(rng), int(rng.integers(2, 12)), Arena(LANE_WINDOW)
        lane = pick(rng, 0, 5, 40)
        lane = lane if dims[1] <= 64 - lane else 0
        x, y = (arena.take(aligned_bytes(dims, F32, lane)) for _ in range(2))
        fields = shape("res0", dims) | {"tsk_eu_typ": pick(rng, SfuOp.TAYLOR, SfuOp.TAYLOR_4X), "opd1_n": terms}
        fields |= {"res0_prec": F32, "opd0_prec": F32, "opd1_addr": at(lane, arena.take(4 * terms))}
        return Case("sSFU", fields | {"res0_addr": at(lane, y), "opd0_addr": at(lane, x)}, noise=F32), arena

    return fitting(attempt)


@family
def roots(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        dims, lane, arena = small_dims(rng), pick(rng, 0, 5, 40), Arena(LANE_WINDOW)
        size = aligned_bytes(dims, F32, lane)
        x, y = arena.take(size), arena.take(size)
        fields = shape("res0", dims) | {"tsk_eu_typ": SfuOp.RSQRT, "opd2_n_str": int(rng.integers(4))}
        fields |= {"res0_prec": F32, "opd0_prec": F32, "res0_addr": at(lane, y), "opd0_addr": at(lane, x)}
        positive = (10.0 ** rng.uniform(-37, 38, (64, size // 4))).astype(np.float32).view(np.uint8)
        return Case("sSFU", fields, rows=[(x, positive)]), arena

    return fitting(attempt)


@family
def linear_steps(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        dims, lane, arena = small_dims(rng), pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW)
        x, y = (arena.take(aligned_bytes(dims, F32, lane)) for _ in range(2))
        fields = shape("res0", dims) | {"tsk_eu_typ": pick(rng, *LinearOp), "res0_prec": F32}
        for index in (1, 2):
            fields |= {f"opd{index}_addr": at(lane, arena.take(4 * rows_of(dims[1], lane), 4))}
            if chance(rng, 0.2):
                fields |= {f"opd{index}_const": 1, f"opd{index}_addr": float_bits(rng.standard_normal(), F32)}
        return Case("sLIN", fields | {"res0_addr": at(lane, y), "opd0_addr": at(lane, x)}, noise=F32), arena

    return fitting(attempt)


# --- GDMA ---


@dataclass
class Sides:
    """Source and destination of a GDMA command under construction, in local or global memory."""

    rng: Rng
    lanes: Arena = field(default_factory=lambda: Arena(LANE_WINDOW))
    dram: Arena = field(default_factory=lambda: Arena(GLOBAL_WINDOW))

    @property
    def fits(self) -> bool:
        return self.lanes.fits and self.dram.fits

    def tensor(
        self, side: str, dims: Dims, size: int, local: int, given: int, plain_width: bool = False
    ) -> dict[str, int]:
        """Address, sizes and strides of one side; loose strides when the command gives any."""
        n, c, h, w = dims
        lane = pick(self.rng, 0, 0, 5, 40, 63) if local else 0
        rows = rows_of(c, lane) if local else c
        step = 1 if plain_width or not given else pick(self.rng, 1, 1, 2)
        slack = [int(s) for s in self.rng.integers(0, 4, 3)] if given else [0, 0, 0]
        line = w * step + slack[0]
        channel = h * line + slack[1]
        if local and not given:
            channel = -(-channel * size // 64) * 64 // size
        image = rows * channel + slack[2]
        arena = self.lanes if local else self.dram
        offset = arena.take(n * image * size + 8, 64 if local and not given else size)
        steps = (image, channel, line, step)
        return (
            self.address(side, local, lane, offset)
            | {f"{side}_{axis}size": count for axis, count in zip("nchw", dims, strict=True)}
            | {f"{side}_{axis}stride": count for axis, count in zip("nchw", steps, strict=True)}
        )

    def address(self, side: str, local: int, lane: int, offset: int) -> dict[str, int]:
        address = GDMA_LOCAL + at(lane, offset) if local else DDR + offset
        return {f"{side}_start_addr_l32": address & 0xFFFF_FFFF, f"{side}_start_addr_h8": address >> 32}


MASK = {"localmem_mask_l32": 0xFFFF_FFFF, "localmem_mask_h32": 0xFFFF_FFFF}


def gdma(rng: Rng, attempt: Callable[[Sides], tuple[str, dict[str, int], list[tuple[int, Bytes]]]]) -> Case:
    while True:
        sides = Sides(rng)
        name, fields, rows = attempt(sides)
        if sides.fits:
            return Case(name, fields | MASK, "GDMA", rows=rows)


def _element(rng: Rng) -> tuple[dict[str, int], int]:
    precision = Precision(pick(rng, I8, F16, F32, I16, I32, BF16))
    return {"src_data_format": precision}, precision.itemsize


def _gdma_dims(rng: Rng) -> Dims:
    return pick(rng, 1, 2), pick(rng, 1, 3, 20, 64, 65, 70), int(rng.integers(1, 5)), int(rng.integers(1, 7))


@family
def tensor_transfer(rng: Rng) -> Case:
    """Copies between all memories, as they are or reshaped, n and c exchanged, and fills."""

    def attempt(sides: Sides) -> tuple[str, dict[str, int], list[tuple[int, Bytes]]]:
        (fields, size), dims, given = _element(rng), _gdma_dims(rng), chance(rng, 0.75)
        n, c, h, w = result = dims
        mode = pick(rng, 0, 0, 1, 2, 3)
        fields |= {"stride_enable": given, "nchw_copy": int(mode == 0)}
        if mode == 1:
            fields |= {"cmd_special_function": DmaTensorOp.TRANSPOSE}
            result = (c, n, h, w)
        elif mode == 2:
            result = (n, w, h, c)
        elif mode == 3:
            fields |= {"fill_constant_en": 1, "constant_value": random_bits(rng, I32)}
        plain = mode == 1
        fields |= sides.tensor("src", dims, size, chance(rng, 0.5), given, plain)
        return "DMA_tensor", fields | sides.tensor("dst", result, size, chance(rng, 0.5), given, plain), []

    return gdma(rng, attempt)


@family
def broadcast_transfer(rng: Rng) -> Case:
    def attempt(sides: Sides) -> tuple[str, dict[str, int], list[tuple[int, Bytes]]]:
        (fields, size), (n, _, h, w), given = _element(rng), _gdma_dims(rng), chance(rng, 0.75)
        lanes = int(rng.integers(1, 20))
        fields |= {"stride_enable": given, "cmd_special_function": DmaTensorOp.BROADCAST}
        fields |= sides.tensor("src", (n, 1, h, w), size, chance(rng, 0.5), given, True)
        target = sides.tensor("dst", (n, 1, h, w), size, 1, given, True) | {"dst_csize": lanes}
        offset = (target["dst_start_addr_l32"] - GDMA_LOCAL) % LANE_BYTES
        target |= sides.address("dst", 1, int(rng.integers(65 - lanes)), offset)
        return "DMA_tensor", fields | target, []

    return gdma(rng, attempt)


@family
def matrix_transfer(rng: Rng) -> Case:
    def attempt(sides: Sides) -> tuple[str, dict[str, int], list[tuple[int, Bytes]]]:
        (fields, size), given, transposed = _element(rng), chance(rng, 0.75), chance(rng, 0.5)
        rows, columns = int(rng.integers(1, 9)), pick(rng, 1, 5, 50, 150, 300)
        width, lane = pick(rng, 1, 3, 4, 16, 64, 150), pick(rng, 0, 5, 40)
        lanes, step = -(-columns // width), -(-width * size // 64) * 64 // size
        row = rows_of(lanes, lane) * step
        high, wide = (columns, rows) if transposed else (rows, columns)
        line = wide + pick(rng, 0, 3)
        dense, spread = ("src", "dst") if chance(rng, 0.5) else ("dst", "src")
        fields |= {"stride_enable": given, "cmd_special_function": transposed}
        fields |= {f"{dense}_hsize": high, f"{dense}_wsize": wide, f"{dense}_hstride": line}
        fields |= {f"{spread}_nsize": rows, f"{spread}_csize": lanes, f"{spread}_wsize": width}
        fields |= {f"{spread}_nstride": row, f"{spread}_cstride": step}
        fields |= sides.address(dense, 0, 0, sides.dram.take(high * line * size, size))
        return "DMA_matrix", fields | sides.address(spread, 1, lane, sides.lanes.take(rows * row * size)), []

    return gdma(rng, attempt)


@family
def linear_transfer(rng: Rng) -> Case:
    def attempt(sides: Sides) -> tuple[str, dict[str, int], list[tuple[int, Bytes]]]:
        (fields, size), count, broadcast = _element(rng), int(rng.integers(1, 500)), chance(rng, 0.5)
        lanes = int(rng.integers(1, 20))
        fields |= {"src_cstride": count, "cmd_special_function": broadcast, "dst_csize": lanes * broadcast}
        for side, local in (("src", chance(rng, 0.5)), ("dst", 1 if broadcast else chance(rng, 0.5))):
            offset = (sides.lanes if local else sides.dram).take(count * size, size)
            fields |= sides.address(side, local, int(rng.integers(65 - lanes)), offset)
        return "DMA_general", fields, []

    return gdma(rng, attempt)


@family
def transposing_transfer(rng: Rng) -> Case:
    def attempt(sides: Sides) -> tuple[str, dict[str, int], list[tuple[int, Bytes]]]:
        (fields, size), (n, c, h, w), given = _element(rng), _gdma_dims(rng), chance(rng, 0.75)
        fields |= {"stride_enable": given} | sides.tensor("src", (n, c, h, w), size, chance(rng, 0.5), given, True)
        return "DMA_cw_transpose", fields | sides.tensor("dst", (n, w, h, c), size, chance(rng, 0.5), given, True), []

    return gdma(rng, attempt)


@family
def indexed_transfer(rng: Rng) -> Case:
    """Rows gathered from, or scattered to, where indices in local memory say."""

    def attempt(sides: Sides) -> tuple[str, dict[str, int], list[tuple[int, Bytes]]]:
        (fields, size), c, rows, w = (
            _element(rng),
            pick(rng, 1, 3, 20, 64),
            int(rng.integers(1, 20)),
            int(rng.integers(1, 9)),
        )
        scatter, count = chance(rng, 0.5), int(rng.integers(1, rows + 1))
        heights = {"src": count, "dst": rows} if scatter else {"src": rows, "dst": count}
        fields |= {"stride_enable": 1}
        for side, height in heights.items():
            made = sides.tensor(side, (1, c, height, w), size, chance(rng, 0.5), 1, True)
            kept = ("addr_l32", "addr_h8", "_csize", "_hsize", "_wsize", "_cstride", "_hstride")
            fields |= {key: value for key, value in made.items() if key.endswith(kept)}
        offset = sides.lanes.take(4 * count)
        fields |= sides.address("index", 1, 0, offset)
        fields |= {"index_csize": c, "index_hsize": count, "index_cstride": count, "index_hstride": 1}
        chosen = np.stack([rng.permutation(rows)[:count] for _ in range(64)]).astype(np.uint32).view(np.uint8)
        return "DMA_scatter" if scatter else "DMA_gather", fields, [(offset, chosen)]

    return gdma(rng, attempt)


def memories(case: Case, rng: Rng) -> tuple[Bytes, Bytes]:
    """The (64, window) bytes of local and the bytes of global memory that a case starts from."""
    local = _noise(rng, case.noise, 64 * case.window).reshape(64, case.window)
    for offset, rows in case.rows:
        local[:, offset : offset + rows.shape[1]] = rows
    return local, _noise(rng, case.noise, GLOBAL_WINDOW)


def _noise(rng: Rng, precision: Precision, size: int) -> Bytes:
    if not precision.is_float:
        return rng.integers(0, 256, size, np.uint8)
    count = size // precision.itemsize
    values = (rng.standard_normal(count) * 10.0 ** rng.uniform(-2, 2, count)).astype(np.float32)
    values[: count // 4] = np.round(values[: count // 4] * 2) / 2
    if precision == BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return values.astype(np.float16 if precision == F16 else np.float32).view(np.uint8)
