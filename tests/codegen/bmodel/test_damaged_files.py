import gzip
import random
import struct
from pathlib import Path

import flatbuffers
import pytest

from tpu_deploy.codegen.bmodel import describe, disassembly, parse_bmodel, read_bmodel, serialize
from tpu_deploy.errors import BadInput

FOLDER = Path(__file__).parent


def refused(data: bytes) -> str:
    with pytest.raises(BadInput) as caught:
        parse_bmodel(data, "some.bmodel")
    message = str(caught.value)
    assert message.startswith("some.bmodel: ") and "\n" not in message
    return message


def use_up(data: bytes) -> None:
    """Does with a damaged file what commands do: all of it works, or a single line says why not."""
    try:
        model = parse_bmodel(data)
        describe(model)
        for line in disassembly(model):
            assert "\n" not in line
    except BadInput as error:
        assert "\n" not in str(error)


def test_what_is_no_bmodel_is_refused_by_name(tmp_path):
    for content, words in (
        (b"", "too short"),
        (bytes(64), "begins with 0x00000000"),
        (b"\x89PNG" * 100, "begins with"),
    ):
        path = tmp_path / "x.bmodel"
        path.write_bytes(content)
        with pytest.raises(BadInput, match=words):
            read_bmodel(path)
    with pytest.raises(BadInput, match="is a folder"):
        read_bmodel(tmp_path)
    with pytest.raises(BadInput, match="is not there"):
        read_bmodel(tmp_path / "none.bmodel")
    with pytest.raises(BadInput, match="is no file"):
        read_bmodel("/dev/null")


def test_any_truncation_is_refused(add_model):
    data = serialize(add_model)
    for size in (*range(0, 80, 7), 300, 1000, 4095, 4096, 9000, len(data) - 4096, len(data) - 1):
        assert "cut off" in refused(data[:size]) or size < 64


def test_sizes_and_offsets_out_of_range_are_refused(add_model):
    data = serialize(add_model)
    for at, form in ((4, "<I"), (8, "<I"), (12, "<Q")):
        damaged = bytearray(data)
        struct.pack_into(form, damaged, at, 0xFFFFFFF0)
        refused(bytes(damaged))
    reader = parse_bmodel(data)
    assert reader.nets[0].stages[0].coefficients is not None
    size = struct.pack("<Q", len(reader.nets[0].stages[0].coefficients.data))
    place = data.index(struct.pack("<QQ", 0, int.from_bytes(size, "little")))
    damaged = bytearray(data)
    struct.pack_into("<Q", damaged, place, 1 << 40)
    assert "reaches to byte" in refused(bytes(damaged))


def test_damaged_coefficients_are_found_when_asked(add_model, tmp_path):
    data = bytearray(serialize(add_model))
    constant = bytes(add_model.nets[0].stages[1].coefficients.data)
    data[bytes(data).index(constant) + 5] ^= 1
    path = tmp_path / "m.bmodel"
    path.write_bytes(data)
    model = read_bmodel(path)
    assert [stage["checksum"] for stage in describe(model)["nets"][0]["stages"]] == ["ok", "mismatch"]
    with pytest.raises(BadInput, match=r"m\.bmodel: the coefficients of net 'add', stage 1, do not match"):
        read_bmodel(path, verify=True)


def test_tables_that_contain_each_other_many_times_end_in_a_refusal():
    """A few kilobytes could otherwise unfold to a million million tables."""
    builder = flatbuffers.Builder(0)

    def nested(slot: int, tables: int, inner: int | None) -> int:
        vector = None
        if inner is not None:
            builder.StartVector(4, tables, 4)
            for _ in range(tables):
                builder.PrependUOffsetTRelative(inner)
            vector = builder.EndVector()
        builder.StartObject(slot + 1)
        if vector is not None:
            builder.PrependUOffsetTRelativeSlot(slot, vector, 0)
        return builder.EndObject()

    group = nested(0, 0, None)
    sub_net = nested(1, 1000, group)
    stage = nested(12, 1000, sub_net)
    net = nested(3, 1000, stage)
    builder.Finish(nested(4, 1000, net))
    tables = bytes(builder.Output())
    assert "too often" in refused(struct.pack("<IIIQ44x", 0xFF55AAEE, 64, len(tables), 0) + tables)


def test_broken_queues_are_refused_when_decoded(add_model):
    data = serialize(add_model)
    stage = add_model.nets[0].stages[0]
    damaged = data.replace(stage.groups[0].gdma[:16], b"\xff" * 16)
    model = parse_bmodel(damaged, "some.bmodel")
    for use in (lambda: describe(model), lambda: list(disassembly(model))):
        with pytest.raises(BadInput, match=r"some\.bmodel: net 'add' stage 0 group 0: GDMA queue: offset 0x0: unknown"):
            use()


@pytest.mark.parametrize("source", ["own", "vendor_two_nets_two_stages", "vendor_bm1688"])
def test_random_damage_gives_a_model_or_one_line(source, add_model):
    data = serialize(add_model) if source == "own" else gzip.decompress((FOLDER / f"{source}.bmodel.gz").read_bytes())
    chance = random.Random(source)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            # Most of what can go wrong is in header and tables.
            place = chance.randrange(min(4300, len(data)) if chance.random() < 0.9 else len(data))
            damaged[place] = chance.choice(
                [0, 255, 128, chance.randrange(256), damaged[place] ^ 1 << chance.randrange(8)]
            )
        if chance.random() < 0.1:
            damaged = damaged[: chance.randrange(len(damaged))]
        use_up(bytes(damaged))
        try:
            parse_bmodel(bytes(damaged))
            outcomes.add("model")
        except BadInput:
            outcomes.add("refused")
    assert outcomes == {"model", "refused"}
