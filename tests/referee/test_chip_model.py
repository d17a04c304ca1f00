"""The vendor's chip model in its own process: runs, refusals, crashes, time limits."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_commands import at

from tpu_deploy.codegen.bmodel import Bmodel, parse_bmodel
from tpu_deploy.codegen.isa import encode
from tpu_deploy.errors import BadInput
from tpu_deploy.runtime.chip_model import ChipModel, ChipModelError, SingleCommand
from tpu_deploy.runtime.chip_model_install import available
from tpu_deploy.runtime.simulator import Simulator

VENDOR_FILE = Path(__file__).parents[1] / "codegen" / "bmodel" / "vendor_two_nets_two_stages.bmodel.gz"

pytestmark = [
    pytest.mark.referee,
    pytest.mark.skipif(not available(), reason="the chip model is not installed: run tpu-deploy chip-model install"),
]


@pytest.fixture(scope="module")
def vendor_model() -> Bmodel:
    return parse_bmodel(gzip.decompress(VENDOR_FILE.read_bytes()), VENDOR_FILE.name)


def feeds(inputs: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        tensor.name: rng.standard_normal(tensor.shape).astype(tensor.dtype)
        if tensor.dtype.kind == "f"
        else rng.integers(0, 128, tensor.shape).astype(tensor.dtype)
        for tensor in inputs
    }


def test_the_simulator_computes_the_vendors_own_file_bit_for_bit(vendor_model, capfd):
    for net in vendor_model.nets:
        for stage in range(len(net.stages)):
            simulator = Simulator(vendor_model, net=net.name, stage=stage, uninitialized="fail")
            with ChipModel(vendor_model, net=net.name, stage=stage) as chip_model:
                assert chip_model.inputs == simulator.inputs and chip_model.outputs == simulator.outputs
                for seed in range(2):
                    x = feeds(simulator.inputs, seed)
                    expected, found = chip_model.run(x), simulator.run(x)
                    assert expected.keys() == found.keys()
                    assert all(np.array_equal(expected[name], found[name]) for name in found), (net.name, stage)
    assert capfd.readouterr() == ("", ""), "the vendor's libraries print nothing to the terminal"


def test_nets_and_stages_that_do_not_exist_are_named(vendor_model):
    names = ", ".join(net.name for net in vendor_model.nets)
    with pytest.raises(BadInput, match=f"has several nets; choose one of {names}"):
        ChipModel(vendor_model)
    with pytest.raises(BadInput, match="has no net 'absent'"):
        ChipModel(vendor_model, net="absent")
    with pytest.raises(BadInput, match="there is no stage 9"):
        ChipModel(vendor_model, net=vendor_model.nets[0].name, stage=9)


def test_a_file_the_vendor_cannot_read_is_refused(tmp_path):
    path = tmp_path / "noise.bmodel"
    path.write_bytes(b"noise" * 1000)
    with pytest.raises(ChipModelError) as caught:
        ChipModel(path)
    assert str(caught.value).startswith("noise.bmodel: ") and "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="no such bmodel"):
        ChipModel(tmp_path / "absent.bmodel")


def misaligned_transfer() -> bytes:
    sides = {"src_start_addr_h8": 1, "dst_start_addr_l32": 0x0800_0001, "src_cstride": 8, "src_data_format": 3}
    mask = {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
    return encode("DMA_general", {"cmd_id": 1, "cmd_id_en": 1} | sides | mask)


def test_a_failing_assertion_becomes_one_line_and_the_next_command_meets_a_new_chip():
    with SingleCommand() as chip:
        with pytest.raises(ChipModelError) as caught:
            chip.execute("GDMA", misaligned_transfer())
        assert "\n" not in str(caught.value) and "ASSERT" in str(caught.value)
        fields = {"tsk_eu_typ": 19, "tsk_opd_num": 1, "opd0_const": 1, "opd0_addr": 7, "res0_addr": at(3, 64)}
        shape = {"res0_n": 1, "res0_c": 1, "res0_h": 1, "res0_w": 4}
        copy = encode("sAR", {"cmd_id": 1, "cmd_id_en": 1} | fields | shape)
        steps = [("write", "lanes", 64, bytes(64 * 8)), ("execute", "TIU", copy), ("read", "local", at(3, 64), 8)]
        assert chip.batch(steps) == [bytes([7] * 4 + [0] * 4)]


def test_a_run_that_takes_too_long_is_ended(vendor_model):
    net = vendor_model.nets[0].name
    with ChipModel(vendor_model, net=net, time_limit=30) as chip_model:
        chip_model._child._limit = 0.0
        with pytest.raises(ChipModelError, match="did not answer within 0 s"):
            chip_model.run(feeds(chip_model.inputs, 0))
        chip_model._child._limit = 30.0
        assert chip_model.run(feeds(chip_model.inputs, 0))
