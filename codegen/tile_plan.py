"""A computation by itself: how its result is cut into tiles so that two of them fit local memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import costs, transfers
from tpu_deploy.codegen.items import load_key
from tpu_deploy.codegen.layout import round_up
from tpu_deploy.codegen.program import Action, Fill, LoadConstant, LoadOperand, Step, StoreResult, TileProgram, Variant
from tpu_deploy.codegen.tiles import Grid, Order, boxes, channel_tiles, spatial_tiles
from tpu_deploy.codegen.vectors import through_rows
from tpu_deploy.codegen.works import Compute
from tpu_deploy.errors import BadInput

ROOM = 0.94
"""The share of local memory that two tiles may take: buffers kept apart from each other take more than their sum."""
TILE_OVERHEAD = 100.0
"""What one more tile costs, in cycles: commands that are short and wait for each other."""
PATIENCE = 3
"""How many finer cuts in a row may be worse before the search for finer ones ends."""


@dataclass(frozen=True)
class TilePlan:
    """A cut of a computation by itself: the number of the variant, the grid, and what it takes by the estimate."""

    variant: int
    grid: Grid
    cycles: float


@dataclass(frozen=True)
class Tiles:
    """Programs of all tiles in order, and the keys of loads that stay from tile to tile."""

    programs: tuple[TileProgram, ...]
    held: frozenset[str]


def constant_row(load: LoadConstant, chip: Chip) -> int:
    """Bytes that loading a constant writes in each of its lanes."""
    rows, words = transfers.constant_shape(load.lanes, load.row_bytes, chip)
    return rows * words * 4


def grown(program: TileProgram, chip: Chip) -> TileProgram:
    """The program with buffers grown to what loading their constants writes."""
    needed: dict[str, int] = {}
    for action in program.actions:
        if isinstance(action, LoadConstant):
            needed[action.buffer] = max(constant_row(action, chip), needed.get(action.buffer, 0))
    buffers = tuple(replace(b, bytes=max(b.bytes, needed.get(b.name, 0))) for b in program.buffers)
    return replace(program, buffers=buffers)


def single_loads(program: TileProgram, work: Compute) -> dict[str, str]:
    """Buffers that one load alone fills and no step writes, with the key of what it brings."""
    loads: dict[str, list[Action]] = {}
    for action in program.actions:
        if not isinstance(action, Step | StoreResult):
            loads.setdefault(action.buffer, []).append(action)
    written = {w.buffer for a in program.actions if isinstance(a, Step) for w in a.writes}
    found = {}
    for buffer, actions in loads.items():
        if len(actions) != 1 or buffer in written:
            continue
        (action,) = actions
        if isinstance(action, LoadConstant):
            found[buffer] = action.key
        elif isinstance(action, LoadOperand):
            found[buffer] = load_key(work, action)
    return found


def fits_fields(program: TileProgram, chip: Chip) -> bool:
    """Whether all sizes can be written into instructions."""
    for action in program.actions:
        if isinstance(action, Step):
            if any(v > chip.max_size for k, v in action.fields.items() if k[-2:] in ("_n", "_c", "_h", "_w")):
                return False
        elif isinstance(action, LoadOperand | StoreResult) and action.box.dims[1] > chip.max_size:
            return False
    return True


def _cycles(action: Action, work: Compute, chip: Chip) -> int:
    """Cycles of the DMA engine for a transfer."""
    if isinstance(action, LoadConstant):
        return costs.constant_cycles(action, chip)
    if isinstance(action, LoadOperand | StoreResult):
        return costs.transfer_cycles(action, work, chip)
    return costs.fill_cycles(action, chip) if isinstance(action, Fill) else 0


def _cost(variant: Variant, grid: Grid, work: Compute, chip: Chip, share: float) -> float | None:
    """Cycles, from one tile in the middle and the next; None where such tiles do not fit."""
    tiles = boxes(variant.tiling, grid)
    at = max(range(len(tiles)), key=lambda k: (prod(tiles[k].dims), -abs(k - len(tiles) // 2)))
    program = grown(variant.tile(tiles[at]), chip)
    need = sum(round_up(b.bytes, chip.vector_bytes) for b in program.buffers)
    room = chip.lane_bytes * ROOM * share
    if need > room or not fits_fields(program, chip):
        return None
    kept: set[str] = set()
    if len(tiles) > 1:
        near = at + 1 if at + 1 < len(tiles) else at - 1
        own, other = single_loads(program, work), single_loads(variant.tile(tiles[near]), work)
        kept = {b for b, key in own.items() if other.get(b) == key}
    stay = sum(b.bytes for b in program.buffers if b.name in kept)
    doubled = len(tiles) == 1 or stay + 2 * (need - stay) <= room
    once, moved = 0, 0
    for action in program.actions:
        cycles = _cycles(action, work, chip)
        if getattr(action, "buffer", "") in kept:
            once += cycles
        else:
            moved += cycles
    computed = costs.steps_cycles(program, chip)
    steady = max(moved, computed) if doubled else moved + computed
    reloads = len(tiles) / _inner_count(variant, grid)
    return once * reloads + steady * len(tiles) + min(moved, computed) + TILE_OVERHEAD * len(tiles)


def _inner_count(variant: Variant, grid: Grid) -> int:
    """How many tiles follow each other in the inner loop."""
    counts = [-(-size // tile) for size, tile in zip(variant.tiling.dims, grid.tile, strict=True)]
    return counts[1] if grid.order == "channels_inside" else counts[0] * counts[2] * counts[3]


def _orders(channels: int, tile: int) -> tuple[Order, ...]:
    return ("channels_outside",) if tile >= channels else ("channels_outside", "channels_inside")


def _grids(variant: Variant, work: Compute, chip: Chip, share: float) -> Iterator[tuple[float, Grid]]:
    """Grids whose tiles fit, with their costs; ever finer ones until that stops paying."""
    for channels in channel_tiles(variant.tiling):
        best, worse = float("inf"), 0
        for n, h, w in spatial_tiles(variant.tiling):
            found = float("inf")
            for order in _orders(variant.tiling.dims[1], channels):
                grid = Grid((n, channels, h, w), order)
                cost = _cost(variant, grid, work, chip, share)
                if cost is not None:
                    found = min(found, cost)
                    yield cost, grid
            if found < best:
                best, worse = found, 0
            elif best < float("inf"):
                worse += 1
            if worse == PATIENCE:
                break


def _stored(program: TileProgram) -> set[str]:
    return {a.buffer for a in program.actions if isinstance(a, StoreResult)}


def plan_tiles(work: Compute, chip: Chip, share: float = 1.0) -> TilePlan:
    """The cheapest cut of all variants, fallbacks only where no other has one, in tiles of at most a share of local
    memory.

    Raises BadInput naming the tensor when not even the smallest tile fits local memory.
    """
    for are_fallbacks in (False, True):
        found = [
            TilePlan(number, grid, cycles)
            for number, variant in enumerate(work.variants)
            if variant.fallback == are_fallbacks
            for cycles, grid in _grids(variant, work, chip, share)
        ]
        if found:
            return min(found, key=lambda plan: plan.cycles)
    name, shape = work.view.result.name, work.view.result.shape
    raise BadInput(f"{name}: no tile of {work.view.kind} {shape} fits the chip's local memory; reduce its size")


def tiles_of(work: Compute, variant: Variant, grid: Grid, chip: Chip) -> Tiles:
    """The programs of a computation cut by a grid."""
    programs = tuple(
        through_rows(grown(variant.tile(box), chip), work, (), _stored(variant.tile(box)), chip)
        for box in boxes(variant.tiling, grid)
    )
    keys = [set(single_loads(p, work).values()) for p in programs]
    return Tiles(programs, frozenset(k for one, after in pairwise(keys) for k in one & after))
