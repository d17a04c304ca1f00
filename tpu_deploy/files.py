"""Output files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tpu_deploy.errors import BadInput


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[bytes]]:
    """A binary (or, with `mode="w"`, text) stream whose content becomes `path` when the block ends well.

    The content goes to a temporary name in the same folder first, so an interrupted or failed write leaves the old
    file or none. Raises BadInput when the folder is missing, is not writable, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise BadInput(f"{target}: is a folder; give a file name to write to")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, mode, encoding="utf-8" if "b" not in mode else None) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"{target}: cannot be written ({reason}); choose a writable place with enough space") from error
    finally:
        partial.unlink(missing_ok=True)
