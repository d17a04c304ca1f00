import numpy as np
import pytest

from tpu_deploy.codegen.bmodel import write_bmodel
from tpu_deploy.runtime import chip_model_install
from tpu_deploy.runtime.chip_model import ChipModel

pytestmark = [
    pytest.mark.referee,
    pytest.mark.skipif(not chip_model_install.available(), reason="the vendor's chip model is not installed"),
]


def test_nets_stages_and_both_command_forms_run_on_the_vendors_runtime(add_model, constants, tmp_path):
    path = tmp_path / "add.bmodel"
    write_bmodel(add_model, path)
    rng = np.random.default_rng(1)
    for constant, net, stage in zip(constants, ("add", "add", "add_long"), (0, 1, 0), strict=True):
        x = rng.standard_normal(constant.shape).astype(np.float32)
        with ChipModel(path, net=net, stage=stage) as runner:
            assert np.array_equal(runner.run({"x": x})["y"], x + constant), (net, stage)
