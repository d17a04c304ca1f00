import gc
import weakref

import numpy as np
import pytest
from xdsl.dialects.builtin import Float32Type
from xdsl.rewriter import Rewriter

from tpu_deploy.errors import BadInput
from tpu_deploy.ir import tpu, tpu_float
from tpu_deploy.ir.network import Network, tensor_type
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.reference.registry import BUILDERS, kernel

KIND = UniformType.of(np.int8, 0.5, 1)
SHAPE = (2, 3)
X = np.array([[0, 1, 2], [-1, -2, 60]], np.float32)
STORED = np.array([[1, 3, 5], [-1, -3, 121]], np.int8)


def table(network: Network, shift: int):
    """A look-up table that adds `shift` to the stored integer, wrapping."""
    return network.add_weight("table", (np.arange(256) + shift).astype(np.uint8).view(np.int8))


@pytest.fixture
def network() -> Network:
    """input -> stored -> plus1 -> plus2 -> plus3 and total = plus2 + stored; outputs of every sort."""
    made = Network.create("one", [("input", SHAPE), ("unused", (1,))], "TPU_LOWERED")
    kind = tensor_type(SHAPE, KIND)

    def op(name, operands, result, **attributes):
        return made.append(f"tpu.{name}", operands, [kind], [result], attributes).results[0]

    value = stored = op("Quantize", [made.inputs[0]], "stored")
    for i in (1, 2):
        value = op("Lut", [value, table(made, 1)], f"plus{i}")
    third = op("Lut", [value, table(made, 1)], "plus3")
    total = op("Add", [value, stored], "total", multipliers=[1, 1], rshifts=[0, 0], rshift=0)
    real = made.append("tpu.Dequantize", [total], [tensor_type(SHAPE, Float32Type())], ["real"]).results[0]
    constant = made.add_weight("constant", np.ones(3, np.float32))
    made.finish([real, third, made.inputs[0], real, constant], ["out", "plus3", "same", "again", "constant"])
    made.verify()
    return made


def test_outputs_come_by_their_onnx_names(network):
    found = Reference(network).run({"input": X})
    assert list(found) == ["out", "plus3", "same", "again", "constant"]
    total = np.clip(STORED.astype(int) * 2 + 2, -128, 127)
    np.testing.assert_array_equal(found["out"], ((total - 1) * 0.5).astype(np.float32))
    np.testing.assert_array_equal(found["plus3"], STORED + 3)
    np.testing.assert_array_equal(found["again"], found["out"])
    np.testing.assert_array_equal(found["constant"], np.ones(3, np.float32))


def test_an_output_that_is_an_input_does_not_share_its_memory(network):
    x = X.copy()
    found = Reference(network).run({"input": x})
    x[:] = 7
    np.testing.assert_array_equal(found["same"], X)
    found["constant"][:] = 7
    np.testing.assert_array_equal(network.weights["constant"], np.ones(3, np.float32))


def test_values_are_asked_for_by_name_as_stored_integers(network):
    found = Reference(network).run({"input": X}, values=["plus1", "out", "input"])
    assert list(found) == ["plus1", "out", "input"] and found["plus1"].dtype == np.int8
    np.testing.assert_array_equal(found["plus1"], STORED + 1)


def test_an_override_replaces_a_value_for_all_its_readers(network):
    forced = np.full(SHAPE, 10, np.int8)
    found = Reference(network).run({"input": X}, ["plus3", "total", "plus2"], {"plus2": forced})
    assert (found["plus3"] == 11).all()
    np.testing.assert_array_equal(found["total"], np.clip(STORED.astype(int) + 10, -128, 127))
    np.testing.assert_array_equal(found["plus2"], forced)


def test_what_an_override_makes_superfluous_needs_no_feed(network):
    found = Reference(network).run({}, ["plus3"], {"plus2": np.full(SHAPE, 10, np.int8)})
    assert (found["plus3"] == 11).all()


def test_run_all_yields_every_value_in_order(network):
    feeds = {"input": X, "unused": np.zeros(1, np.float32)}
    found = dict(Reference(network).run_all(feeds))
    names = ["input", "unused", "stored", "plus1", "plus2", "plus3", "total", "real"]
    assert list(found) == names
    expected = Reference(network).run(feeds, names)
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])


def test_run_all_takes_overrides(network):
    feeds = {"input": X, "unused": np.zeros(1, np.float32)}
    found = dict(Reference(network).run_all(feeds, {"plus1": STORED}))
    np.testing.assert_array_equal(found["plus1"], STORED)
    np.testing.assert_array_equal(found["plus2"], STORED + 1)


def test_values_are_freed_after_their_last_reader(network):
    seen = {}
    alive = {}
    for name, array in Reference(network).run_all({"input": X, "unused": np.zeros(1, np.float32)}):
        seen[name] = weakref.ref(array)
        del array
        gc.collect()
        alive[name] = [n for n, reference in seen.items() if reference() is not None]
    assert "plus1" not in alive["plus3"] and "stored" in alive["plus3"]
    assert "plus2" not in alive["real"] and "stored" not in alive["real"] and "plus3" not in alive["total"]


def test_a_quantized_input_takes_the_stored_integers_only():
    network = Network.create("one", [("input", SHAPE)], "TPU_LOWERED")
    for value in (network.inputs[0].owner.operands[0], network.inputs[0]):
        Rewriter.replace_value_with_new_type(value, tensor_type(SHAPE, KIND))
    real = network.append("tpu.Dequantize", network.inputs, [tensor_type(SHAPE, Float32Type())], ["real"]).results[0]
    network.finish([real], ["real"])
    np.testing.assert_array_equal(Reference(network).run({"input": STORED})["real"], X)
    with pytest.raises(BadInput, match="input input: is float32, the network takes int8"):
        Reference(network).run({"input": X})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input input: is missing; feed input, unused"),
        ({"inputs": X}, "input inputs: the network has none of this name; did you mean input?"),
        ({"input": X.astype(np.float64)}, "input input: is float64, the network takes float32; convert it"),
        ({"input": X[:1]}, "input input: has shape 1x3, the network takes 2x3"),
        ({"input": np.where(X > 50, np.nan, X)}, "input input: holds NaN; clean the data first"),
        ({"input": np.where(X > 50, -np.inf, X)}, "input input: holds Inf; clean the data first"),
    ],
)
def test_unusable_feeds_are_refused_in_one_line(network, feeds, message):
    for run in (Reference(network).run, Reference(network).run_all):
        with pytest.raises(BadInput) as caught:
            run(feeds)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        (["plus"], {}, "value plus: the network has none of this name; did you mean plus3?"),
        (None, {"total2": STORED}, "value total2: the network has none of this name; did you mean total?"),
        (None, {"total": X}, "value total: is float32, the network takes int8; convert it"),
        (None, {"total": STORED[0]}, "value total: has shape 3, the network takes 2x3"),
    ],
)
def test_unknown_or_unfitting_values_are_refused_in_one_line(network, values, overrides, message):
    with pytest.raises(BadInput) as caught:
        Reference(network).run({"input": X}, values, overrides)
    assert str(caught.value) == message


def test_a_network_that_is_not_lowered_is_refused():
    network = Network.create("one", [("input", SHAPE)])
    relu = network.append("top.Relu", network.inputs, [network.inputs[0].type], ["relu"])
    network.finish(relu.results, ["relu"])
    with pytest.raises(ValueError, match=r"relu: top\.Relu has no reference kernel"):
        Reference(network)


def test_loading_prepares_what_running_would(network):
    reference = Reference(network, threads=3)
    reference.load()
    np.testing.assert_array_equal(reference.run({"input": X})["out"], Reference(network).run({"input": X})["out"])


def test_every_operation_of_the_dialect_has_a_kernel():
    assert set(BUILDERS) == {row.name for row in (*tpu.ROWS, *tpu_float.ROWS)}


def test_a_second_kernel_for_an_operation_is_refused():
    with pytest.raises(ValueError, match=r"tpu\.Lut has two reference kernels"):
        kernel("tpu.Lut")(lambda site: lambda operands: operands[0])
