"""Items to commands: lays out local memory over time and puts every transfer where it runs ahead of its use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tpu_deploy.chips import Chip
from tpu_deploy.codegen import transfers
from tpu_deploy.codegen.coefficients import CoefficientLayout
from tpu_deploy.codegen.commands import Address, LocalRange, PlannedCommand, Space
from tpu_deploy.codegen.items import Item, Resident
from tpu_deploy.codegen.layout import aligned_strides
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
)
from tpu_deploy.codegen.schedule import Schedule
from tpu_deploy.codegen.tile_plan import single_loads
from tpu_deploy.codegen.timeline import Block, Timeline, pack
from tpu_deploy.codegen.views import Dims, Storage
from tpu_deploy.codegen.works import Copy, FillMemory
from tpu_deploy.ir.weights import Array


class NoRoom(Exception):
    """The buffers of an item find no room in local memory beside what else is alive."""

    def __init__(self, item: int) -> None:
        super().__init__(item)
        self.item = item


@dataclass
class Load:
    """A transfer into a block that may run ahead: the actions that fill it, for which item, from which resident."""

    item: int
    block: Block
    actions: list[Action]
    source: Block | None = None


@dataclass(frozen=True)
class PlacedItems:
    """Placed items: blocks by (item, buffer), loads by the slot they run in, what cuts of residents are cut from."""

    blocks: dict[tuple[int, str], Block]
    loads: list[list[Load]]
    sources: dict[tuple[int, str], Block]
    peak: int
    lower_bound: int


@dataclass
class Layout:
    """Blocks while they are collected from items."""

    items: Sequence[Item]
    chip: Chip
    linger: int
    """How many slots longer stored results stay, so that their transfer hides behind the next items."""
    blocks: dict[tuple[int, str], Block] = field(default_factory=dict)
    residents: dict[str, Block] = field(default_factory=dict)
    held: dict[tuple[int, str], Block] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    sources: dict[tuple[int, str], Block] = field(default_factory=dict)
    every: list[Block] = field(default_factory=list)

    def collect(self) -> None:
        """Makes the blocks of all items, alive for the slots they cannot do without."""
        for index, item in enumerate(self.items):
            if item.program is None:
                continue
            ahead = leading_loads(item.program)
            constant = {b for b, actions in ahead.items() if all(isinstance(a, LoadConstant) for a in actions)}
            shared = {b: k for b, k in single_loads(item.program, item.compute).items() if k in item.held}
            for buffer in sorted(item.program.buffers, key=lambda b: b.name not in constant):  # they wait for nothing
                self._buffer(index, item, buffer, ahead.get(buffer.name, []), shared.get(buffer.name))
            self._separate(index, item.program.buffers)

    def _new(self, index: int, buffer: Buffer) -> Block:
        block = Block(f"{index}:{buffer.name}", buffer.bytes, index, index)
        self.every.append(block)
        return block

    def _buffer(self, index: int, item: Item, buffer: Buffer, actions: list[Action], key: str | None) -> None:
        """`key` is what the buffer's content is called if it is shared with other items of the group."""
        name = buffer.name
        resident = item.inputs.get(name)
        if resident is not None and _is_whole(actions, resident):
            block = self.residents[resident.key]
            block.last = max(block.last, index)
            self.blocks[index, name] = block
            return
        if key is not None and (item.group, key) in self.held:
            block = self.held[item.group, key]
            block.last = max(block.last, index)
            self.blocks[index, name] = block
            return
        block = self._new(index, buffer)
        self.blocks[index, name] = block
        if key is not None:
            self.held[item.group, key] = block
        source = None
        if resident is not None:
            source = self.residents[resident.key]
            source.last = max(source.last, index)
            self.sources[index, name] = source
        if actions:
            self.loads.append(Load(index, block, actions, source))
        made = item.results.get(name)
        if made is not None:
            self.residents[made.key] = block
        if name in item.stored:
            block.last = max(block.last, min(index + self.linger, len(self.items) - 1))

    def _separate(self, index: int, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            own = self.blocks[index, buffer.name]
            for names, attribute in ((buffer.apart, "apart"), (buffer.away, "away")):
                for other in (self.blocks[index, n] for n in names):
                    if other is not own:
                        getattr(own, attribute).append(other)
                        getattr(other, attribute).append(own)


def leading_loads(program: TileProgram) -> dict[str, list[Action]]:
    """The transfers into each buffer that stand before the first step on that buffer: they may run ahead."""
    found: dict[str, list[Action]] = {}
    touched: set[str] = set()
    for action in program.actions:
        if isinstance(action, Step):
            touched |= {a.buffer for a in (*action.reads, *action.writes)}
        elif not isinstance(action, StoreResult) and action.buffer not in touched:
            found.setdefault(action.buffer, []).append(action)
    return found


def _is_whole(actions: Sequence[Action], resident: Resident) -> bool:
    """Whether a buffer is filled by taking a resident as it is."""
    if len(actions) != 1 or not isinstance(actions[0], LoadOperand):
        return False
    action = actions[0]
    return action.into is None and action.row_step == 1 and action.box == resident.box


def lay_out(items: Sequence[Item], schedule: Schedule, chip: Chip) -> PlacedItems:
    """Blocks and load slots of all items. Raises NoRoom naming the item that does not fit."""
    layout = Layout(items, chip, schedule.linger)
    layout.collect()
    timeline, failed = pack(layout.every, len(items), chip, min(schedule.height, chip.lane_bytes))
    if failed is not None:
        raise NoRoom(failed.first)
    slots = _advance(layout, timeline, schedule.lookahead)
    return PlacedItems(layout.blocks, slots, layout.sources, timeline.peak(), timeline.lower_bound())


def _written(items: Sequence[Item]) -> list[set[str]]:
    """The buffers of global memory each item writes."""
    found: list[set[str]] = []
    for item in items:
        if isinstance(item.work, Copy | FillMemory):
            found.append({item.work.target.buffer})
        else:
            found.append({item.work.result.buffer} if item.stored else set())
    return found


def _advance(layout: Layout, timeline: Timeline, lookahead: int) -> list[list[Load]]:
    """Gives every load the earliest slot that its bytes and what it brings allow, the nearest need first."""
    items = layout.items
    slots: list[list[Load]] = [[] for _ in items]
    last_write: dict[str, int] = {}
    written = _written(items)
    by_item: dict[int, list[Load]] = {}
    for load in layout.loads:
        by_item.setdefault(load.item, []).append(load)
    for index, item in enumerate(items):
        for load in by_item.get(index, []):
            ready = 0
            if load.source is not None:
                ready = max(ready, load.source.first + 1)
            for action in load.actions:
                if isinstance(action, LoadOperand) and load.source is None:
                    ready = max(ready, last_write.get(item.compute.storage(action).buffer, -1) + 1)
            timeline.advance(load.block, min(max(ready, load.block.first - lookahead), load.block.first))
            slots[load.block.first].append(load)
        for buffer in written[index]:
            last_write[buffer] = index
    return slots


@dataclass(frozen=True)
class LocalBlock:
    """Bytes [offset, offset + bytes) of every lane, in use from command `first` to command `last`, both included.

    `operation` is the value being computed, `buffer` what its emitter calls the block.
    """

    operation: str
    buffer: str
    offset: int
    bytes: int
    first: int
    last: int


class Writer:
    """Writes the commands of placed items."""

    def __init__(
        self,
        items: Sequence[Item],
        placed: PlacedItems,
        chip: Chip,
        offsets: Mapping[str, int],
        constants: Mapping[str, Array],
    ) -> None:
        self.items = items
        self.placed = placed
        self.chip = chip
        self.offsets = offsets
        self.constants = constants
        self.coefficients = CoefficientLayout(chip)
        self.commands: list[PlannedCommand] = []
        self.groups: list[int] = []
        """The layer group of each command."""
        self.touched: list[tuple[Block, ...]] = []
        """The blocks of local memory that each command touches."""

    def where(self, buffer: str) -> Address:
        """Where a buffer of global memory starts."""
        if buffer in self.constants:
            return Address(Space.COEFFICIENTS, self.coefficients.plain(buffer, self.constants[buffer]))
        return Address(Space.CONTEXT, self.offsets[buffer])

    def write(self) -> list[PlannedCommand]:
        """All commands in program order: in each slot first the loads that run there, then the item."""
        for index, item in enumerate(self.items):
            for load in self.placed.loads[index]:
                self._actions(load.item, load.actions)
            if isinstance(item.work, Copy):
                ends = ((self.where(s.buffer), s) for s in (item.work.source, item.work.target))
                source, target = ends
                self.commands += transfers.copy_global(source, target, self.chip, item.work.name)
            elif isinstance(item.work, FillMemory):
                place = (self.where(item.work.target.buffer), item.work.target)
                self.commands += transfers.fill_global(place, item.work.value, self.chip, item.work.name)
            else:
                assert item.program is not None
                ahead = {id(a) for actions in leading_loads(item.program).values() for a in actions}
                self._actions(index, [a for a in item.program.actions if id(a) not in ahead])
            self._note(item)
        return self.commands

    def local_blocks(self, order: Sequence[int]) -> list[LocalBlock]:
        """Every block of local memory that the commands touch when they run in an order, by its first one."""
        uses: dict[int, tuple[Block, list[int]]] = {}
        for place, index in enumerate(order):
            for block in self.touched[index]:
                uses.setdefault(id(block), (block, []))[1].append(place)
        found = []
        for block, places in uses.values():
            number, _, buffer = block.name.partition(":")
            origin = self.items[int(number)].compute.view.result.name
            found.append(LocalBlock(origin, buffer, block.offset, block.bytes, places[0], places[-1]))
        return sorted(found, key=lambda b: (b.first, b.offset))

    def _note(self, item: Item, blocks: tuple[Block, ...] = ()) -> None:
        """Commands written since the last note belong to an item's group and touch these blocks."""
        new = len(self.commands) - len(self.groups)
        self.groups += [item.group] * new
        self.touched += [blocks] * new

    def _touches(self, index: int, action: Action) -> tuple[Block, ...]:
        if isinstance(action, Step):
            return tuple(self._block(index, access.buffer) for access in (*action.reads, *action.writes))
        block = self._block(index, action.buffer)
        if isinstance(action, LoadOperand) and (index, action.buffer) in self.placed.sources:
            return block, self.placed.sources[index, action.buffer]
        return (block,)

    def _actions(self, index: int, actions: Sequence[Action]) -> None:
        item = self.items[index]
        origin = item.compute.view.result.name
        for action in actions:
            match action:
                case Step():
                    self.commands.append(self._step(index, action, origin))
                case LoadConstant():
                    slot = self.coefficients.slot(action, origin)
                    source = Address(Space.COEFFICIENTS, slot.offset)
                    offset = self._block(index, action.buffer).offset
                    self.commands.append(
                        transfers.load_matrix(source, slot.lanes, slot.rows, slot.words, offset, origin)
                    )
                case Fill():
                    self._fill(index, action, origin)
                case LoadOperand():
                    resident = item.inputs.get(action.buffer)
                    if resident is not None:
                        self._cut(index, action, resident, origin)
                    else:
                        self._transfer(index, action, item.compute.storage(action), origin)
                case StoreResult():
                    if action.buffer in item.stored:
                        self._transfer(index, action, item.compute.result, origin)
            self._note(item, self._touches(index, action))

    def _block(self, index: int, buffer: str) -> Block:
        return self.placed.blocks[index, buffer]

    def _span(self, index: int, buffer: str) -> LocalRange:
        block = self._block(index, buffer)
        return LocalRange(block.offset, block.end)

    def _step(self, index: int, step: Step, origin: str) -> PlannedCommand:
        def span(access: Access) -> LocalRange:
            block = self._block(index, access.buffer)
            stop = block.bytes if access.stop is None else access.stop
            return LocalRange(block.offset + access.start, block.offset + stop)

        addresses = {
            name: Address(Space.LOCAL, self._block(index, ref.buffer).offset + ref.offset)
            for name, ref in step.addresses.items()
        }
        reads, writes = (tuple(span(a) for a in part) for part in (step.reads, step.writes))
        return PlannedCommand(step.instruction, "TIU", step.fields, addresses, reads, writes, origin)

    def _inside(self, index: int, buffer: str, whole: Dims, start: Dims, itemsize: int) -> tuple[Address, Dims]:
        """Address and strides of a box inside an aligned tensor that fills a buffer."""
        strides = aligned_strides(whole, itemsize, self.chip)
        n, c, h, w = start
        slot, lane = divmod(c, self.chip.lanes)
        elements = n * strides[0] + slot * strides[1] + h * strides[2] + w
        return Address(Space.LOCAL, self._block(index, buffer).offset + elements * itemsize, lane), strides

    def _fill(self, index: int, action: Fill, origin: str) -> None:
        dims = action.dims if action.box is None else action.box.dims
        start = (0, 0, 0, 0) if action.box is None else action.box.start
        address, strides = self._inside(index, action.buffer, action.dims, start, action.itemsize)
        self.commands.append(
            transfers.fill_local(
                dims, strides, action.itemsize, action.value, address, self._span(index, action.buffer), origin
            )
        )

    def _cut(self, index: int, action: LoadOperand, resident: Resident, origin: str) -> None:
        """A box cut out of a resident, moved between lanes by the DMA engine."""
        itemsize = self.items[index].compute.storage(action).dtype.itemsize
        source = self.placed.sources[index, action.buffer]
        n, c, h, w = (a - b for a, b in zip(action.box.start, resident.box.start, strict=True))
        strides = aligned_strides(resident.box.dims, itemsize, self.chip)
        slot, lane = divmod(c, self.chip.lanes)
        begin = source.offset + (n * strides[0] + slot * strides[1] + h * strides[2] + w) * itemsize
        stepped = (strides[0], strides[1], strides[2] * action.row_step, strides[3])
        target, inside = self._target(index, action, itemsize)
        self.commands += transfers.move(
            itemsize,
            action.dims,
            (Address(Space.LOCAL, begin, lane), stepped),
            (target, inside),
            (LocalRange(source.offset, source.end),),
            (self._span(index, action.buffer),),
            self.chip,
            origin,
        )

    def _target(self, index: int, action: LoadOperand | StoreResult, itemsize: int) -> tuple[Address, Dims]:
        """Where in a buffer a transfer's box lies."""
        if isinstance(action, StoreResult):
            return self._inside(index, action.buffer, action.box.dims, (0, 0, 0, 0), itemsize)
        whole, start = action.into or (action.dims, (0, 0, 0, 0))
        return self._inside(index, action.buffer, whole, start, itemsize)

    def _transfer(self, index: int, action: LoadOperand | StoreResult, storage: Storage, origin: str) -> None:
        seen = storage.seen_as(action.shape)
        assert seen is not None
        found = seen.as_nchw(action.axes)
        assert found is not None
        _, strides = found
        itemsize = storage.dtype.itemsize
        first = seen.offset + sum(a * s for a, s in zip(action.box.start, strides, strict=True))
        base = self.where(storage.buffer)
        outside = Address(base.space, base.offset + first * itemsize)
        inside, lane_strides = self._target(index, action, itemsize)
        span = (self._span(index, action.buffer),)
        if isinstance(action, LoadOperand):
            n, c, h, w = strides
            near = (outside, (n, c, h * action.row_step, w))
            self.commands += transfers.move(
                itemsize, action.dims, near, (inside, lane_strides), (), span, self.chip, origin
            )
        else:
            self.commands += transfers.move(
                itemsize, action.box.dims, (inside, lane_strides), (outside, strides), span, (), self.chip, origin
            )
