"""Samples out of .npz and .npy files: one whole, or a batch read row by row so that its size does not matter."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tpu_deploy.calibration.feeds import Array, InputSpec, check_names
from tpu_deploy.errors import BadInput

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})

LABELS = "labels"
"""An array beside the inputs that says what each sample should give: not for the network."""

UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What numpy and zipfile raise for files that are no arrays, or only part of one."""


def why_unreadable(error: Exception) -> str:
    """What one of UNREADABLE says, in the words of the user."""
    if "pickle" in str(error):  # numpy takes whatever it does not know for Python objects
        return "it holds no arrays"
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class StoredArray:
    """An array whose elements are still in `stream`, in C order unless `fortran`."""

    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @classmethod
    def open(cls, stream: IO[bytes]) -> "StoredArray":
        """The array in .npy format that `stream` starts with. Raises ValueError when it is not one."""
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f".npy format {version[0]}.{version[1]} with structured elements")
        shape, fortran, dtype = readers[version](stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects instead of numbers")
        return cls(stream, shape, dtype, fortran)

    def read(self, shape: tuple[int, ...]) -> Array:
        """The next elements as an array of `shape`. Raises EOFError when the file ends before."""
        size = math.prod(shape) * self.dtype.itemsize
        data = self.stream.read(size)
        if len(data) != size:
            raise EOFError("it is truncated")
        order = self.shape == shape and self.fortran
        return np.frombuffer(data, self.dtype).reshape(shape, order="F" if order else "C")

    def rows(self) -> Iterator[Array]:
        """The elements along the first axis, one at a time."""
        if self.fortran:
            yield from self.read(self.shape)
        else:
            for _ in range(self.shape[0]):
                yield self.read(self.shape[1:])


@contextlib.contextmanager
def stored_arrays(path: Path, inputs: Mapping[str, InputSpec]) -> Iterator[dict[str, StoredArray]]:
    """The arrays of a file by input name, unread. Raises BadInput when it is not readable or has other names."""
    with contextlib.ExitStack() as stack:
        try:
            if path.suffix == ".npy":
                if len(inputs) != 1:
                    raise BadInput(f"{path}: is a single array; give an .npz with the inputs {', '.join(inputs)}")
                yield {next(iter(inputs)): StoredArray.open(stack.enter_context(path.open("rb")))}
                return
            archive = stack.enter_context(zipfile.ZipFile(path))
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            check_names({name: name for name in members if name != LABELS or name in inputs}, inputs, str(path))
            yield {name: StoredArray.open(stack.enter_context(archive.open(members[name]))) for name in inputs}
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; check the path of the calibration data") from None
        except UNREADABLE as error:
            raise BadInput(f"{path}: is not a readable {path.suffix} file ({error}); save it again") from error


def load_arrays(path: Path, inputs: Mapping[str, InputSpec]) -> dict[str, Array]:
    """The whole file as one feed, by input name. Raises BadInput when it is unreadable or has other names."""
    with stored_arrays(path, inputs) as arrays:
        return {name: array.read(array.shape) for name, array in arrays.items()}


def batch_length(path: Path, inputs: Mapping[str, InputSpec]) -> int | None:
    """How many samples lie along the first axis of the file's arrays; None when the file is one sample.

    It is one when an array lacks the batch axis, or when the arrays differ in length and yet fit the model.
    Raises BadInput when they differ in length and do not fit.
    """
    with stored_arrays(path, inputs) as arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
    if any(len(shape) < len(inputs[name].shape) or not shape for name, shape in shapes.items()):
        return None
    if len({shape[0] for shape in shapes.values()}) == 1:
        return next(iter(shapes.values()))[0]
    if all(inputs[name].shape[0] in (None, shape[0]) for name, shape in shapes.items()):
        return None
    lengths = ", ".join(f"{name!r} {shape[0]}" for name, shape in shapes.items())
    raise BadInput(f"{path}: its arrays differ in the number of samples ({lengths})")


def batch_rows(path: Path, inputs: Mapping[str, InputSpec]) -> Iterator[dict[str, Array]]:
    """The samples along the first axis of the file's arrays, one at a time, each with a batch axis of 1."""
    with stored_arrays(path, inputs) as arrays:
        for rows in zip(*(array.rows() for array in arrays.values()), strict=True):
            yield {name: row[np.newaxis] for name, row in zip(arrays, rows, strict=True)}
