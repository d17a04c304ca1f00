"""Float kernels: every function within a few units of the last place, NaN and infinity passed on, one rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special
from xdsl.dialects.builtin import Float32Type

from tpu_deploy.ir.float_functions import FUNCTIONS, OPERATIONS, program
from tpu_deploy.ir.network import Network, element_type, tensor_type
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.numbers import BFLOAT16, rounded, widened
from tpu_deploy.runtime.reference import Reference
from tpu_deploy.runtime.reference.activation import run_program

TYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": BFLOAT16}
PLACE = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
"""The last place of numbers from 1 to 2."""

Function = Callable[[np.ndarray], np.ndarray]
EXAMPLES: dict[str, tuple[dict[str, Any], Function]] = {
    "tpu.Clip": ({"min": -1.5, "max": 4.0}, lambda x: np.clip(x, -1.5, 4)),
    "tpu.LeakyRelu": ({"alpha": 0.01}, lambda x: np.where(x < 0, 0.01 * x, x)),
    "tpu.PRelu": ({}, lambda x: np.where(x < 0, -0.3 * x, x)),
    "tpu.Sigmoid": ({}, special.expit),
    "tpu.Tanh": ({}, np.tanh),
    "tpu.Erf": ({}, special.erf),
    "tpu.HardSigmoid": ({"alpha": 0.2, "beta": 0.5}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "tpu.HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "tpu.SiLU": ({}, lambda x: x * special.expit(x)),
    "tpu.Mish": ({}, lambda x: x * np.tanh(np.logaddexp(0, x))),
    "tpu.Softplus": ({}, lambda x: np.logaddexp(0, x)),
    "tpu.Elu": ({"alpha": 1.3}, lambda x: np.where(x < 0, 1.3 * np.expm1(np.minimum(x, 0)), x)),
    "tpu.GELU": ({"approx_mode": "normal"}, lambda x: x * special.ndtr(x)),
    "tpu.GELU tanh": (
        {"approx_mode": "tanh"},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "tpu.GELU sigm": ({"approx_mode": "sigm"}, lambda x: x * special.expit(1.702 * x)),
}
ARGUMENTS = np.concatenate([np.linspace(-100, 100, 40001), np.linspace(-4, 4, 40001), np.geomspace(1e-30, 1, 500)])


def computed(kind: str, attributes: dict[str, Any], x: np.ndarray, is_precise: bool = True) -> np.ndarray:
    operands = {"x": x.astype(np.float32), "slope": np.float32([-0.3])}
    with np.errstate(all="ignore"):
        return run_program(program(kind, attributes, is_precise), operands)


def test_every_function_is_tried_here() -> None:
    assert {name.split()[0] for name in EXAMPLES} == set(FUNCTIONS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_functions_err_by_a_few_last_places(name: str) -> None:
    attributes, function = EXAMPLES[name]
    x = np.concatenate([-ARGUMENTS[::-1], ARGUMENTS]).astype(np.float32)
    wanted = function(x.astype(np.float64))
    for is_precise, relative in ((True, 6e-7), (False, 1e-5)):
        error = np.abs(computed(name.split()[0], attributes, x, is_precise) - wanted)
        # What is left of a difference of halves has their last places: times x, where it is a factor of x.
        assert (error <= relative * np.abs(wanted) + 2e-7 * np.maximum(np.abs(x), 1)).all()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("is_precise", [True, False])
def test_nan_passes_through_and_infinity_has_its_limit(name: str, is_precise: bool) -> None:
    attributes, function = EXAMPLES[name]
    found = computed(name.split()[0], attributes, np.array([np.nan, np.inf]), is_precise)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1], function(np.array([np.inf]))[0], rtol=1e-5)


@pytest.mark.parametrize("name", EXAMPLES)
def test_programs_are_made_of_known_steps_on_known_operands(name: str) -> None:
    known = {"x", "slope"}
    for step in program(name.split()[0], EXAMPLES[name][0], True):
        assert step.operation in OPERATIONS
        assert {operand for operand in step.operands if isinstance(operand, str)} <= known
        assert bool(step.coefficients) == (step.operation == "horner")
        assert step.result not in known
        known.add(step.result)


def network_of(
    kind: str, type_name: str, shape: tuple[int, ...], result: tuple[int, ...], weights: list, **attributes: Any
):
    """x cast to a type, one operation, and its result cast back."""
    made = Network.create("net", [("x", shape)])
    element = element_type(TYPES[type_name])

    def append(name: str, operands: list, size: tuple[int, ...], kind_of: Any, **given: Any) -> Any:
        return made.append(name, operands, [tensor_type(size, kind_of)], [f"v{len(made.operations)}"], given).results[0]

    x = made.inputs[0]
    x = append("tpu.Cast", [x], shape, element) if type_name != "f32" else x
    constants = [made.add_weight("w", w) for w in weights]
    y = append(kind, [x, *constants], result, element, **attributes)
    y = append("tpu.Cast", [y], result, Float32Type()) if type_name != "f32" else y
    made.finish([y], ["y"])
    made.verify()
    return made


@pytest.mark.parametrize("type_name", TYPES)
def test_a_convolution_rounds_once_after_bias_and_relu(type_name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, 9, 7)).astype(np.float32)
    filters = rounded(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), TYPES[type_name])
    bias = rng.standard_normal(8).astype(np.float32)
    window = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 1], "group": 2}
    network = network_of(
        "tpu.FloatConv2D", type_name, x.shape, (3, 8, 5, 7), [filters, bias], do_relu=True, relu_limit=4.0, **window
    )
    found = Reference(network, 2).run({"x": x})["y"]
    taken = np.pad(widened(rounded(x, TYPES[type_name])).astype(np.float64), ((0, 0), (0, 0), (1, 1), (0, 2)))
    wide = widened(filters).astype(np.float64)
    sums, spread = np.zeros(found.shape), np.zeros(found.shape)
    for out in range(8):
        part = taken[:, 3 * (out // 4) : 3 * (out // 4) + 3]
        for row, column in np.ndindex(3, 3):
            met = part[:, :, row : row + 9 : 2, column : column + 7]
            sums[:, out] += np.einsum("nchw,c->nhw", met, wide[out, :, row, column])
            spread[:, out] += np.einsum("nchw,c->nhw", np.abs(met), np.abs(wide[out, :, row, column]))
    wanted = np.clip(sums + bias[:, None, None], 0, 4)
    allowed = 28 * 2.0**-23 * (spread + np.abs(bias)[:, None, None]) + PLACE[type_name] * np.abs(wanted)
    assert (np.abs(found - wanted) <= allowed).all()
    assert (found >= 0).all() and (found <= 4).all() and (found == 4).any()


@pytest.mark.parametrize("type_name", TYPES)
def test_integer_sums_become_floats_by_one_product_and_one_rounding(type_name: str) -> None:
    rng = np.random.default_rng(1)
    made = Network.create("net", [("x", (5, 300))])
    quantized = UniformType.of(np.uint8, 0.02, 7)
    right = rng.integers(-127, 128, (300, 9)).astype(np.int8)
    bias = (rng.integers(-(2**20), 2**20, 9) - 7 * right.sum(0, np.int64)).astype(np.int32)
    scale = rng.uniform(1e-4, 1e-3, 9).astype(np.float32)
    element = element_type(TYPES[type_name])
    x = made.append("tpu.Quantize", made.inputs, [tensor_type((5, 300), quantized)], ["q"]).results[0]
    operands = [x, *(made.add_weight("w", w) for w in (right, bias, scale))]
    y = made.append("tpu.DequantizedMatMul", operands, [tensor_type((5, 9), element)], ["y"]).results[0]
    made.finish([y], ["y"])
    made.verify()
    feed = rng.uniform(-1, 5, (5, 300)).astype(np.float32)
    found = Reference(made).run({"x": feed}, ["q", "y"])
    sums = found["q"].astype(np.int64) @ right.astype(np.int64) + bias
    wanted = rounded(sums.astype(np.float32) * scale, TYPES[type_name])
    assert found["y"].tobytes() == wanted.tobytes()


def test_overflow_of_float16_is_infinite_and_bfloat16_holds_it() -> None:
    x = np.float32([[6e4, -6e4, 1.0]])
    for type_name, wanted in (("f16", [[np.inf, -np.inf, 2.0]]), ("bf16", [[119808.0, -119808.0, 2.0]])):
        weights = [np.float32([2.0]), np.float32([0.0])]
        network = network_of("tpu.Affine", type_name, x.shape, x.shape, weights)
        np.testing.assert_array_equal(Reference(network).run({"x": x})["y"], wanted)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_pool_counts_padding_only_where_told(type_name: str) -> None:
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    for include, corner in ((0, 3.5), (1, 14 / 9)):
        network = network_of(
            "tpu.FloatAvgPool2D", type_name, x.shape, (1, 1, 2, 2), [], count_include_pad=include, **window
        )
        found = Reference(network).run({"x": x})["y"]
        assert found[0, 0, 0, 0] == pytest.approx(corner, rel=PLACE[type_name])
        assert found[0, 0, 1, 1] == 11.0
    network = network_of("tpu.MaxPool2D", type_name, x.shape, (1, 1, 2, 2), [], **window)
    np.testing.assert_array_equal(Reference(network).run({"x": -x})["y"], [[[[-1, -2], [-5, -6]]]])
