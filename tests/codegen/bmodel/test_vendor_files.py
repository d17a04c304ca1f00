"""Files of TPU-MLIR 1.30.2, made from a convolution with ReLU and max pooling on 8 x 8 pixels.

Made with `model_deploy --processor bm1684x` (INT8 with 8-bit inputs and outputs for batch 1 and 2 as two stages, F32 as
a second net, joined by `model_tool --combine`) and `--processor bm1688`; firmware taken out by `--kernel_remove`.
"""

import gzip
from pathlib import Path

import pytest

from tpu_deploy.codegen.bmodel import (
    Bmodel,
    decode_group,
    describe,
    disassembly,
    parse_bmodel,
    serialize,
    verify_coefficients,
)
from tpu_deploy.codegen.isa import encode

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def two_nets() -> Bmodel:
    return parse_bmodel(gzip.decompress((FOLDER / "vendor_two_nets_two_stages.bmodel.gz").read_bytes()))


def test_nets_stages_and_tensors_are_read(two_nets):
    verify_coefficients(two_nets)
    assert two_nets.chip == "BM1684X" and two_nets.kernel_module is None
    assert [(net.name, len(net.stages)) for net in two_nets.nets] == [("tiny", 2), ("other", 1)]
    quantized, twice = two_nets.nets[0].stages
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.zero_point) for tensor in quantized.inputs] == [
        ("x", "int8", (1, 3, 8, 8), 21)
    ]
    assert quantized.inputs[0].scale == pytest.approx(38.3157, rel=1e-5)
    assert quantized.outputs[0].scale == pytest.approx(0.07561, rel=1e-5)
    assert twice.outputs[0].shape == (2, 4, 4, 4) and twice.outputs[0].dtype == "uint8"
    assert two_nets.nets[1].stages[0].inputs[0].dtype == "float32"


def test_every_command_encodes_to_the_bytes_it_was_decoded_from(two_nets):
    total = 0
    for net in two_nets.nets:
        for stage in net.stages:
            for _, group in stage.command_groups():
                for queue, commands in zip((group.tiu, group.gdma), decode_group(group), strict=True):
                    encoded = b"".join(encode(command.name, command.fields) for command in commands)
                    assert queue[: len(encoded)] == encoded and not any(queue[len(encoded) :])
                    total += len(commands)
    assert total == 47


def test_operations_are_recognized(two_nets):
    stage = describe(two_nets)["nets"][0]["stages"][0]
    assert stage["checksum"] == "ok"
    assert stage["commands"]["TIU"]["total"] == 13 and stage["commands"]["GDMA"]["total"] == 6
    assert {"CONV", "AR.adds", "RQ_DQ.rq_int", "PorD.max"} <= set(stage["commands"]["TIU"]["opcodes"])
    text = "\n".join(disassembly(two_nets))
    assert "CONV y=i32[1,4,8,8]" in text and "PorD.max y=u8[2,4,4,4]" in text and "DDR+0x" in text


def test_written_again_it_reads_the_same(two_nets):
    assert parse_bmodel(serialize(two_nets)) == two_nets


def test_a_file_for_another_chip_is_listed_without_decoding():
    model = parse_bmodel(gzip.decompress((FOLDER / "vendor_bm1688.bmodel.gz").read_bytes()))
    found = describe(model)
    stage = found["nets"][0]["stages"][0]
    assert found["chip"] == "BM1688" and found["nets"][0]["addr_mode"] == 2
    assert stage["inputs"][0]["shape"] == [1, 3, 8, 8] and stage["outputs"][0]["dtype"] == "float32"
    assert stage["commands"] == {"TIU": {"total": 20, "opcodes": None}, "GDMA": {"total": 4, "opcodes": None}}
