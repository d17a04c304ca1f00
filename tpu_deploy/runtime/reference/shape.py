"""tpu.Reshape, tpu.Permute, tpu.Concat, tpu.Slice and tpu.Pad: the same elements in other places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel


@kernel("tpu.Reshape")
def build_reshape(site: Site) -> Kernel:
    """Shares memory with the operand."""
    return lambda operands: operands[0].reshape(site.shape)


@kernel("tpu.Permute")
def build_permute(site: Site) -> Kernel:
    """A transposed copy."""
    order = site.attributes["order"]
    return lambda operands: np.ascontiguousarray(operands[0].transpose(order))


@kernel("tpu.Concat")
def build_concat(site: Site) -> Kernel:
    """The operands one behind the other."""
    axis = site.attributes["axis"]
    return lambda operands: np.concatenate(operands, axis)


@kernel("tpu.Slice")
def build_slice(site: Site) -> Kernel:
    """A copy of the chosen elements."""
    index = []
    for size, offset, step in zip(site.shape, site.attributes["offset"], site.attributes["steps"], strict=True):
        stop = offset + size * step
        index.append(slice(offset, stop if stop >= 0 else None, step))
    chosen = tuple(index)
    return lambda operands: np.ascontiguousarray(operands[0][chosen])


@kernel("tpu.Pad")
def build_pad(site: Site) -> Kernel:
    """A copy amid the value: an integer, or the bits of a float."""
    value = site.attributes["value"]
    is_integer = np.issubdtype(site.dtype, np.integer)
    fill = value if is_integer else np.array(value, f"u{site.dtype.itemsize}").view(site.dtype)
    pads, rank = site.attributes["pads"], len(site.shape)
    inside = tuple(slice(begin, begin + size) for begin, size in zip(pads[:rank], site.operand_shape(0), strict=True))

    def run(operands: Sequence[Array]) -> Array:
        result = np.full(site.shape, fill, site.dtype)
        result[inside] = operands[0]
        return result

    return run
