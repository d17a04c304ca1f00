import subprocess
import sys

import pytest

import tpu_deploy.calibration as calibration


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("numpy", "onnx", "onnxruntime", "PIL")
    code = f"import sys, tpu_deploy.calibration; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_found():
    assert all(getattr(calibration, name) is not None for name in calibration.__all__)
    assert set(calibration.__all__) == set(calibration.HOME)
    with pytest.raises(AttributeError, match="nothing"):
        calibration.nothing  # noqa: B018
