"""One random command, the memory it meets, and what random commands are made from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpu_deploy.codegen.isa import Engine, Precision
from tpu_deploy.codegen.isa.addresses import LANE_BYTES

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


def plain_constant(rng: Rng, precision: Precision) -> int:
    if precision.is_float:
        return float_bits(float(rng.choice([0.0, 1.0, -3e4, 1 / 9, 1.7])), precision)
    return random_bits(rng, precision)


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
