"""Samples to statistics to thresholds to a table.

    samples = open_samples("images/", inputs)
    statistics = collect_statistics("model.onnx", samples)
    table = CalibrationTable.of(statistics, "mse")
    table.write("model.table")

What is named here is loaded when it is first used: importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tpu_deploy.calibration.channels import ChannelStatistics
    from tpu_deploy.calibration.collect import collect_statistics
    from tpu_deploy.calibration.histogram import Histogram
    from tpu_deploy.calibration.samples import Feed, InputSpec, Preprocessing, Samples, open_samples
    from tpu_deploy.calibration.statistics import Statistics, merge
    from tpu_deploy.calibration.table import CalibrationTable
    from tpu_deploy.calibration.thresholds import Threshold

HOME = {
    "CalibrationTable": "table",
    "ChannelStatistics": "channels",
    "Feed": "samples",
    "Histogram": "histogram",
    "InputSpec": "samples",
    "Preprocessing": "samples",
    "Samples": "samples",
    "Statistics": "statistics",
    "Threshold": "thresholds",
    "collect_statistics": "collect",
    "merge": "statistics",
    "open_samples": "samples",
}
"""The module that defines each public name."""

__all__ = [
    "CalibrationTable",
    "ChannelStatistics",
    "Feed",
    "Histogram",
    "InputSpec",
    "Preprocessing",
    "Samples",
    "Statistics",
    "Threshold",
    "collect_statistics",
    "merge",
    "open_samples",
]


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
