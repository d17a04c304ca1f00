"""The vendor's chip model as a judge: whole bmodels on its runtime, or one encoded command at a time."""

import os
import pickle
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.bmodel import Bmodel, write_bmodel
from tpu_deploy.codegen.isa import Engine
from tpu_deploy.errors import BadInput, CheckFailed
from tpu_deploy.runtime.chip_model_install import libraries
from tpu_deploy.runtime.feeds import RawTensor, matched

Array = npt.NDArray[Any]

TIME_LIMIT = 600.0
"""Seconds one request may take unless told otherwise; float models of the size of ResNet-50 need minutes."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"\[0x[0-9a-f]+\]$")  # a line of the call stack an assertion prints
_BLAME = re.compile(r"assert|error|fatal|fail", re.IGNORECASE)


class ChipModelError(CheckFailed):
    """The vendor's libraries refused or gave up; the message ends with the last line they printed."""


class ChipModelTimeout(ChipModelError):
    """The vendor's libraries did not answer within the time limit, which says nothing about the bmodel."""


class _Child:
    """The process with the vendor's libraries, started on the first request and again after it died."""

    def __init__(self, session: str, subject: str, time_limit: float, home: Path | None) -> None:
        folder = libraries(home)
        if folder is None:
            raise BadInput("the chip model is not installed; run `tpu-deploy chip-model install`")
        self._session, self._subject, self._folder, self._limit = session, subject, folder, time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child

    def start(self) -> None:
        script = Path(__file__).with_name("chip_model_child.py")
        command = [sys.executable, "-P", str(script), str(self._folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log)
        try:
            self._exchange(self._session, ())
        except ChipModelError:
            self.close()
            raise

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, method: str, *arguments: object) -> Any:
        """The reply; raises ChipModelError with the libraries' own words when there is none."""
        if not self.is_running:
            self.start()
        return self._exchange(method, arguments)

    def _exchange(self, method: str, arguments: tuple[object, ...]) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None
        data = pickle.dumps((method, arguments), protocol=5)
        deadline = time.monotonic() + self._limit
        try:
            process.stdin.write(len(data).to_bytes(8, "little") + data)
            process.stdin.flush()
            size = int.from_bytes(self._read(8, deadline), "little")
            status, answer = pickle.loads(self._read(size, deadline))
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise ChipModelError(f"{self._subject}: the chip model stopped: {self._last_words()}") from error
        if status == "error":
            raise ChipModelError(f"{self._subject}: {answer}: {self._last_words()}")
        return answer

    def _read(self, size: int, deadline: float) -> bytes:
        """Exactly `size` bytes of reply; raises EOFError when the child is gone, ChipModelError when time is up."""
        process = self._process
        assert process is not None and process.stdout is not None
        descriptor, pieces, missing = process.stdout.fileno(), [], size
        while missing:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.close()
                raise ChipModelTimeout(f"{self._subject}: the chip model did not answer within {self._limit:g} s")
            piece = os.read(descriptor, min(missing, 1 << 20))
            if not piece:
                raise EOFError
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _last_words(self) -> str:
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - 4096))
        lines = [_COLOUR.sub("", line).strip() for line in self._log.read().decode(errors="replace").splitlines()]
        said = [line for line in lines if line and not _FRAME.search(line)]
        blaming = [line for line in said if _BLAME.search(line)]
        return (blaming or said or ["it printed nothing"])[-1]

    def close(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._process = None


class _Session:
    """Owns a child: usable in a `with` statement, which ends the child."""

    _child: _Child

    def close(self) -> None:
        """Ends the process with the vendor's libraries; another request starts a new one."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self._child.close()


class SingleCommand(_Session):
    """The chip model executing one encoded command at a time, its memories open to reading and writing.

    Memories are "local" (lane by lane, 256 KiB each), "lanes" (the same offset of all lanes, lane by lane), "static",
    "l2" and "global" (from address 0x1_0000_0000).
    Raises ChipModelError where the chip model aborts; the next batch meets a new one with empty memories.
    """

    def __init__(self, time_limit: float = TIME_LIMIT, home: Path | None = None) -> None:
        self._child = _Child("commands", "single command", time_limit, home)

    def batch(self, steps: Sequence[tuple[Any, ...]]) -> list[bytes]:
        """What the "read" steps found, in order.

        Steps are ("write", memory, offset, bytes), ("execute", engine, command) and ("read", memory, offset, size).
        """
        found: list[bytes] = self._child.ask("batch", list(steps))
        return found

    def execute(self, engine: Engine, command: bytes) -> None:
        """Executes one command on the memories as they are."""
        self.batch([("execute", engine, command)])


class ChipModel(_Session):
    """A bmodel on the vendor's runtime and chip model, loaded once for any number of runs.

    Integers come out as on the device. Nothing the libraries print reaches the terminal.
    """

    def __init__(
        self,
        bmodel: Bmodel | str | os.PathLike[str],
        net: str | None = None,
        stage: int = 0,
        time_limit: float = TIME_LIMIT,
        home: Path | None = None,
    ) -> None:
        """Loads the file, or a model in memory by way of a temporary file; `net` defaults to the only one in it.

        `time_limit` is in seconds and holds for loading and for each run. Raises BadInput when the chip model is not
        installed or the file has no such net or stage, ChipModelError when the vendor's runtime refuses the file.
        """
        if isinstance(bmodel, Bmodel):
            self._folder = tempfile.TemporaryDirectory()
            path = Path(self._folder.name) / "model.bmodel"
            write_bmodel(bmodel, path)
        else:
            path = Path(bmodel)
        self._path = path.resolve()
        if not self._path.is_file():
            raise BadInput(f"{bmodel}: no such bmodel")
        self._child = _Child("networks", self._path.name, time_limit, home)
        names: list[str] = self._child.ask("load", str(self._path))
        self._net, self._stage = self._choose(names, net), stage
        stages, inputs, outputs = self._child.ask("tensors", self._net, stage)
        if not 0 <= stage < stages:
            raise BadInput(f"{self._path.name}: net {self._net!r} has {stages} stages; there is no stage {stage}")
        self.inputs = [RawTensor(name, np.dtype(dtype), shape) for name, dtype, shape in inputs]
        self.outputs = [RawTensor(name, np.dtype(dtype), shape) for name, dtype, shape in outputs]

    def _choose(self, names: Sequence[str], net: str | None) -> str:
        if net is None and len(names) == 1:
            return names[0]
        if net is not None and net in names:
            return net
        asked = f"has no net {net!r}" if net else "has several nets"
        raise BadInput(f"{self._path.name}: {asked}; choose one of {', '.join(names)}")

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """Each output by name, raw: the dtypes and shapes of `outputs`, bfloat16 as uint16.

        `inputs` holds raw arrays with exactly the dtypes and shapes of `self.inputs`. Raises BadInput when they differ,
        ChipModelError when the chip model fails.
        """
        feeds = matched(self.inputs, inputs, self._path.name)
        if not self._child.is_running:
            self._child.ask("load", str(self._path))
        results = self._child.ask("run", self._net, self._stage, feeds)
        return {tensor.name: result for tensor, result in zip(self.outputs, results, strict=True)}
