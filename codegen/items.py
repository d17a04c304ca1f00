"""Tiles on the timeline: programs whose operands may lie in local memory already and whose results may stay there."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpu_deploy.codegen.program import LoadOperand, TileProgram
from tpu_deploy.codegen.views import Box, Dims
from tpu_deploy.codegen.works import Compute, Work


@dataclass(frozen=True)
class Resident:
    """A box of a storage that stays in local memory in the aligned layout.

    `key` names storage, view and box; `dims` are the sizes of the whole box.
    """

    key: str
    box: Box
    dims: Dims


@dataclass(frozen=True)
class Item:
    """One slot: a tile of a computation, or a work of the DMA engine alone (`program` None).

    `inputs` maps an operand buffer to the resident it is or is cut out of, `results` a result buffer to the resident it
    becomes; `stored` are the result buffers that also go to global memory. Loads whose keys are in `held` stay from
    their first to their last use in the same `group`.
    """

    work: Work
    program: TileProgram | None = None
    inputs: dict[str, Resident] = field(default_factory=dict)
    results: dict[str, Resident] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    group: int = 0

    @property
    def compute(self) -> Compute:
        """The work of a tile."""
        assert isinstance(self.work, Compute)
        return self.work


def load_key(work: Compute, action: LoadOperand) -> str:
    """The name of what an operand load brings: equal names, equal bytes in the same layout."""
    storage = work.storage(action)
    seen = storage.seen_as(action.shape)
    assert seen is not None
    found = seen.as_nchw(action.axes)
    assert found is not None
    _, strides = found
    start = seen.offset + sum(a * s for a, s in zip(action.box.start, strides, strict=True))
    steps = tuple(s if k > 1 else 0 for s, k in zip(strides, action.box.dims, strict=True))
    return f"{storage.buffer}+{start}:{action.box.dims}:{steps}:{action.into}:{action.row_step}"
