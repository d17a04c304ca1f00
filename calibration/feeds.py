"""What a model takes, and the check that a feed is that: the error names the file and the tensor."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.errors import BadInput

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: None in `shape` is a dimension that may vary."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    @property
    def described(self) -> str:
        """The shape for a message: `1x3x224x?`."""
        return "x".join("?" if size is None else str(size) for size in self.shape) or "scalar"


def checked_feed(given: object, inputs: Mapping[str, InputSpec], where: str) -> Feed:
    """The feed with each array contiguous, in the input's dtype and with a batch axis.

    `given` is a mapping of names, or a bare array where the model has one input; `where` says which sample it is.
    Raises BadInput for unknown or absent names, shapes and dtypes that do not fit, NaN and infinity.
    """
    if not isinstance(given, Mapping):
        if len(inputs) != 1:
            raise BadInput(f"{where}: is one array, but the model has inputs {', '.join(inputs)}; give them by name")
        given = {next(iter(inputs)): given}
    check_names(given, inputs, where)
    return {name: _checked_array(given[name], spec, where) for name, spec in inputs.items()}


def check_names(names: Mapping[Any, object], inputs: Mapping[str, InputSpec], where: str) -> None:
    """Raises BadInput unless `names` are exactly the model's inputs."""
    for name in names:
        if name not in inputs:
            near = difflib.get_close_matches(str(name), inputs, 1, 0.0) or list(inputs)[:1]
            raise BadInput(f"{where}: the model has no input {name!r}; rename it to {near[0]!r}")
    for name in inputs:
        if name not in names:
            raise BadInput(f"{where}: lacks the model's input {name!r}")


def _checked_array(given: object, spec: InputSpec, where: str) -> Array:
    array = np.asarray(given)
    shape = array.shape
    if array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    if not _fits(array.shape, spec.shape):
        found = "x".join(map(str, shape)) or "scalar"
        raise BadInput(f"{where}: {spec.name!r} has shape {found}, but the model takes {spec.described}")
    array = _converted(array, spec, where)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinity"
        raise BadInput(f"{where}: {spec.name!r} holds {what}; leave this sample out or mend it")
    return np.ascontiguousarray(array)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether an array of `shape` feeds an input of shape `wanted`, a fixed batch being filled from several."""
    if len(shape) != len(wanted) or 0 in shape:
        return False
    if not shape:
        return True
    batch = wanted[0] is None or wanted[0] % shape[0] == 0
    return batch and all(size is None or size == have for have, size in zip(shape[1:], wanted[1:], strict=True))


def _converted(array: Array, spec: InputSpec, where: str) -> Array:
    """The array in the input's dtype. Raises BadInput when that would change its values beyond rounding a float."""
    dtype = np.dtype(spec.dtype)
    if array.dtype == dtype:
        return array
    kinds = array.dtype.kind, dtype.kind
    if array.dtype.kind in "fiub" and dtype.kind in "fiu" and kinds not in (("f", "i"), ("f", "u")):
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        same = np.isfinite(converted) | ~np.isfinite(array) if kinds == ("f", "f") else converted == array
        if np.all(same):
            return converted
    raise BadInput(
        f"{where}: {spec.name!r} is {array.dtype}, which does not convert safely to {dtype}, the model's type; "
        f"save it as {dtype}"
    )
