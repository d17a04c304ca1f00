"""tpu.Lut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel

Uint8Array = npt.NDArray[np.uint8]


def pair_table(table: Array) -> npt.NDArray[np.uint16]:
    """The table (65536,) for two neighbouring bytes at once, from a table (256,) with entries of one byte."""
    pairs = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    return np.ascontiguousarray(table).view(np.uint8)[pairs].view(np.uint16)


def look_up(table: Array, pairs: npt.NDArray[np.uint16] | None, index: Uint8Array, result: Array) -> None:
    """Fills the flat `result` with `table[index]`, two bytes at a time where `pairs` is given."""
    even = index.size & ~1 if pairs is not None else 0
    if pairs is not None:
        np.take(pairs, index[:even].view(np.uint16), out=result[:even].view(np.uint16), mode="clip")
    np.take(table, index[even:], out=result[even:], mode="clip")


@kernel("tpu.Lut")
def build_lut(site: Site) -> Kernel:
    """One table for all elements, or a row of it for each index of axis 1."""
    table = np.ascontiguousarray(site.weight(1))
    if table.ndim == 1:
        return shared_table(site, table)
    channels = table.shape[0]
    flat = table.reshape(-1)

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)
        index = operands[0].view(np.uint8).reshape(site.shape[0], channels, -1)
        target = result.reshape(index.shape)

        def piece(where: tuple[slice, ...]) -> None:
            first = np.arange(channels, dtype=np.intp)[where[1] if len(where) > 1 else slice(None)] * 256
            np.take(flat, index[where] + first[:, None], out=target[where], mode="clip")

        site.workers.for_each_piece(index.shape, piece)
        return result

    return run


def shared_table(site: Site, table: Array) -> Kernel:
    """The kernel that puts one table (256,) in place of every byte of the first operand."""
    pairs = pair_table(table) if table.itemsize == 1 else None

    def run(operands: Sequence[Array]) -> Array:
        result = np.empty(site.shape, site.dtype)
        index, target = operands[0].view(np.uint8).reshape(-1), result.reshape(-1)
        site.workers.for_each_piece(target.shape, lambda where: look_up(table, pairs, index[where], target[where]))
        return result

    return run
