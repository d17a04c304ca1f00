"""Multiplications a command does in convolutions and matrix products, and how many of them fit in a cycle."""

from __future__ import annotations

from collections.abc import Callable

from tpu_deploy.codegen.isa.addresses import LANES
from tpu_deploy.codegen.isa.operations import Matrix2Op
from tpu_deploy.codegen.timing_cost import Fields
from tpu_deploy.codegen.timing_tiu import CUBE


def products_per_cycle(precision: int) -> int:
    """The most multiplications the chip does in a cycle on operands of that element type: 16,384 of 8 bits."""
    pixels, channels = CUBE[precision]
    return LANES * pixels * channels


def products(family: str, fields: Fields) -> int:
    """Multiplications of one command; 0 for families that neither convolve nor multiply matrices.

    Windows of one channel (depthwise) do not count: another unit does them. Padding counts as data.
    """
    count = _FAMILIES.get(family)
    return count(fields) if count is not None else 0


def _convolution(f: Fields) -> int:
    results = f["res0_n"] * f["res0_c"] * f["res0_h"] * f["res0_w"]
    return results * f["opd0_c"] * f["opd1_h"] * f["opd1_w"]


def _matrix(f: Fields) -> int:
    """The last lane of the left side holds `opd1_w` columns."""
    inner = (f["opd0_c"] - 1) * f["opd0_w"] + f["opd1_w"]
    return f["opd0_n"] * inner * f["res0_c"] * f["res0_w"]


def _matrix_on_lanes(f: Fields) -> int:
    inner = f["opd1_c"] if f["tsk_eu_typ"] == Matrix2Op.NN else f["opd1_w"]
    return f["res0_c"] * f["res0_w"] * inner


_FAMILIES: dict[str, Callable[[Fields], int]] = {
    "CONV": _convolution,
    "MM": _matrix,
    "MM2": _matrix_on_lanes,
}
