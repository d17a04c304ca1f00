"""Networks whose structure is awkward for placing values: what is returned, renamed, joined, cut and shared."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exactness import assert_exact, assert_exact_on_chip_model, extremes, noise, on_chip_model
from network_parts import Parts, tangle
from random_networks import ANY_RANK, chain
from xdsl.dialects.builtin import Float32Type

from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen import compile as compile_module
from tpu_deploy.codegen.bmodel import decode_group, serialize
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, shape_of, tensor_type, uniform_of
from tpu_deploy.ir.text import to_text
from tpu_deploy.runtime.reference import Reference

STRUCTURES = {}


def structure(build):
    """Registers a network whose name is the claim that it is exact."""
    STRUCTURES[build.__name__.replace("_", " ")] = build
    return build


@structure
def several_outputs_one_of_them_used_further() -> Network:
    p = Parts((2, 20, 9, 9))
    x = p.same_conv(p.start(), 30)
    y = p.lut(x)
    return p.finish(x, p.same_conv(y, 7), y)


@structure
def the_same_value_returned_twice() -> Network:
    p = Parts((1, 5, 6, 7))
    x = p.lut(p.start())
    return p.returning(x, x, p.lut(x), x)


@structure
def an_output_that_is_an_input() -> Network:
    p = Parts((2, 3, 4))
    return p.returning(p.network.inputs[0], p.lut(p.start()), p.network.inputs[0])


@structure
def a_quantized_output_that_is_a_quantized_input() -> Network:
    p = Parts((2, 3, 4), (5,), quantized_io=True)
    return p.returning(p.start(1), p.lut(p.start(0)), p.start(0))


@structure
def an_input_nobody_reads() -> Network:
    p = Parts((2, 3, 4), (7, 7))
    return p.finish(p.lut(p.start()))


@structure
def several_inputs_of_different_ranks() -> Network:
    p = Parts((2, 3, 4, 5), (5,), (4, 1), (2, 3, 4, 5))
    a, b, c, d = (p.start(k) for k in range(4))
    return p.finish(p.add(a, b), p.mul(c, p.add(d, a)))


@structure
def inputs_moved_straight_to_outputs() -> Network:
    p = Parts((2, 12, 5, 4), (2, 3, 5, 4))
    x, other = (p.start(k) for k in (0, 1))
    other = p.requantize(other, x)
    return p.returning(
        p.reshape(x, 6, 4, 20),
        p.permute(x, 3, 1, 0, 2),
        p.slice(x, (1, 2, 0, 3), (1, 5, 2, 2), (1, 2, 2, -1)),
        p.concat(1, x, other),
        p.pad(x, (0, 1, 2, 0), (1, 0, 0, 3)),
    )


@structure
def float32_inputs_moved_straight_to_outputs() -> Network:
    p = Parts((2, 12, 5, 40))
    x = p.network.inputs[0]
    return p.returning(
        p.reshape(x, 6, 4, 200),
        p.permute(x, 3, 1, 0, 2),
        p.slice(x, (1, 2, 0, 39), (1, 5, 2, 14), (1, 2, 2, -2)),
        p.concat(3, x, x),
    )


@structure
def only_operations_on_shapes_of_quantized_inputs() -> Network:
    p = Parts((3, 4, 5), quantized_io=True)
    x = p.permute(p.start(), 2, 0, 1)
    return p.returning(p.reshape(p.concat(0, x, x, p.reshape(p.start(), 5, 3, 4)), 180))


@structure
def quantized_inputs_and_outputs_around_a_convolution() -> Network:
    p = Parts((2, 9, 11, 6), seed=5, quantized_io=True)
    return p.returning(p.same_conv(p.start(), 70))


@structure
def a_concatenation_of_a_concatenation() -> Network:
    p = Parts((1, 6, 9, 9))
    x = p.start()
    a, b = p.lut(x), p.lut(x)
    inner = p.concat(1, a, b)
    return p.finish(p.concat(1, inner, x, inner), inner, a)


@structure
def a_concatenation_of_the_same_operand_twice() -> Network:
    p = Parts((2, 6, 9, 5))
    x = p.lut(p.start())
    return p.finish(*(p.concat(axis, x, x) for axis in range(4)))


@structure
def an_operand_of_two_concatenations() -> Network:
    p = Parts((1, 6, 9, 9))
    x = p.lut(p.start())
    y = p.lut(x)
    return p.finish(p.concat(1, x, y), p.concat(1, y, x), p.concat(3, x, y))


@structure
def an_operand_of_a_concatenation_that_is_also_an_output() -> Network:
    p = Parts((1, 6, 9, 9))
    x = p.lut(p.start())
    return p.returning(x, p.concat(1, x, p.lut(x)))


@structure
def concatenated_views_of_computed_values() -> Network:
    p = Parts((2, 6, 8, 8))
    x = p.lut(p.start())
    turned, half = p.permute(x, 0, 1, 3, 2), p.slice(x, (0, 1, 0, 0), (2, 3, 8, 8))
    return p.finish(p.same_conv(p.concat(1, x, turned, half, p.reshape(x, 2, 6, 8, 8)), 9), p.concat(0, x, turned))


@structure
def a_part_of_a_concatenation_read_after_it() -> Network:
    p = Parts((1, 64, 9, 9))
    x = p.lut(p.start())
    y = p.requantize(p.same_conv(x, 64), x)
    whole = p.concat(1, x, y)
    return p.finish(p.conv(whole, 20), p.conv(y, 9), p.add(x, y), p.slice(whole, (0, 32, 0, 0), (1, 64, 9, 9)))


@structure
def strided_slices_feeding_every_kind_of_reader() -> Network:
    p = Parts((2, 70, 16, 16))
    x = p.lut(p.start())
    y = p.slice(x, (0, 1, 1, 0), (2, 35, 8, 6), (1, 2, 2, 3))
    return p.finish(
        p.same_conv(y, 8), p.same_conv(y, 35, group=35), p.lut(y), p.matmul(y, 5), p.max_pool(y, (2, 2)),
        p.average_pool(y, (3, 2), (2, 1)), p.add(y, y), p.mul(y, p.slice(y, (0, 0, 0, 0), (1, 35, 1, 6))),
    )  # fmt: skip


@structure
def transposed_values_feeding_every_kind_of_reader() -> Network:
    p = Parts((2, 70, 16, 5))
    y = p.permute(p.lut(p.start()), 3, 2, 1, 0)
    return p.finish(
        p.same_conv(y, 8), p.same_conv(y, 16, group=16), p.lut(y), p.matmul(y, 5), p.max_pool(y, (2, 2)),
        p.average_pool(y, (3, 2), (2, 1)), p.add(y, y), p.mul(y, p.slice(y, (0, 0, 0, 0), (1, 16, 1, 2))),
    )  # fmt: skip


@structure
def shuffled_channels() -> Network:
    p = Parts((2, 24, 8, 8))
    x = p.reshape(p.conv(p.start(), 24), 2, 2, 12, 8, 8)
    x = p.reshape(p.permute(x, 0, 2, 1, 3, 4), 2, 24, 8, 8)
    return p.finish(p.same_conv(x, 24, group=24))


@structure
def squeeze_and_excite() -> Network:
    p = Parts((4, 40, 10, 10))
    x = p.same_conv(p.start(), 80)
    scale = p.lut(p.conv(p.conv(p.average_pool(x, (10, 10)), 12), 80))
    return p.finish(p.mul(x, scale), p.add(p.mul(x, scale), x))


@structure
def images_of_a_batch_added_to_each_other() -> Network:
    p = Parts((4, 4, 40, 40))
    x = p.lut(p.same_conv(p.start(), 4))
    last = p.slice(x, (3, 0, 0, 0), (1, 4, 40, 40))
    return p.finish(p.add(x, last), p.add(x, p.permute(x, 1, 0, 2, 3)))


@structure
def images_of_a_batch_too_large_to_be_held_together_added_to_each_other() -> Network:
    p = Parts((4, 4, 180, 180))
    x = p.lut(p.same_conv(p.start(), 4))
    last = p.slice(x, (3, 0, 0, 0), (1, 4, 180, 180))
    return p.finish(p.add(x, last), p.add(x, p.permute(x, 1, 0, 2, 3)))


@structure
def a_value_read_twice_by_one_operation_and_once_later() -> Network:
    p = Parts((1, 16, 8, 8))
    x = p.conv(p.start(), 256)
    grouped = p.same_conv(x, 256, group=2)
    return p.finish(p.conv(p.concat(2, grouped, grouped), 9), p.conv(x, 8))


@structure
def tensors_of_one_element() -> Network:
    p = Parts((1, 1, 1, 1))
    x = p.start()
    return p.finish(
        p.conv(x, 1), p.same_conv(x, 3), p.lut(x), p.matmul(x, 1), p.add(x, x), p.mul(x, x), p.max_pool(x, (1, 1)),
        p.average_pool(x, (1, 1)), p.concat(2, x, x), p.pad(x, (0, 0, 1, 0), (0, 0, 0, 1)), p.permute(x, 3, 2, 1, 0),
    )  # fmt: skip


@structure
def constants_that_two_operations_share() -> Network:
    p = Parts((1, 8, 6, 6), seed=3)
    x = p.start()
    y = p.same_conv(x, 8)
    first = y.owner
    again = p.op("tpu.Conv2D", [p.lut(x), *first.operands[1:]], y.type, **attributes_of(first))
    table = p.weight(np.arange(256).astype(np.uint8)[::-1])
    return p.finish(y, again, *(p.op("tpu.Lut", [v, table], p.unsigned(shape_of(v))) for v in (x, y, again)))


@structure
def a_constant_among_the_operands_of_a_concatenation() -> Network:
    p = Parts((1, 4, 5, 5))
    x = p.start()
    kind = x.type.element_type
    constant = p.network.append("top.Weight", [], [tensor_type((1, 2, 5, 5), kind)], ["joined"])
    p.network.weights["joined"] = np.arange(50).reshape(1, 2, 5, 5).astype(kind.dtype)
    return p.finish(p.concat(1, x, constant.results[0], p.lut(x)))


@structure
def constants_moved_before_they_are_read() -> Network:
    p = Parts((1, 4, 5, 6))
    x = p.start()
    kind = x.type.element_type
    held = p.network.append("top.Weight", [], [tensor_type((5, 4, 12), kind)], ["held"]).results[0]
    p.network.weights["held"] = np.arange(240).reshape(5, 4, 12).astype(kind.dtype)
    moved = p.reshape(p.slice(p.permute(held, 1, 0, 2), (0, 0, 1), (4, 5, 6), (1, 1, 2)), 1, 4, 5, 6)
    return p.finish(p.add(x, moved), p.mul(moved, x), p.concat(2, moved, x), moved)


@structure
def float32_values_only() -> Network:
    p = Parts((3, 20, 6))
    x = p.network.inputs[0]
    return p.returning(p.softmax(x, 1), p.permute(p.softmax(p.reshape(x, 60, 6), 1), 1, 0))


@structure
def an_output_that_is_a_constant() -> Network:
    p = Parts((1, 4))
    constant = p.network.append("top.Weight", [], [tensor_type((3,), Float32Type())], ["held"])
    p.network.weights["held"] = np.arange(3, dtype=np.float32)
    return p.returning(p.lut(p.start()), constant.results[0])


@structure
def names_that_the_compiler_might_have_chosen_itself() -> Network:
    p = Parts((2, 6, 5, 4))
    x = p.start()
    names = iter(["x_dense", "x_copy", "y0_copy", "softmax:taylor", "y0", "a:0:6", "a", "a:table", "y1"])
    p.name = lambda kind: next(names, f"{kind}_{p.network.weights.unused_name(kind)}_{len(p.network.operations)}")
    a = p.lut(p.permute(x, 3, 2, 1, 0))
    b = p.reshape(p.permute(a, 2, 0, 1, 3), 6, 4, 10)
    return p.returning(b, b, a, p.matmul(b, 3))


RUNTIME_CASES = (
    "the same value returned twice",
    "an output that is an input",
    "a quantized output that is a quantized input",
    "an input nobody reads",
    "several inputs of different ranks",
    "float32 inputs moved straight to outputs",
    "only operations on shapes of quantized inputs",
)
"""Structures that the runtime of the device must cope with too, not only the commands."""


@pytest.mark.parametrize("name", STRUCTURES)
def test_exact(name):
    assert_exact(STRUCTURES[name]())


@pytest.mark.parametrize("name", [n for n in STRUCTURES if "quantized" in n or "element" in n])
def test_exact_at_extremes(name):
    network = STRUCTURES[name]()
    assert_exact(network, *(feeds for _, feeds in extremes(network)))


@pytest.mark.parametrize("rank", range(1, 7))
def test_every_rank_is_exact(rank):
    for seed in range(2):
        shape = tuple(int(k) for k in np.random.default_rng(seed).integers(1, 9, rank))
        parts = Parts(shape, seed=seed)
        x = parts.start()
        assert_exact(parts.finish(*(add(parts, x) for add in ANY_RANK.values())))


def test_batches_are_computed_image_by_image():
    """A batch of 4 gives what four batches of 1 give."""

    def network(batch: int) -> Network:
        parts = Parts((batch, 3, 20, 20))
        x = parts.same_conv(parts.start(), 40)
        return parts.finish(parts.add(parts.same_conv(x, 40), x), parts.matmul(parts.reshape(x, batch, 16000), 10))

    feeds = noise(network(4))
    whole = Reference(network(4), 1).run(feeds)
    assert_exact(network(4), feeds)
    for image in range(4):
        single = Reference(network(1), 1).run({"x": feeds["x"][image : image + 1]})
        assert all((whole[name][image] == single[name][0]).all() for name in whole)


@pytest.mark.parametrize("shape", [(1, 3, 0, 4), (0, 5)])
def test_a_tensor_without_elements_is_refused_by_name(shape):
    parts = Parts(shape)
    network = parts.finish(parts.lut(parts.start()))
    with pytest.raises(BadInput, match="x") as refusal:
        compile_network(network)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def short_groups(monkeypatch):
    """A chip whose command groups hold few commands."""
    short = replace(chip_named("bm1684x"), max_commands=20)
    monkeypatch.setattr(compile_module, "chip_named", lambda _: short)


@pytest.mark.usefixtures("short_groups")
def test_commands_in_many_groups_compute_the_same():
    compiled = assert_exact(tangle(6))
    (stage,) = compiled.bmodel.nets[0].stages
    counts = [(group.tiu_count, group.gdma_count) for _, group in stage.command_groups()]
    assert len(counts) > 3
    assert max(tiu + gdma for tiu, gdma in counts) <= 20 + 2


def test_compiling_leaves_the_network_as_it_is():
    network = tangle(3)
    before = to_text(network)
    compile_network(network)
    assert to_text(network) == before


def test_the_commands_given_back_are_those_in_the_file():
    compiled = compile_network(tangle(4))
    (stage,) = compiled.bmodel.nets[0].stages
    decoded = [decode_group(group, "test") for _, group in stage.command_groups()]
    for index, engine in enumerate(("TIU", "GDMA")):
        planned = [c.instruction for c in compiled.commands if c.engine == engine]
        assert [c.name for queues in decoded for c in queues[index] if not c.is_end] == planned


def test_the_file_states_names_types_and_scales_of_inputs_and_outputs():
    """Input scales multiply a float into the stored integer, output scales the integer into a float."""
    network = STRUCTURES["quantized inputs and outputs around a convolution"]()
    (stage,) = compile_network(network, name="net").bmodel.nets[0].stages
    for tensors, values, names in (
        (stage.inputs, network.inputs, ["x"]),
        (stage.outputs, network.outputs, network.output_names),
    ):
        for tensor, value, name in zip(tensors, values, names, strict=True):
            kind = uniform_of(value)
            assert (tensor.name, tensor.dtype, tensor.shape) == (name, kind.dtype.name, shape_of(value))
            assert tensor.scale == (1 / kind.scale if tensors is stage.inputs else kind.scale)
            assert tensor.zero_point == kind.zero_point


@pytest.mark.parametrize("seed", range(4))
def test_memory_figures_are_between_what_is_needed_and_what_there_is(seed):
    compiled = compile_network(tangle(seed, 16, 300_000))
    memory, chip = compiled.memory, chip_named("bm1684x")
    (stage,) = compiled.bmodel.nets[0].stages
    assert 0 < memory.local_lower_bound <= memory.local_peak <= chip.lane_bytes
    assert 0 < memory.context_lower_bound <= memory.context <= stage.ctx_size
    assert memory.coefficients == len(stage.coefficients.data)
    reach = [r.stop for c in compiled.commands for r in (*c.reads, *c.writes)]
    assert max(reach) <= memory.local_peak


def test_the_same_network_gives_the_same_bytes():
    assert serialize(compile_network(chain(5)).bmodel) == serialize(compile_network(chain(5)).bmodel)


def test_the_bytes_do_not_depend_on_the_hash_seed():
    program = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from random_networks import chain
from network_parts import bouquet
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.codegen import compile as compile_module
from tpu_deploy.codegen.bmodel import decode_group, serialize
from tpu_deploy.codegen.compile import compile_network
for level, network in enumerate((bouquet(2), chain(4))):
    print(hashlib.sha256(serialize(compile_network(network, optimize=level).bmodel)).hexdigest())
"""
    folder = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", program, folder]
    digests = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in "012"
    }
    assert len(digests) == 1


class TestOnTheChipModel:
    pytestmark = on_chip_model

    @pytest.mark.usefixtures("short_groups")
    def test_commands_in_many_groups_compute_the_same(self, tmp_path):
        assert_exact_on_chip_model(tangle(6), tmp_path)

    @pytest.mark.parametrize("name", RUNTIME_CASES)
    def test_exact(self, name, tmp_path):
        assert_exact_on_chip_model(STRUCTURES[name](), tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [n for n in STRUCTURES if n not in RUNTIME_CASES])
    def test_exact_too(self, name, tmp_path):
        assert_exact_on_chip_model(STRUCTURES[name](), tmp_path)
