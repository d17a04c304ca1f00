"""Options every door checks alike: names to choose from, places to write to, and who is told how far things are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tpu_deploy.errors import BadInput

PRECISIONS = ("int8", "f16", "bf16", "f32")
"""Precisions a network can be deployed in."""


METHOD = "mse"
"""The method of thresholds unless another is asked for."""


class Progress(Protocol):
    """Hears how far a command is; `SILENT` does not listen."""

    def stage(self, name: str) -> None:
        """A stage of the pipeline begins."""

    def samples(self, done: int, total: int | None, per_second: float) -> None:
        """So many of `total` samples (None: unknown) are done, at this speed."""

    def note(self, line: str) -> None:
        """Something was decided that the user left open."""


class Silent:
    """Progress that nobody hears."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def samples(self, done: int, total: int | None, per_second: float) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""


SILENT = Silent()


def choice(option: str, given: str, known: Sequence[str]) -> str:
    """`given` as it is spelt in `known`, case ignored. Raises BadInput with the nearest of them."""
    wanted = given.lower()
    for name in known:
        if name.lower() == wanted:
            return name
    near = difflib.get_close_matches(wanted, known, 1, 0.0)
    raise BadInput(f"{option} {given}: is unknown; did you mean {near[0]}? known: {', '.join(known)}")


def writable_file(path: str | os.PathLike[str], option: str, *given: object) -> Path:
    """`path`, if a file can be written there, judged before any work is done. Raises BadInput.

    It is none of the files among `given`, all that the command reads: nobody loses a model to a wrong `-o`.
    """
    target = Path(path)
    if target.is_dir():
        raise BadInput(f"{option} {target}: is a folder; give a file name to write to")
    for each in given:
        if isinstance(each, str | os.PathLike) and target.exists() and Path(each).exists() and target.samefile(each):
            raise BadInput(f"{option} {target}: is a file that is read; give another name to write to")
    _check_folder(target.parent, option, target)
    return target


def writable_folder(path: str | os.PathLike[str], option: str) -> Path:
    """`path`, if it is a folder or one can be made there. Raises BadInput; makes nothing."""
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise BadInput(f"{option} {target}: is a file; give a folder to write to")
    _check_folder(target if target.exists() else target.parent, option, target)
    return target


def _check_folder(folder: Path, option: str, target: Path) -> None:
    if not folder.is_dir():
        raise BadInput(f"{option} {target}: cannot be written, {folder} is no folder; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"{option} {target}: cannot be written, {folder} is read-only; choose another place")


def made_folder(path: Path, option: str) -> Path:
    """`path` as a folder that exists. Raises BadInput."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"{option} {path}: cannot be made ({error.strerror or error}); choose another place") from error
    return path
