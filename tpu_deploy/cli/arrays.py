""".npz files of arrays by name, in and out."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration.arrays import why_unreadable
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing

Array = npt.NDArray[Any]


def read(path: str) -> dict[str, Array]:
    """The arrays of an .npz file by name. Raises BadInput when it is none."""
    if not Path(path).is_file():
        raise BadInput(f"--inputs {path}: no such file; give an .npz file with the inputs by name")
    try:
        archive = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise BadInput(f"--inputs {path}: is a single array; save an .npz file with the inputs by name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(
            f"--inputs {path}: is not a readable .npz file ({why_unreadable(error)}); save it again"
        ) from error


def write(path: Path, arrays: dict[str, Array]) -> None:
    """An .npz file of arrays by name. Raises BadInput when it cannot be written."""
    with replacing(path) as stream:
        np.savez(cast(BinaryIO, stream), allow_pickle=False, **arrays)
