"""A folder with everything a command can be asked to read, and commands run in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from small_model import samples, saved, small_model

import tpu_deploy
from tpu_deploy import cli


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> list[str]:
        """The lines on stderr but for progress."""
        return [line for line in self.err.splitlines() if not line.startswith("calibrated ")]


Command = Callable[..., Finished]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: model.onnx, samples.npz, model.table (and statistics), model.bmodel."""
    folder = tmp_path_factory.mktemp("made")
    model = saved(small_model(), folder / "model.onnx")
    np.savez(folder / "samples.npz", image=samples(8))
    np.savez(folder / "one.npz", image=samples(1, seed=7))
    table = tpu_deploy.calibrate(model, folder / "samples.npz", output=folder / "model.table")
    tpu_deploy.deploy(model, calibration=table, output=folder / "model.bmodel", verify=False)
    return folder


@pytest.fixture(autouse=True)
def no_chip_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Lets only referee tests find the vendor's chip model."""
    if request.node.get_closest_marker("referee") is None:
        monkeypatch.setenv("TPU_MLIR_HOME", str(tmp_path / "no-chip-model"))


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    target = tmp_path / "work"
    shutil.copytree(made, target)
    monkeypatch.chdir(target)
    return target


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs one command line."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(folder: Path, command: Command) -> Callable[..., str]:
    """Runs a command that must be refused: exit code 2, one line, nothing printed, nothing left behind."""

    def run(*arguments: object) -> str:
        before = snapshot(folder)
        finished = command(*arguments)
        assert (finished.code, finished.out) == (2, ""), finished
        assert len(finished.told) == 1, finished.err
        assert "Traceback" not in finished.err
        assert snapshot(folder) == before
        return finished.told[0].removeprefix("tpu-deploy: ")

    return run


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}
