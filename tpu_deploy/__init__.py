"""A compiler from ONNX networks to verified .bmodel files for Sophgo TPUs.

    table = tpu_deploy.calibrate("m.onnx", data=samples)
    built = tpu_deploy.deploy("m.onnx", chip="bm1684x", precision="int8", calibration=table, output="m.bmodel")
    outputs = tpu_deploy.load("m.bmodel", on="simulator").run(feeds)

Feeds and results are dictionaries from ONNX name to array, samples any iterable of feeds. What is named here is loaded
when it is first used: importing the package costs nothing.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from tpu_deploy.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from tpu_deploy.calibration import CalibrationTable, Preprocessing
    from tpu_deploy.pipeline.calibrate import calibrate
    from tpu_deploy.pipeline.deployment import Deployment, deploy
    from tpu_deploy.pipeline.evaluation import evaluate
    from tpu_deploy.pipeline.guard import check
    from tpu_deploy.pipeline.inspection import Inspection, inspect
    from tpu_deploy.pipeline.profiling import profile
    from tpu_deploy.pipeline.report import diff, report
    from tpu_deploy.pipeline.search import Search, search
    from tpu_deploy.pipeline.shards import calibrate_shard, merge_shards
    from tpu_deploy.runtime.session import Session, load

__version__ = "0.1.0"

_FOLDER = os.path.dirname(os.path.dirname(__file__))
if os.path.isfile(os.path.join(_FOLDER, "pyproject.toml")):
    # Started inside a checkout, Python finds this folder before the installed package: its other folders lie beside it.
    __path__.append(_FOLDER)

_HOMES = {
    "CalibrationTable": "calibration",
    "Deployment": "pipeline.deployment",
    "Inspection": "pipeline.inspection",
    "Preprocessing": "calibration",
    "Search": "pipeline.search",
    "Session": "runtime.session",
    "calibrate": "pipeline.calibrate",
    "calibrate_shard": "pipeline.shards",
    "check": "pipeline.guard",
    "deploy": "pipeline.deployment",
    "diff": "pipeline.report",
    "evaluate": "pipeline.evaluation",
    "inspect": "pipeline.inspection",
    "load": "runtime.session",
    "merge_shards": "pipeline.shards",
    "profile": "pipeline.profiling",
    "report": "pipeline.report",
    "search": "pipeline.search",
}

__all__ = [
    "BadInput",
    "CalibrationTable",
    "CheckFailed",
    "Deployment",
    "Inspection",
    "Preprocessing",
    "Search",
    "Session",
    "__version__",
    "calibrate",
    "calibrate_shard",
    "check",
    "deploy",
    "diff",
    "evaluate",
    "inspect",
    "load",
    "merge_shards",
    "profile",
    "report",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
