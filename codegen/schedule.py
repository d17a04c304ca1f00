"""The plan of one work: how its result is cut, where buffers lie, and the commands in order.

A layer alone is a group of one: its tiles are computed one after another, in two halves of local memory by turns where
they fit, so that the transfers of one tile run while another is computed. Constants and operands that do not change from
tile to tile stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tpu_deploy.codegen import transfers
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.layout import aligned_strides, round_up
from tpu_deploy.codegen.local_memory import Interval, allocate, intervals
from tpu_deploy.codegen.program import (
    Access,
    Action,
    Buffer,
    Fill,
    LoadConstant,
    LoadOperand,
    Step,
    StoreResult,
    TileProgram,
    Variant,
)
from tpu_deploy.codegen.tiles import Grid, Order, boxes, channel_tiles, spatial_tiles
from tpu_deploy.codegen.views import Storage
from tpu_deploy.codegen.works import Compute, Copy, FillMemory, Work

from tpu_deploy.chips import Chip
from tpu_deploy.errors import BadInput

GlobalAddress = Callable[[str], Address]
"""Where a buffer of global memory starts."""

TILE_OVERHEAD = 300.0
"""What one more tile costs, in cycles: commands that are short and wait for each other. Estimated on the timing model."""
BYTES_PER_CYCLE = 50.0
"""A middling rate of the DMA engine, for comparing plans."""


@dataclass(frozen=True)
class ConstantSlot:
    """Where packed constants lie among the coefficients: offset, and the matrix (rows, words) that holds them."""

    offset: int
    lanes: int
    rows: int
    words: int


class CoefficientLayout:
    """Hands out places for constants; equal keys share one."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.size = 0
        self.slots: dict[str, ConstantSlot] = {}
        self.loads: dict[str, LoadConstant] = {}

    def slot(self, load: LoadConstant) -> ConstantSlot:
        """The place of a constant."""
        if load.key not in self.slots:
            rows, words = transfers.constant_shape(load.lanes, load.row_bytes, self.chip)
            self.slots[load.key] = ConstantSlot(self.size, load.lanes, rows, words)
            self.loads[load.key] = load
            self.size = round_up(self.size + rows * words * load.lanes * 4, 64)
        return self.slots[load.key]


@dataclass(frozen=True)
class Plan:
    """A chosen way to compute a work: programs of all tiles, which buffers stay, and where everything lies."""

    programs: tuple[TileProgram, ...]
    kept: frozenset[str]
    addresses: tuple[dict[str, int], ...]
    """Buffer offsets of each program."""
    is_double_buffered: bool
    """Whether tiles that follow each other use different memory."""
    peak: int
    cost: float


def _sized(program: TileProgram, chip: Chip) -> TileProgram:
    """The program with buffers grown to what loading their constants writes."""
    needed = {}
    for action in program.actions:
        if isinstance(action, LoadConstant):
            rows, words = transfers.constant_shape(action.lanes, action.row_bytes, chip)
            needed[action.buffer] = rows * words * 4
    buffers = tuple(replace(b, bytes=max(b.bytes, needed.get(b.name, 0))) for b in program.buffers)
    return replace(program, buffers=buffers)


def _identity(action: Action) -> object:
    """What a load brings; None for actions that are no loads or that other actions write over."""
    if isinstance(action, LoadConstant):
        return action.key
    if isinstance(action, LoadOperand) and action.into is None:
        return action
    return None


def _kept(first: TileProgram, second: TileProgram) -> frozenset[str]:
    """Buffers whose loads are the same in two tiles that follow each other and that no step writes."""
    brought = {a.buffer: _identity(a) for a in first.actions if _identity(a) is not None}
    again = {a.buffer: _identity(a) for a in second.actions if _identity(a) is not None}
    written = {w.buffer for a in first.actions if isinstance(a, Step) for w in a.writes}
    return frozenset(b for b, what in brought.items() if again.get(b) == what and b not in written)


def _bytes(action: Action, work: Compute, chip: Chip) -> int:
    """Bytes a transfer moves."""
    if isinstance(action, LoadConstant):
        rows, words = transfers.constant_shape(action.lanes, action.row_bytes, chip)
        return rows * words * action.lanes * 4
    if isinstance(action, LoadOperand | StoreResult):
        storage = work.result if isinstance(action, StoreResult) else work.operands[action.operand]
        assert storage is not None
        n, c, h, w = action.box.dims
        return n * c * h * w * storage.dtype.itemsize
    return 0


@dataclass(frozen=True)
class Places:
    """Buffer offsets of each program, whether neighbours are disjoint, and the peak."""

    addresses: tuple[dict[str, int], ...]
    is_double_buffered: bool
    peak: int


def _tops(programs: Sequence[list[Interval]], where: Sequence[dict[str, int] | None]) -> int:
    """The end of the highest buffer."""
    return max(
        (o[i.buffer.name] + i.buffer.bytes for p, o in zip(programs, where, strict=True) if o for i in p), default=0
    )


def _place(programs: Sequence[TileProgram], kept: frozenset[str], chip: Chip) -> Places | None:
    """Kept buffers lie lowest, above them the even tiles', above those the odd ones'; None if not even one tile fits.

    Where the odd tiles do not fit above the even ones, all tiles share the same memory.
    """
    alive = [intervals(p) for p in programs]
    lasting: dict[str, Interval] = {}
    for one in alive:
        for item in one:
            name = item.buffer.name
            if name in kept and (name not in lasting or item.buffer.bytes > lasting[name].buffer.bytes):
                lasting[name] = Interval(item.buffer, 0, 1 << 40)
    low = allocate(list(lasting.values()), chip, 0, chip.lane_bytes, {})
    if low is None:
        return None
    fixed = {n: (o, round_up(lasting[n].buffer.bytes, chip.vector_bytes)) for n, o in low.items()}
    floor = max((o + b for o, b in fixed.values()), default=0)
    passing = [[i for i in one if i.buffer.name not in kept] for one in alive]
    known: dict[tuple[object, ...], dict[str, int] | None] = {}

    def fit(items: list[Interval], start: int) -> dict[str, int] | None:
        key = (start, *items)
        if key not in known:
            known[key] = allocate(items, chip, start, chip.lane_bytes, fixed)
        return known[key]

    even = [fit(items, floor) for items in passing]
    if any(e is None for e in even):
        return None
    top = round_up(_tops(passing, even), chip.vector_bytes)
    odd = [fit(items, top) for items in passing[1::2]]
    if not odd or any(o is None for o in odd):
        return Places(tuple(e for e in even if e is not None), False, top)
    mixed = [odd[k // 2] if k % 2 else e for k, e in enumerate(even)]
    return Places(tuple(m for m in mixed if m is not None), True, _tops(passing, mixed))


def _plan_grid(variant: Variant, grid: Grid, work: Compute, chip: Chip) -> Plan | None:
    """The plan of one grid, None where its tiles do not fit local memory."""
    tiles = boxes(variant.tiling, grid)
    largest = max(range(len(tiles)), key=lambda k: (_volume(tiles[k].dims), -abs(k - len(tiles) // 2)))
    if _place([_sized(variant.tile(tiles[largest]), chip)], frozenset(), chip) is None:
        return None
    programs = [_sized(variant.tile(t), chip) for t in tiles]
    kept = _kept(programs[0], programs[1]) if len(programs) > 1 else frozenset()
    places = _place(programs, kept, chip)
    if places is None and kept:
        kept = frozenset()
        places = _place(programs, kept, chip)
    if places is None:
        return None
    moved = _traffic(programs, kept, work, chip)
    exposed = 1.0 / len(programs) if places.is_double_buffered else 1.0
    cost = moved / BYTES_PER_CYCLE * (1.0 + exposed) + TILE_OVERHEAD * len(programs)
    return Plan(tuple(programs), kept, places.addresses, places.is_double_buffered, places.peak, cost)


def _traffic(programs: Sequence[TileProgram], kept: frozenset[str], work: Compute, chip: Chip) -> int:
    """Bytes all tiles move, without the loads that a kept buffer saves."""
    moved = 0
    held: dict[str, object] = {}
    for program in programs:
        for action in program.actions:
            if isinstance(action, Step):
                continue
            what = _identity(action)
            if what is not None and action.buffer in kept:
                if held.get(action.buffer) == what:
                    continue
                held[action.buffer] = what
            moved += _bytes(action, work, chip)
    return moved


def _volume(dims: Iterable[int]) -> int:
    total = 1
    for k in dims:
        total *= k
    return total


def _orders(channels: int, tile: int) -> tuple[Order, ...]:
    return ("channels_outside",) if tile >= channels else ("channels_outside", "channels_inside")


def plan(work: Compute, chip: Chip) -> Plan:
    """The cheapest plan found among cuts and loop orders of the first variant that fits.

    Raises BadInput naming the tensor when not even the smallest tile fits local memory.
    """
    for variant in work.variants:
        best: Plan | None = None
        for channels in channel_tiles(variant.tiling):
            best = _finer(best, variant, channels, work, chip)
        if best is not None:
            return best
    name = work.view.result.name
    raise BadInput(
        f"{name}: no tile of {work.view.kind} {work.view.result.shape} fits the chip's local memory; reduce its size"
    )


def _finer(best: Plan | None, variant: Variant, channels: int, work: Compute, chip: Chip) -> Plan | None:
    """The better of `best` and the plans with channel tiles of a size, going finer until that stops paying."""
    worse = 0
    for n, h, w in spatial_tiles(variant.tiling):
        found = None
        for order in _orders(variant.tiling.dims[1], channels):
            made = _plan_grid(variant, Grid((n, channels, h, w), order), work, chip)
            if made is not None and (found is None or made.cost < found.cost):
                found = made
        if found is None:
            continue
        if best is None or found.cost < best.cost:
            best, worse = found, 0
        else:
            worse += 1
        if worse == 2:
            break
    return best


class Emission:
    """Turns plans into commands with addresses."""

    def __init__(self, chip: Chip, where: GlobalAddress) -> None:
        self.chip = chip
        self.where = where
        self.coefficients = CoefficientLayout(chip)
        self.commands: list[PlannedCommand] = []

    def add(self, work: Work, chosen: Plan | None) -> None:
        """Appends the commands of a work."""
        if isinstance(work, Copy):
            ends = ((self.where(s.buffer), s) for s in (work.source, work.target))
            source, target = ends
            self.commands += transfers.copy_global(source, target, self.chip, work.name)
        elif isinstance(work, FillMemory):
            target = (self.where(work.target.buffer), work.target)
            self.commands += transfers.fill_global(target, work.value, self.chip, work.name)
        else:
            assert chosen is not None
            self._tiles(work, chosen)

    def _tiles(self, work: Compute, chosen: Plan) -> None:
        """Loads of the next tile stand before the rest of this one where both have memory of their own."""
        heads, tails = [], []
        held: dict[str, object] = {}
        for index, program in enumerate(chosen.programs):
            where = chosen.addresses[index]
            actions = []
            for action in program.actions:
                what = _identity(action)
                buffer = getattr(action, "buffer", "")
                if what is not None and buffer in chosen.kept:
                    if held.get(buffer) == what:
                        continue
                    held[buffer] = what
                actions.append(action)
            cut = next((k for k, a in enumerate(actions) if isinstance(a, Step | StoreResult)), len(actions))
            heads.append(self._commands(work, program, actions[:cut], where))
            tails.append(self._commands(work, program, actions[cut:], where))
        changes = self._reloads(chosen)
        for index, tail in enumerate(tails):
            if index == 0 or not chosen.is_double_buffered or index in changes:
                self.commands += heads[index]
            if index + 1 < len(tails) and chosen.is_double_buffered and index + 1 not in changes:
                self.commands += heads[index + 1]
            self.commands += tail

    def _reloads(self, chosen: Plan) -> set[int]:
        """Tiles that bring something new into a kept buffer: their loads must wait for the tile before."""
        found: set[int] = set()
        held: dict[str, object] = {}
        for index, program in enumerate(chosen.programs):
            for action in program.actions:
                what, buffer = _identity(action), getattr(action, "buffer", "")
                if what is None or buffer not in chosen.kept:
                    continue
                if held.get(buffer, what) != what:
                    found.add(index)
                held[buffer] = what
        return found

    def _commands(
        self, work: Compute, program: TileProgram, actions: list[Action], where: dict[str, int]
    ) -> list[PlannedCommand]:
        made: list[PlannedCommand] = []
        buffers = {b.name: b for b in program.buffers}
        for action in actions:
            match action:
                case Step():
                    made.append(_step(action, buffers, where, work.view.result.name))
                case LoadOperand():
                    storage = work.operands[action.operand]
                    assert storage is not None
                    made += self._transfer(action, storage, where, work.view.result.name)
                case StoreResult():
                    made += self._transfer(action, work.result, where, work.view.result.name)
                case LoadConstant():
                    slot = self.coefficients.slot(action)
                    source = Address(Space.COEFFICIENTS, slot.offset)
                    made.append(
                        transfers.load_matrix(
                            source, slot.lanes, slot.rows, slot.words, where[action.buffer], work.view.result.name
                        )
                    )
                case Fill():
                    strides = aligned_strides(action.dims, action.itemsize, self.chip)
                    offset = where[action.buffer]
                    span = LocalRange(offset, offset + buffers[action.buffer].bytes)
                    made.append(
                        transfers.fill_local(
                            action.dims, strides, action.itemsize, action.value, offset, span, work.view.result.name
                        )
                    )
        return made

    def _transfer(
        self, action: LoadOperand | StoreResult, storage: Storage, where: dict[str, int], origin: str
    ) -> list[PlannedCommand]:
        seen = storage.seen_as(action.shape)
        assert seen is not None
        found = seen.as_nchw(action.axes)
        assert found is not None
        _, strides = found
        itemsize = storage.dtype.itemsize
        first = seen.offset + sum(a * s for a, s in zip(action.box.start, strides, strict=True))
        base = self.where(storage.buffer)
        dims = action.box.dims
        offset = where[action.buffer]
        outer = dims
        begin = offset
        if isinstance(action, LoadOperand) and action.into is not None:
            outer, (_, _, row, column) = action.into
            begin += (row * outer[3] + column) * itemsize
        local_strides = aligned_strides(outer, itemsize, self.chip)
        span = LocalRange(offset, offset + outer[0] * local_strides[0] * itemsize)
        return transfers.between_global_and_local(
            (Address(base.space, base.offset + first * itemsize), itemsize),
            dims,
            strides,
            begin,
            local_strides,
            self.chip,
            load=isinstance(action, LoadOperand),
            span=span,
            origin=origin,
        )


def _step(step: Step, buffers: dict[str, Buffer], where: dict[str, int], origin: str) -> PlannedCommand:
    def span(access: Access) -> LocalRange:
        offset = where[access.buffer]
        stop = buffers[access.buffer].bytes if access.stop is None else access.stop
        return LocalRange(offset + access.start, offset + stop)

    addresses = {name: Address(Space.LOCAL, where[ref.buffer] + ref.offset) for name, ref in step.addresses.items()}
    reads, writes = (tuple(span(a) for a in part) for part in (step.reads, step.writes))
    return PlannedCommand(step.instruction, "TIU", step.fields, addresses, reads, writes, origin)
