"""What a group of works takes and moves when it runs in slices of the batch, as works are added to it one by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tpu_deploy.codegen.wholes import Forms, Place, Whole, rows_of


@dataclass(frozen=True)
class Weights:
    """How cycles are weighed against each other when groups are compared.

    A group takes the cycles of the busier engine; `moved` of those of the DMA engine come on top (other groups may need
    it), `exposed` of the transfers that nothing in the group hides, and `group` for every group.
    """

    moved: float = 0.0
    exposed: float = 1.0
    group: float = 200.0
    slice: float = 20.0
    """For each operation of each slice: commands that are short and wait for each other."""


ROOM = 0.92
"""The share of local memory that the values of a group may take by the estimate: placing them exactly takes more."""


STRIPED_ROOM = 0.8
"""The same where slices have only some of the rows: rows that windows need beyond them are not counted."""


class Measure:
    """A group that begins with a work and runs in slices of `images`, in `stripes` of their rows."""

    def __init__(self, forms: Forms, start: int, images: int, stripes: int = 1) -> None:
        self.all = forms
        self.start, self.images, self.stripes = start, images, stripes
        self.slices = forms.batch // images * stripes
        self.room = forms.chip.lane_bytes * (ROOM if stripes == 1 else STRIPED_ROOM)
        self.forms: list[Whole] = []
        self.made: dict[Place, int] = {}
        self.last: dict[Place, int] = {}
        self.taken: list[int] = []
        """How many later works take each result from local memory."""
        self.readers: list[int] = []
        """How many later works read each result."""
        self.alive: list[int] = []
        """Bytes in use while each work runs, without what later works still need."""
        self.written: dict[str, Whole | None] = {}
        """Buffers that works write: who writes the one tensor in it whose first axis is the batch, None otherwise."""
        self.constants: list[int] = []
        """Bytes of the constants of each work."""
        self.loads: list[list[tuple[int, int]]] = []
        """Bytes and cycles of the operands that each work loads from global memory."""
        self.peak = 0
        self.beyond: list[float] = []
        """Rows of each work's result that windows of later works need beyond a stripe."""
        self.computed = self.loaded = self.stored = self.constant_cycles = 0
        """Cycles of the TIU for a slice; of the DMA engine for the operands, results and constants of a slice."""
        self.returned = 0
        """Cycles of the DMA engine for results of a slice that go to global memory and come back to a later work."""

    def add(self, index: int, number: int | None = None) -> bool:
        """Adds a work, in the form of that number or the one that suits; False when it cannot run in such slices."""
        if number is None:
            form = self.all.chosen(index, self.images, self.stripes, self.made)
        else:
            form = self.all.wholes(index, self.images, self.stripes).get(number)
        if form is None or self._crosses_slices(form):
            return False
        self._note_written(form)
        offset = len(self.forms)
        self.forms.append(form)
        self.constants.append(sum(form.constants.values()))
        self.computed += form.steps_cycles
        self.constant_cycles += form.constant_cycles
        self.loaded += form.fill_cycles
        self.loads.append([])
        self.beyond.append(0.0)
        held = self._take_operands(form, offset)
        self.alive.append(form.size + held)
        self.peak = max(self.peak, self.alive[-1])
        self._note_result(form, offset)
        return True

    @property
    def fits(self) -> bool:
        """Whether the works added so far find room by the estimate."""
        return self.peak <= self.room

    def _take_operands(self, form: Whole, offset: int) -> int:
        """Notes what a form takes from local memory and what it loads; bytes of residents beside its own buffers."""
        held = 0
        places: dict[Place, bool] = {}
        for buffer, (place, load) in form.operands.items():
            if place is None or place not in self.made:
                self.loaded += form.load_cycles[buffer]
                writer = self.written.get(form.work.storage(load).buffer)
                self.returned += form.load_cycles[buffer] + writer.store_cycles if writer is not None else 0
                self.loads[-1].append((form.sizes[buffer], form.load_cycles[buffer]))
                continue
            self._keep(place, offset)
            rows = self.forms[self.made[place]].variant.tiling.rows if self.stripes > 1 else 0
            if rows:
                self._note_beyond(self.made[place], load.box.dims[rows])
            whole = all(load.box.dims[k] == place[2][k] for k in (1, 2, 3) if k != rows)
            places[place] = places.get(place, False) or whole
            if whole:
                held -= form.sizes[buffer]
        for place in places:
            maker = self.made[place]
            held += self.forms[maker].sizes[self.forms[maker].result[1]]
            reads = [p for p, load in form.operands.values() if form.work.storage(load).buffer == place[0]]
            if all(p == place for p in reads):
                self.taken[maker] += 1
                if self.taken[maker] == self.readers[maker] and not self._leaves(maker):
                    self.stored -= self.forms[maker].store_cycles
        return held

    def _note_beyond(self, maker: int, rows: int) -> None:
        """A later work reads so many rows of a result: it and what it is made from must have them."""
        form = self.forms[maker]
        low, high = form.rows(self.stripes // 2)
        more = rows - (high - low) - self.beyond[maker]
        if more > 0:
            for k in range(maker + 1):
                self.beyond[k] += more * self.forms[k].height / form.height

    def _repeated(self) -> float:
        """Cycles of the TIU in a slice for rows that other slices compute too."""
        total = 0.0
        for form, beyond in zip(self.forms, self.beyond, strict=True):
            if beyond:
                low, high = form.rows(self.stripes // 2)
                total += form.steps_cycles * beyond / max(high - low, 1)
        return total

    def _note_result(self, form: Whole, offset: int) -> None:
        place, _ = form.result
        buffer = form.work.result.buffer
        self.taken.append(0)
        self.readers.append(sum(k > self.start + offset for k in self.all.readers.get(buffer, ())))
        if self.is_stored(offset):
            self.stored += form.store_cycles
        if place is not None:
            self.made[place], self.last[place] = offset, offset

    def _note_written(self, form: Whole) -> None:
        result, tiling, batch = form.work.result, form.variant.tiling, self.all.batch
        sliced = result.shape[:1] == (batch,) and tiling.dims[0] == batch * tiling.per_image and 0 in tiling.axes[0]
        known = sliced and result.buffer not in self.written
        self.written[result.buffer] = form if known else None

    def _crosses_slices(self, form: Whole) -> bool:
        """Whether a form loads from global memory what a work of this group may write there in a later slice.

        A slice may read back its own images of the very tensor that was written, and rows of it.
        """
        if self.slices == 1:
            return False
        for place, load in form.operands.values():
            storage = form.work.storage(load)
            if (place is not None and place in self.made) or storage.buffer not in self.written:
                continue
            writer = self.written[storage.buffer]
            if writer is None or writer.work.result != storage:
                return True
            if load.shape[0] != self.all.batch or load.axes[0] != (0,):
                return True
            rows = form.variant.tiling.rows
            if self.stripes > 1 and rows_of(storage, load.shape, load.axes, rows) != writer.result_rows:
                return True
        return False

    def _keep(self, place: Place, until: int) -> None:
        """Extends the life of a resident to the work before `until`, at which it is counted with the operands."""
        form = self.forms[self.made[place]]
        for offset in range(self.last[place] + 1, until):
            self.alive[offset] += form.sizes[form.result[1]]
            self.peak = max(self.peak, self.alive[offset])
        self.last[place] = until

    def _leaves(self, offset: int) -> bool:
        """Whether a result goes to global memory whoever reads it."""
        form = self.forms[offset]
        return form.result[0] is None or form.work.result.buffer in self.all.kept_buffers

    def is_stored(self, offset: int) -> bool:
        """Whether a result must go to global memory: it is an output, or somebody reads it there."""
        return self._leaves(offset) or self.readers[offset] > self.taken[offset]

    def reloaded(self) -> tuple[int, ...]:
        """The works whose constants have to be loaded for each slice so that the others can stay: the largest."""
        kept = sum(self.constants)
        if self.slices == 1 or self.peak + kept <= self.room:
            return ()
        beside = [alive - own for alive, own in zip(self.alive, self.constants, strict=True)]
        found: list[int] = []
        for offset in sorted(range(len(self.constants)), key=lambda k: (-self.constants[k], k)):
            if max(beside) + kept <= self.room:
                break
            kept -= self.constants[offset]
            beside[offset] += self.constants[offset]
            found.append(offset)
        return tuple(sorted(found))

    def _stalls(self, reloaded: Collection[int]) -> int:
        """Cycles of a slice in which the TIU waits because there is no room to bring sooner what it needs.

        Slices follow each other, so that loads of the first works run while the last ones compute.
        """
        count = len(self.forms)
        again = set(reloaded)
        kept = sum(c for k, c in enumerate(self.constants) if k not in again)
        room = [
            self.room - kept - alive + (0 if k in again else own)
            for k, (alive, own) in enumerate(zip(self.alive, self.constants, strict=True))
        ]
        stalls = 0
        for k, loads in enumerate(self.loads):
            form = self.forms[k]
            for size, cycles in (*loads, *([(self.constants[k], form.constant_cycles)] if k in again else [])):
                left = cycles
                for j in range(k - 1, k - count, -1):
                    if left <= 0 or room[j] < size:
                        break
                    left -= self.forms[j].steps_cycles
                stalls += max(left, 0)
        return stalls

    def cost(self, reloaded: tuple[int, ...], weights: Weights) -> float:
        """Cycles of all slices, weighed."""
        again = sum(self.forms[k].constant_cycles for k in reloaded)
        moved = self.slices * (self.loaded + self.stored) + self.constant_cycles + again * (self.slices - 1)
        computed = self.slices * (self.computed + (self._repeated() if self.stripes > 1 else 0.0))
        if self.slices > 1:
            computed += self.slices * self._stalls(reloaded)
        exposed = sum(self.forms[0].load_cycles.values()) + self.returned
        exposed += self.forms[-1].store_cycles * self.is_stored(len(self.forms) - 1)
        short = weights.slice * self.slices * len(self.forms)
        return max(computed, moved) + weights.moved * moved + weights.exposed * exposed + weights.group + short
