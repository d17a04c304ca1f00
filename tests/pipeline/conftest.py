"""A small model on disk with its calibration table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import CalibrationTable


@dataclass(frozen=True)
class Calibrated:
    """A model file and its table."""

    model: Path
    table: CalibrationTable


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    model = saved(small_model(), tmp_path_factory.mktemp("pipeline") / "model.onnx")
    return Calibrated(model, tpu_deploy.calibrate(model, feeds(8)))


@pytest.fixture(autouse=True)
def no_chip_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Lets only referee tests find the vendor's chip model."""
    if request.node.get_closest_marker("referee") is None:
        monkeypatch.setenv("TPU_MLIR_HOME", str(tmp_path / "no-chip-model"))
