"""Checks the arrays that a caller hands in against the values of a network."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import dtype_of, shape_of
from tpu_deploy.runtime.reference.registry import Array


def checked(name: str, given: Any, value: SSAValue, what: str) -> Array:
    """`given` as a C-contiguous array of the type and shape of `value`; BadInput when it is not one, or not finite."""
    array = np.asarray(given)
    dtype, shape = dtype_of(value), shape_of(value)
    if array.dtype != dtype:
        raise BadInput(f"{what} {name}: is {array.dtype}, the network takes {dtype}; convert it")
    if array.shape != shape:
        raise BadInput(f"{what} {name}: has shape {_sizes(array.shape)}, the network takes {_sizes(shape)}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        held = "NaN" if np.isnan(array).any() else "Inf"
        raise BadInput(f"{what} {name}: holds {held}; clean the data first")
    return np.ascontiguousarray(array)


def unknown(name: str, known: Collection[str], what: str) -> BadInput:
    """The error for a name that is not among the known ones, with the nearest of them."""
    near = difflib.get_close_matches(str(name), known, 1, 0)
    hint = f"; did you mean {near[0]}?" if near else ""
    return BadInput(f"{what} {name}: the network has none of this name{hint}")


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "()"
