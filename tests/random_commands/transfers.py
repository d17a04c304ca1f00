"""Random GDMA commands."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from random_commands.case import (
    BF16,
    F16,
    F32,
    GLOBAL_WINDOW,
    I8,
    I16,
    I32,
    LANE_WINDOW,
    Arena,
    Bytes,
    Case,
    Dims,
    Rng,
    at,
    chance,
    family,
    pick,
    random_bits,
    rows_of,
)
from tpu_deploy.codegen.isa import Precision
from tpu_deploy.codegen.isa.addresses import DDR, GDMA_LOCAL, LANE_BYTES
from tpu_deploy.codegen.isa.operations import (
    DmaTensorOp,
)


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
