"""Progress on stderr: a bar when it is a terminal, otherwise nothing but a line at the end, and notes."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


class Terminal:
    """Shows the stage that runs and the samples done; usable in a `with` statement."""

    def __init__(self, done: str = "calibrated") -> None:
        """`done` is what has happened to the samples."""
        self._done = done
        self._last: tuple[int, float] | None = None
        self._notes: list[str] = []
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=None, count="")

    def stage(self, name: str) -> None:
        """Shows the stage that begins."""
        if self._bar is not None:
            self._bar.reset(self._task, description=name, total=None, count="")

    def samples(self, done: int, total: int | None, per_second: float) -> None:
        """Shows how many samples are done, and how fast."""
        self._last = done, per_second
        if self._bar is not None:
            count = f"{done} of {total}" if total else f"{done}"
            self._bar.update(self._task, completed=done, total=total, count=f"{count}, {per_second:.1f} images/s")

    def note(self, line: str) -> None:
        """Keeps what was decided for the end: a command that is refused says why, and nothing else."""
        self._notes.append(line)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if error is not None:
            return
        for line in self._notes:
            print(line, file=sys.stderr)
        if self._last is not None:
            count = f"{self._last[0]} sample{'s' if self._last[0] != 1 else ''}"
            print(f"{self._done} {count}, {self._last[1]:.1f} images/s", file=sys.stderr)


def _bar() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[count]}"),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
