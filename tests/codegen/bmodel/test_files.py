import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.codegen.bmodel import (
    DTYPES,
    Bmodel,
    Coefficients,
    CommandGroup,
    KernelModule,
    Location,
    Net,
    Stage,
    SubNet,
    TensorInfo,
    describe,
    parse_bmodel,
    read_bmodel,
    serialize,
    write_bmodel,
)
from tpu_deploy.errors import BadInput

names = st.text(max_size=12)
addresses = st.integers(0, (1 << 39) - 1)
sizes = st.integers(0, 1 << 30)
known = [dtype for dtype in DTYPES if "int4" not in dtype]
tensors = st.builds(
    TensorInfo,
    name=names,
    dtype=st.sampled_from(known),
    shape=st.lists(st.integers(0, 300), max_size=6).map(tuple),
    device_addr=addresses,
    scale=st.floats(allow_nan=False, width=32),
    zero_point=st.integers(-(1 << 31), (1 << 31) - 1),
)
queues = st.integers(0, 3).flatmap(lambda count: st.binary(min_size=128 * count, max_size=128 * count))
groups = st.lists(st.builds(CommandGroup, queues, queues, sizes, sizes), max_size=2).map(tuple)
tensor_lists = st.lists(tensors, max_size=2).map(tuple)
sub_nets = st.builds(
    SubNet,
    kind=st.just("tpu"),
    inputs=tensor_lists,
    outputs=tensor_lists,
    groups=groups,
    cores=st.lists(groups, max_size=2).map(tuple),
    number=st.integers(-1, 9),
    next_numbers=st.lists(st.integers(-1, 9), min_size=1, max_size=3).map(tuple),
)


@st.composite
def coefficients(draw: st.DrawFn) -> Coefficients:
    data = draw(st.binary(max_size=5000))
    ends = sorted(draw(st.lists(st.integers(0, len(data)), min_size=1, max_size=3)))
    locations = [Location(draw(names), start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return Coefficients(draw(addresses), data, hashlib.sha256(data).digest(), tuple(locations))


stages = st.builds(
    Stage,
    inputs=tensor_lists,
    outputs=tensor_lists,
    ctx_addr=addresses,
    ctx_size=st.just(1 << 20),
    coefficients=st.none() | coefficients(),
    groups=groups,
    sub_nets=st.just(()) | st.lists(sub_nets, min_size=2, max_size=3).map(tuple),
    core_count=st.integers(1, 4),
    io_addr=addresses,
    io_size=sizes,
)
nets = st.builds(Net, names, st.lists(stages, max_size=2).map(tuple), st.integers(0, 4))
models = st.builds(
    Bmodel,
    chip=st.sampled_from(["BM1684X", "BM1688"]),
    nets=st.lists(nets, max_size=2).map(tuple),
    kernel_module=st.none() | st.builds(KernelModule, names, st.binary(min_size=1, max_size=5000)),
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(models)
def test_reading_gives_back_what_was_written(model):
    assert parse_bmodel(serialize(model)) == model


def test_equal_models_give_equal_bytes_and_the_same_through_a_file(add_model, tmp_path):
    path = tmp_path / "m.bmodel"
    write_bmodel(add_model, path)
    data = path.read_bytes()
    assert data == serialize(add_model) == serialize(replace(add_model))
    written = read_bmodel(path, verify=True)
    assert serialize(written) == data
    assert written.time == add_model.time and written.neuron_size == add_model.nets[0].stages[0].ctx_size
    assert written.source == str(path)


def test_header_and_every_binary_lie_on_page_boundaries(add_model):
    data = serialize(add_model)
    magic, header, tables, binaries, *reserved = struct.unpack_from("<IIIQ11I", data)
    assert (magic, header, set(reserved)) == (0xFF55AAEE, 64, {0})
    assert (header + tables) % 4096 == 0 and len(data) == header + tables + binaries
    for stage in add_model.nets[0].stages:
        constant = bytes(stage.coefficients.data)
        assert data.index(constant) % 4096 == 0
        assert data.index(stage.groups[0].gdma) % 4096 == 0
        assert hashlib.sha256(constant).digest() in data[: header + tables]


def test_queues_are_padded_to_128_bytes_and_keep_their_counts(add_model):
    group = parse_bmodel(serialize(add_model)).nets[0].stages[0].groups[0]
    given_group = add_model.nets[0].stages[0].groups[0]
    assert len(group.tiu) == 128 and len(group.gdma) == 384
    assert group.tiu[: len(given_group.tiu)] == given_group.tiu and not any(group.tiu[len(given_group.tiu) :])
    assert (group.tiu_count, group.gdma_count) == (2, 4)


def test_equal_coefficients_of_two_stages_are_stored_once(constants):
    data = constants[0].tobytes()
    stage = Stage((), (), 1 << 33, 4096, Coefficients(1 << 32, data), ())
    once = serialize(Bmodel("BM1684X", (Net("a", (stage,)),)))
    twice = serialize(Bmodel("BM1684X", (Net("a", (stage, stage)), Net("b", (stage,)))))
    assert len(twice) == len(once)
    assert describe(parse_bmodel(twice))["memory"]["coefficients"] == len(data)


def test_what_the_runtime_would_get_wrong_is_not_written(constants):
    small = Stage((), (), 1 << 33, 4096, None, ())
    with pytest.raises(ValueError, match="first stage of net n must have the largest ctx_size, 8192"):
        serialize(Bmodel("BM1684X", (Net("n", (small, replace(small, ctx_size=8192))),)))
    with pytest.raises(ValueError, match="dynamic"):
        serialize(Bmodel("BM1684X", (Net("n", (replace(small, is_dynamic=True),)),)))
    with pytest.raises(ValueError, match="kind cpu"):
        serialize(Bmodel("BM1684X", (Net("n", (replace(small, sub_nets=(SubNet("cpu", (), ()),)),)),)))


def test_a_kernel_module_is_embedded_whole(add_model):
    module = KernelModule("firmware.so", np.arange(10_000, dtype=np.uint32).tobytes())
    model = parse_bmodel(serialize(replace(add_model, kernel_module=module)))
    assert model.kernel_module == module
    assert describe(model)["memory"]["kernel_module"] == 40_000


def test_tensor_sizes_follow_from_shape_and_type():
    assert TensorInfo("a", "bfloat16", (2, 3), 0).size == 12
    assert TensorInfo("a", "int4", (3,), 0).size == 2
    assert TensorInfo("a", "float32", (), 0).size == 4
    assert TensorInfo("a", "int8", (4,), 0, size=64).size == 64


def test_a_failed_write_leaves_the_old_file(add_model, tmp_path):
    path = tmp_path / "m.bmodel"
    path.write_bytes(b"old")
    dynamic = replace(add_model.nets[0].stages[0], is_dynamic=True)
    with pytest.raises(ValueError, match="dynamic"):
        write_bmodel(replace(add_model, nets=(Net("n", (dynamic,)),)), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput):
        write_bmodel(add_model, tmp_path / "missing" / "m.bmodel")
