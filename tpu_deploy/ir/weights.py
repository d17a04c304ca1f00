"""Weights by name beside the text of a module, memory-mapped from an npz file."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.numbers import BFLOAT16

Array = npt.NDArray[Any]

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""A zip member's local header. Source: PKWARE APPNOTE 4.3.7."""


class WeightStore(MutableMapping[str, Array]):
    """Arrays by name, in order of insertion. Arrays are shared, never copied; treat them as read-only."""

    def __init__(self, arrays: dict[str, Array] | None = None) -> None:
        self._arrays: dict[str, Array] = dict(arrays or {})

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, array: Array) -> None:
        self._arrays[name] = array

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def unused_name(self, wanted: str) -> str:
        """`wanted`, or `wanted_2`, `wanted_3`, ... when it is taken."""
        name, count = wanted, 1
        while name in self._arrays:
            count += 1
            name = f"{wanted}_{count}"
        return name

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all arrays to an uncompressed npz whose bytes depend on the arrays alone."""
        with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, array in self._arrays.items():
                info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(info, "w", force_zip64=True) as member:
                    npy_format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightStore:
        """The arrays of an uncompressed npz, memory-mapped. BadInput when the file is not one."""
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            return cls({m.filename.removesuffix(".npy"): _map(Path(path), m) for m in members})
        except (OSError, ValueError, zipfile.BadZipFile, struct.error) as error:
            raise BadInput(f"{path}: is not a readable npz of weights ({error})") from error


def _map(path: Path, member: zipfile.ZipInfo) -> Array:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with open(path, "rb") as stream:
        stream.seek(member.header_offset)
        header = LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size))
        stream.seek(member.header_offset + LOCAL_HEADER.size + header[-2] + header[-1])
        version = npy_format.read_magic(stream)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.kind == "V" and dtype.itemsize == BFLOAT16.itemsize:
            dtype = BFLOAT16  # npy files have no name for it
        if 0 in shape:
            return np.zeros(shape, dtype)
        order: Any = "F" if fortran else "C"
        return np.memmap(path, dtype=dtype, mode="r", offset=stream.tell(), shape=shape or (1,), order=order).reshape(
            shape
        )
