"""Calibration samples from image folders, .npz and .npy files, list files or any iterable, one at a time.

A sample is a feed: input name to array, with the batch as first axis. Each is checked against the model's inputs before
it is used, and no more are held than are being worked on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tpu_deploy.calibration.arrays import ARRAY_SUFFIXES, batch_length, batch_rows, load_arrays
from tpu_deploy.calibration.feeds import Feed, InputSpec, checked_feed
from tpu_deploy.calibration.images import IMAGE_SUFFIXES, ImageInput, Preprocessing
from tpu_deploy.errors import BadInput

__all__ = ["Feed", "InputSpec", "Loader", "Preprocessing", "Samples", "open_samples"]

Loader = Callable[[], Feed]
"""Decodes and checks one sample; several may run at once."""


class Samples:
    """The samples of one source, in order; iterating yields a feed for each."""

    def __init__(
        self, source: str, count: int | None, start: Callable[[], Iterator[Loader]], files: Sequence[Path] = ()
    ) -> None:
        """`start` begins a pass; `count` samples where known; `source` is what messages call them.

        `files` are where they lie, where each is a file of its own.
        """
        self.source = source
        self.count = count
        self.files = tuple(files)
        self._start = start

    def loaders(self) -> Iterator[Loader]:
        """What decodes each sample, for those who decode several at once; to be advanced by one thread at a time."""
        return self._start()

    def __iter__(self) -> Iterator[Feed]:
        """The feeds. Raises BadInput at the first sample that cannot be used."""
        return (load() for load in self.loaders())

    def __len__(self) -> int:
        """The number of samples. Raises TypeError when the source does not tell."""
        if self.count is None:
            raise TypeError(f"{self.source} does not tell its number of samples")
        return self.count


def open_samples(
    data: str | PathLike[str] | Iterable[Any],
    inputs: Mapping[str, InputSpec],
    preprocessing: Preprocessing | None = None,
    limit: int | None = None,
) -> Samples:
    """The first `limit` samples (default: all) of `data` for a model with these `inputs`.

    `data` is a folder of images or of .npz/.npy files with a sample each (in the order of paths, folders below it
    included), a list file (.txt, a path a line), one .npz/.npy with a batch, a mapping of input names to batches, or an
    iterable of feeds or, for a model with one input, arrays. `preprocessing` is for images alone.
    Raises BadInput when there is nothing usable at all; a bad sample is reported when it is reached.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"the number of samples must be at least 1, not {limit}")
    if isinstance(data, str | PathLike):
        samples = _from_path(Path(data), inputs, preprocessing)
    elif preprocessing is not None:
        raise BadInput("preprocessing (mean, scale, resize, ...) is for images; arrays are taken as they are")
    else:
        samples = _from_iterable(data, inputs)
    if limit is None:
        return samples
    count = None if samples.count is None else min(limit, samples.count)
    return Samples(samples.source, count, lambda: islice(samples.loaders(), limit), samples.files[:limit])


def _from_path(path: Path, inputs: Mapping[str, InputSpec], preprocessing: Preprocessing | None) -> Samples:
    suffix = path.suffix.lower()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES | ARRAY_SUFFIXES)
        if not files:
            raise BadInput(f"{path}: holds no images and no .npz or .npy files; give a folder with calibration data")
        return _from_files(str(path), files, inputs, preprocessing)
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; give the calibration data")
    if suffix == ".txt":
        return _from_files(str(path), _listed(path), inputs, preprocessing)
    if suffix in IMAGE_SUFFIXES:
        return _from_files(str(path), [path], inputs, preprocessing)
    if suffix not in ARRAY_SUFFIXES:
        raise BadInput(f"{path}: is neither a folder, an image, an .npz or .npy file, nor a .txt list of them")
    if preprocessing is not None:
        raise BadInput(f"{path}: preprocessing (mean, scale, resize, ...) is for images; arrays are taken as they are")
    length = batch_length(path, inputs)
    if length is None:
        return _from_files(str(path), [path], inputs, None)
    if length == 0:
        raise BadInput(f"{path}: holds no samples; its arrays are empty")

    def start() -> Iterator[Loader]:
        for number, row in enumerate(batch_rows(path, inputs)):
            yield partial(checked_feed, row, inputs, f"{path}, sample {number}")

    return Samples(str(path), length, start)


def _listed(path: Path) -> list[Path]:
    """The files a list names, relative to the list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a list of files ({error})") from error
    files = [path.parent / line.strip() for line in lines if line.strip()]
    if not files:
        raise BadInput(f"{path}: names no files; write one path a line")
    for number, file in enumerate(files):
        if file.suffix.lower() not in IMAGE_SUFFIXES | ARRAY_SUFFIXES:
            raise BadInput(f"{path}: entry {number + 1}, {file}, is neither an image nor an .npz or .npy file")
    return files


def _from_files(
    source: str, files: list[Path], inputs: Mapping[str, InputSpec], preprocessing: Preprocessing | None
) -> Samples:
    """One sample a file."""
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images and len(images) < len(files):
        other = next(file for file in files if file.suffix.lower() in ARRAY_SUFFIXES)
        raise BadInput(f"{source}: holds both images ({images[0].name}) and arrays ({other.name}); keep one kind")
    if not images:
        if preprocessing is not None:
            raise BadInput(f"{source}: preprocessing is for images; .npz and .npy files are taken as they are")
        return Samples(source, len(files), lambda: (partial(_load_arrays, file, inputs) for file in files), files)
    image_input = ImageInput.of(preprocessing or Preprocessing(), inputs)
    load = partial(_load_image, image_input=image_input, inputs=inputs)
    return Samples(source, len(files), lambda: (partial(load, file) for file in files), files)


def _load_arrays(file: Path, inputs: Mapping[str, InputSpec]) -> Feed:
    return checked_feed(load_arrays(file, inputs), inputs, str(file))


def _load_image(file: Path, image_input: ImageInput, inputs: Mapping[str, InputSpec]) -> Feed:
    return checked_feed(image_input.load(file), inputs, str(file))


def _from_iterable(data: Iterable[Any], inputs: Mapping[str, InputSpec]) -> Samples:
    """One sample an element, or a row of a mapping's arrays."""
    if isinstance(data, Mapping):
        data = _rows(data)
    if not isinstance(data, Iterable):
        raise BadInput(f"the samples are a {type(data).__name__}; give a path or an iterable of feeds")
    once = data is iter(data)
    passes = 0

    def start() -> Iterator[Loader]:
        nonlocal passes
        passes += 1
        if once and passes > 1:
            raise BadInput("the samples come from an iterator that is used up; give a list, or a new iterator")
        for number, given in enumerate(data):
            yield partial(checked_feed, given, inputs, f"sample {number}")

    count = len(data) if isinstance(data, Sized) else None
    if count == 0:
        raise BadInput("the samples are empty; give at least one feed")
    return Samples("the samples", count, start)


def _rows(arrays: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """The samples along the first axis of all arrays."""
    batches = {name: np.asarray(array) for name, array in arrays.items()}
    lengths = {array.shape[0] if array.ndim else 0 for array in batches.values()}
    if len(lengths) != 1:
        raise BadInput("the arrays of the samples differ in length along the first axis; give an iterable of feeds")
    return [{name: array[row : row + 1] for name, array in batches.items()} for row in range(lengths.pop())]
