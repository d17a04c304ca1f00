"""Numbers as JSON can hold them: what it lacks is spelt "nan", "inf" and "-inf"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` with numbers JSON lacks spelt out, and tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def number(value: float | str) -> float:
    """A number that `plain` may have spelt out."""
    return float(value)
