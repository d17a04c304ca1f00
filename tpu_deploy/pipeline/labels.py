"""What each sample should give: out of the data's own file, a folder for each class, a CSV or an array file."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.calibration import Preprocessing, Samples, open_samples
from tpu_deploy.calibration.arrays import LABELS, UNREADABLE, StoredArray, why_unreadable
from tpu_deploy.calibration.feeds import Feed, InputSpec
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.samples import Data

Array = npt.NDArray[Any]
Given = str | os.PathLike[str] | Sequence[Any] | Array


@dataclass(frozen=True)
class LabelledSamples:
    """Samples, what their feeds must be, and the label of each: in the feed itself, in `table`, or nowhere."""

    samples: Samples
    specs: Mapping[str, InputSpec]
    table: Sequence[Array] | None = None

    @property
    def has_labels(self) -> bool:
        """Whether there are any."""
        return LABELS in self.specs or self.table is not None

    @property
    def has_classes(self) -> bool:
        """Whether these are numbers of classes: one or a few integers a sample."""
        if LABELS in self.specs:
            return self.specs[LABELS].dtype.kind in "iu" and len(self.specs[LABELS].shape) <= 2
        return self.table is not None and self.table[0].dtype.kind in "iu" and self.table[0].ndim <= 1

    def label(self, number: int, feed: Feed, row: int) -> Array | None:
        """The label of sample `number`, which is row `row` of the batch `feed`."""
        if LABELS in self.specs:
            return np.asarray(feed[LABELS][row])
        return None if self.table is None else self.table[number]


def labelled(
    data: Data,
    inputs: Mapping[str, InputSpec],
    preprocessing: Preprocessing | None = None,
    limit: int | None = None,
    labels: Given | None = None,
) -> LabelledSamples:
    """The samples of `data` with their labels.

    `labels` is an array or sequence in the order of the samples, a .npy or .npz file with one, or a .csv with a line
    `file,class` or `class` a sample (more classes behind count as right too). Without it they are the array `labels`
    among those of the data, or the numbers of the sub-folders the files lie in, in the order of their names, or those
    names where all are whole numbers. Raises BadInput.
    """
    own = _label_spec(data, inputs) if labels is None else None
    specs = {**inputs, LABELS: own} if own is not None else dict(inputs)
    samples = open_samples(data, specs, preprocessing, limit)
    if own is not None:
        return LabelledSamples(samples, specs)
    if labels is not None:
        return LabelledSamples(samples, specs, _table(labels, samples, limit))
    return LabelledSamples(samples, specs, _by_folder(data, samples))


def _label_spec(data: Data, inputs: Mapping[str, InputSpec]) -> InputSpec | None:
    """What the labels among the arrays of the data are; None when there are none."""
    batch = next((spec.shape[0] for spec in inputs.values() if spec.shape), None)
    if isinstance(data, Mapping):
        if LABELS not in data or LABELS in inputs:
            return None
        array = np.asarray(data[LABELS])
        return InputSpec(LABELS, (batch, *array.shape[1:]), _numeric(array.dtype, "the samples"))
    if not isinstance(data, str | os.PathLike) or LABELS in inputs:
        return None
    path = Path(data)
    file = path if path.suffix == ".npz" else next(iter(sorted(path.rglob("*.npz"))), None) if path.is_dir() else None
    if file is None or not file.is_file():
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            if f"{LABELS}.npy" not in archive.namelist():
                return None
            with archive.open(f"{LABELS}.npy") as stream:
                stored = StoredArray.open(stream)
    except UNREADABLE as error:
        raise BadInput(f"{file}: is not a readable .npz file ({error}); save it again") from error
    has_batch = file == path or stored.shape[:1] == (1,)
    shape = stored.shape[1:] if has_batch else stored.shape
    return InputSpec(LABELS, (batch, *shape), _numeric(stored.dtype, str(file)))


def _numeric(dtype: np.dtype[Any], source: str) -> np.dtype[Any]:
    if dtype.kind not in "biuf":
        raise BadInput(f"{source}: its labels are {dtype}; save them as numbers")
    return dtype


def _table(labels: Given, samples: Samples, limit: int | None) -> Sequence[Array]:
    """The labels by the number of the sample."""
    source = str(labels) if isinstance(labels, str | os.PathLike) else "the labels"
    if isinstance(labels, str | os.PathLike) and Path(labels).suffix.lower() == ".csv":
        found = _from_csv(Path(labels), samples)
    else:
        array = _array(Path(labels)) if isinstance(labels, str | os.PathLike) else np.asarray(labels)
        _numeric(array.dtype, source)
        if not array.ndim:
            raise BadInput(f"{source}: is a single number; give a label for each sample")
        found = list(array)
    if samples.count is not None and (len(found) < samples.count or (limit is None and len(found) > samples.count)):
        raise BadInput(f"{source}: has {len(found)} labels for {samples.count} samples")
    return found


def _array(path: Path) -> Array:
    if path.suffix not in (".npy", ".npz"):
        raise BadInput(f"--labels {path}: is neither a .csv, a .npy nor an .npz file")
    try:
        held = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(held, np.ndarray):
            return held
        with held:
            if LABELS not in held:
                raise BadInput(f"--labels {path}: has no array {LABELS!r}, but {', '.join(held.files) or 'none'}")
            array: Array = held[LABELS]
            return array
    except UNREADABLE as error:
        raise BadInput(f"--labels {path}: cannot be read ({why_unreadable(error)})") from error


def _from_csv(path: Path, samples: Samples) -> list[Array]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"--labels {path}: cannot be read as a CSV ({error})") from error
    header = 1 if rows and not _is_class(rows[0][-1]) else 0
    named = any(not _is_class(row[0]) for row in rows[header:])
    labels: dict[str, Array] = {}
    for number, row in enumerate(rows[header:], 1 + header):
        classes = [cell for cell in (row[1:] if named else row) if cell]
        if not classes or not all(map(_is_class, classes)):
            raise BadInput(f"--labels {path}, line {number}: {','.join(row)[:60]!r} is not `file,class` or `class`")
        labels[row[0] if named else str(number)] = np.array([int(cell) for cell in classes])
    return _of_files(labels, samples, path) if named else list(labels.values())


def _is_class(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _of_files(labels: Mapping[str, Array], samples: Samples, path: Path) -> list[Array]:
    """The label of each file, named by the end of its path, with or without the suffix."""
    if not samples.files:
        raise BadInput(f"--labels {path}: names files, but the samples of {samples.source} are not files of their own")
    found = []
    for file in samples.files:
        ends = ["/".join(file.parts[start:]) for start in range(len(file.parts))]
        label = next((labels[end] for end in [*ends, file.stem] if end in labels), None)
        if label is None:
            raise BadInput(f"--labels {path}: has no line for {file}")
        found.append(label)
    return found


def _by_folder(data: Data, samples: Samples) -> list[Array] | None:
    """Each file's class by the sub-folder of `data` it lies in; None when one lies in none."""
    if not samples.files or not isinstance(data, str | os.PathLike) or not Path(data).is_dir():
        return None
    inside = [file.relative_to(data).parts for file in samples.files]
    if any(len(parts) < 2 for parts in inside):
        return None
    names = sorted(each.name for each in Path(data).iterdir() if each.is_dir())
    by_name = {name: int(name) for name in names} if all(name.isdecimal() for name in names) else None
    classes = by_name or {name: number for number, name in enumerate(names)}
    return [np.array(classes[parts[0]]) for parts in inside]
