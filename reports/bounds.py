"""What no order of the same work can beat: all products at the chip's full rate, all bytes moved once at its rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tpu_deploy.chips import Chip
from tpu_deploy.codegen.products import products, products_per_cycle
from tpu_deploy.reports.executed import Executed
from tpu_deploy.reports.traffic import INTERMEDIATES, Traffic


@dataclass(frozen=True)
class Bound:
    """Cycles that `products` multiplications and `bytes` to and from global memory take at least.

    Products are those of convolutions and matrix products, each precision at its own rate.
    """

    products: int
    arithmetic: int
    bytes: int
    traffic: int

    @property
    def cycles(self) -> int:
        """The larger of the two."""
        return max(self.arithmetic, self.traffic)

    @property
    def binds(self) -> Literal["arithmetic", "traffic"]:
        """Which of the two it is."""
        return "arithmetic" if self.arithmetic > self.traffic else "traffic"

    def distance(self, cycles: int) -> float:
        """How many times the bound `cycles` are; NaN where nothing binds."""
        return cycles / self.cycles if self.cycles else math.nan


def bound(commands: Iterable[Executed], traffic: Sequence[Traffic], chip: Chip, within_group: bool = False) -> Bound:
    """The bound of some commands and what they move; `within_group`: intermediate tensors must move, too."""
    count, cycles = 0, 0.0
    for each in commands:
        if found := products(each.family, each.command.fields):
            count += found
            cycles += found / products_per_cycle(each.command.fields["opd0_prec"])
    moved = sum(row.least for row in traffic if within_group or row.name != INTERMEDIATES)
    return Bound(count, math.ceil(cycles), moved, math.ceil(moved / chip.dma_bytes_per_cycle))
