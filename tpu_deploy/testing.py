"""For a project's own tests: fail when a deployed network got worse than its baseline.

    from tpu_deploy.testing import assert_no_regression

    def test_detector_keeps_its_accuracy(tmp_path):
        tpu_deploy.deploy("detector.onnx", data="samples/", output=tmp_path / "d.bmodel", report=tmp_path / "report")
        assert_no_regression(tmp_path / "report", "baselines/detector.json")

`pytest --update-baselines` writes the baselines anew. The module is a pytest plugin: installing the package is enough.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from tpu_deploy.reports.tolerances import Tolerances

OPTION = "--update-baselines"

_updating = False
"""Whether this run of pytest was asked to write baselines anew."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Gives pytest the option that writes baselines anew."""
    group = parser.getgroup("tpu-deploy")
    group.addoption(OPTION, action="store_true", default=False, help="make this run's reports the baselines")


def pytest_configure(config: pytest.Config) -> None:
    """Notes what pytest was asked for."""
    global _updating
    _updating = bool(config.getoption(OPTION))


def assert_no_regression(
    report: str | os.PathLike[str],
    baseline: str | os.PathLike[str],
    tolerances: Tolerances | str | os.PathLike[str] | None = None,
    update: bool | None = None,
    metrics: str | os.PathLike[str] | None = None,
) -> None:
    """Fails, naming every figure that got worse and why, when a report (report.json or its folder) breaks a baseline.

    `tolerances` and `metrics` as in `tpu_deploy.check`; `update` (default: whether pytest runs with
    `--update-baselines`) makes the report the baseline instead. Raises AssertionError, and BadInput when a file
    cannot be used.
    """
    import tpu_deploy
    from tpu_deploy.reports import regression_text

    found = tpu_deploy.check(report, baseline, tolerances, _updating if update is None else update, metrics)
    if found.worse:
        raise AssertionError(f"{baseline}: {found.label} got worse\n{regression_text.terminal(found)}")
