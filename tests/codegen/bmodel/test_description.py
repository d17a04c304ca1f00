import json
from dataclasses import replace

import pytest

from tpu_deploy.codegen.bmodel import Net, SubNet, TensorInfo, decode_group, describe, disassembly
from tpu_deploy.errors import BadInput


def test_a_description_is_plain_data_with_tensors_memory_and_commands(add_model):
    found = describe(add_model)
    assert json.loads(json.dumps(found)) == found
    assert found["chip"] == "BM1684X" and [net["name"] for net in found["nets"]] == ["add", "add_long"]
    stage = found["nets"][0]["stages"][0]
    assert stage["inputs"][0]["shape"] == [2, 70, 9, 13] and stage["outputs"][0]["dtype"] == "float32"
    assert stage["memory"]["coefficients"] == 2 * 70 * 9 * 13 * 4
    assert stage["checksum"] == "none"
    assert stage["commands"]["TIU"] == {"total": 2, "opcodes": {"AR.add": 1, "SYSID.end": 1}}
    assert stage["commands"]["GDMA"] == {"total": 4, "opcodes": {"GDMA.sys.end": 1, "GDMA.tensor": 3}}
    assert found["memory"]["neurons"] == add_model.nets[0].stages[0].ctx_size


def test_quantized_tensors_show_scale_and_zero_point(add_model):
    stage = replace(add_model.nets[0].stages[0], inputs=(TensorInfo("x", "int8", (4,), 1 << 32, 12.5, -3),))
    tensor = describe(replace(add_model, nets=(Net("n", (stage,)),)))["nets"][0]["stages"][0]["inputs"][0]
    assert (tensor["dtype"], tensor["scale"], tensor["zero_point"], tensor["size"]) == ("int8", 12.5, -3, 4)


def test_disassembly_lists_commands_in_an_order_that_respects_their_dependencies(add_model):
    lines = list(disassembly(add_model))
    assert [line for line in lines if line.startswith("#")] == [
        "# net 'add' stage 0 group 0",
        "# net 'add' stage 1 group 0",
        "# net 'add_long' stage 0 group 0",
    ]
    heads = [line.split(" ")[0:2] for line in lines[1:7]]
    order = [f"{engine}{number.rstrip(':')}" for engine, number in heads]
    assert order == ["GDMA1", "GDMA2", "TIU1", "GDMA3", "GDMA4", "TIU2"]
    assert lines[3].startswith("TIU 1 after GDMA 2: AR.add y=f32[2,70,9,13] lane0+0x10000, a=f32[2,70,9,13] lane0+0x0")


def test_queues_that_wait_for_each_other_are_listed_all_the_same(add_model):
    stage = add_model.nets[0].stages[0]
    group = stage.groups[0]
    first = int.from_bytes(group.gdma[:96], "little") | 1 << 64  # the first transfer waits for the addition
    knotted = replace(group, gdma=first.to_bytes(96, "little") + group.gdma[96:])
    model = replace(add_model, nets=(Net("n", (replace(stage, groups=(knotted,)),)),))
    assert len(list(disassembly(model))) == 7


def test_counts_that_do_not_fit_the_queues_are_refused(add_model):
    group = replace(add_model.nets[0].stages[0].groups[0], gdma_count=5)
    with pytest.raises(BadInput, match="GDMA queue: has 4 commands, not 5"):
        decode_group(group)


def test_models_of_another_chip_are_described_but_not_disassembled(add_model):
    stage = add_model.nets[0].stages[0]
    part = SubNet("tpu", stage.inputs, stage.outputs, cores=(stage.groups, stage.groups))
    stage = replace(stage, groups=(), sub_nets=(part,), core_count=2)
    model = replace(add_model, chip="BM1688", nets=(Net("n", (stage,)),))
    found = describe(model)["nets"][0]["stages"][0]
    assert found["groups"] == ["sub net 0 core 0 group 0", "sub net 0 core 1 group 0"]
    assert found["commands"] == {"TIU": {"total": 4, "opcodes": None}, "GDMA": {"total": 8, "opcodes": None}}
    with pytest.raises(BadInput, match="is for 'BM1688'"):
        next(iter(disassembly(model)))
