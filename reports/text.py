"""Tables and numbers as plain text for a terminal or a pipe."""

from __future__ import annotations

import math
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], headings: Sequence[str] = (), right: frozenset[int] = frozenset()) -> str:
    """Lines with the cells of each row below each other; the columns in `right` are aligned there."""
    lines = [list(headings), *map(list, rows)] if headings else [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]

    def padded(line: Sequence[str]) -> str:
        cells = [c.rjust(w) if k in right else c.ljust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join(padded(line) for line in lines)


def size(count: float) -> str:
    """Bytes in the unit that suits: `27.8 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def decibels(value: float) -> str:
    """A ratio in dB: `43.2 dB`, or `exact` for an infinite one."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "exact" if value > 0 else "no signal"
    return f"{value:.1f} dB"


def cosine(value: float) -> str:
    """A cosine with the digits that tell it from 1: `0.99973`; never rounded up to 1."""
    if math.isnan(value):
        return "NaN"
    return "1" if value == 1 else f"{math.floor(value * 1e6) / 1e6:.6f}"


def percent(share: float) -> str:
    """A share: `83 %`, `1.2 %` of small ones."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"
