"""Rows of the TPU dialect that compute in floating point.

F is one of f32, f16 and bf16: all float operands and the result of an operation have the same, unless a row says
otherwise. Every operation computes in float32: operands of F are widened, which is exact, each step rounds once (half
to even), and the result is rounded once to F, where f16 overflows to infinity. Denormals of float32 and bfloat16 are
zero.

`relu` is max(0, t), then min(t, relu_limit) if that is not negative, where do_relu is set. NaN passes through
everything. Sums of products are taken in any order: they are right within K * 2**-23 times the sum of the K products'
magnitudes. All else is exact to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, IntegerType, TensorType
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.exceptions import VerifyException

from tpu_deploy.ir.dialect import FLOAT, INT, INTS, REQUIRED, STRING, Kind, Row
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.ir.top import RELU

FLOATS = (Float32Type, Float16Type, BFloat16Type)
"""The element types F."""

WINDOW = {"kernel_shape": (INTS, REQUIRED), "strides": (INTS, REQUIRED), "pads": (INTS, REQUIRED)}
FILTERING = {**WINDOW, "dilations": (INTS, REQUIRED), "inserts": (INTS, (0, 0)), "group": (INT, 1)}
CONVOLUTION = {**FILTERING, **RELU}


def _element(value: SSAValue) -> Attribute | None:
    element: Attribute | None = value.type.element_type if isinstance(value.type, TensorType) else None
    return element


def _has(value: SSAValue, *kinds: type[Attribute]) -> bool:
    return isinstance(_element(value), kinds)


def in_one_float_type(count: int = 1, wide: int = 0) -> Callable[[Operation], None]:
    """Refuses an operation unless its result and first `count` operands have one float type, the next `wide` f32."""

    def verify(op: Operation) -> None:
        result = _element(op.results[0])
        if not isinstance(result, FLOATS):
            raise VerifyException(f"{op.name}: its result must be f32, f16 or bf16, not {result}")
        for index, value in enumerate(op.operands):
            wanted: Attribute = result if index < count else Float32Type()
            if index < count + wide and _element(value) != wanted:
                raise VerifyException(f"{op.name}: operand {index} must be {wanted}, not {_element(value)}")

    return verify


def casts(op: Operation) -> None:
    """Refuses a cast that is not between f32 and a float type of 16 bits."""
    kinds = {type(_element(op.operands[0])), type(_element(op.results[0]))}
    if len(kinds) != 2 or Float32Type not in kinds or not kinds <= set(FLOATS):
        raise VerifyException(f"{op.name}: casts between f32 and f16 or bf16 only")


def dequantizes(op: Operation) -> None:
    """Refuses a product of integers with a float result unless its operands have the types of its row."""
    x, weights, bias, scale = op.operands
    integers = _has(x, UniformType) and _element(weights) == IntegerType(8) and _element(bias) == IntegerType(32)
    if not (integers and _has(scale, Float32Type) and _has(op.results[0], *FLOATS)):
        raise VerifyException(f"{op.name}: takes a quantized tensor, i8 weights, i32 bias and f32 scales to a float")


def _function(name: str, meaning: str, *operands: str, **attributes: tuple[Kind, object]) -> Row:
    text = f"{meaning} The steps of ir.float_functions."
    return Row(f"tpu.{name}", ("input", *operands), attributes, text, in_one_float_type(1, len(operands)))


def _binary(name: str, meaning: str) -> Row:
    text = f"{meaning}, then relu; operands broadcast as in numpy, either may be constant."
    return Row(f"tpu.{name}", ("left", "right"), RELU, text, in_one_float_type(2))


ROWS = (
    Row("tpu.Cast", ("input",), meaning="y = x in another float type; f32 to f16 or bf16 or back.", verify=casts),
    Row(
        "tpu.FloatConv2D",
        ("input", "filter", "bias"),
        CONVOLUTION,
        "y = relu(sum of x_padded * filter + bias), padding and `inserts` zero. x (n,c,h,w) F, "
        "filter F (oc,c/group,kh,kw), bias f32 (oc).",
        in_one_float_type(2, 1),
    ),
    Row(
        "tpu.FloatMatMul",
        ("input", "right", "bias"),
        RELU,
        "y = relu(x @ right + bias). x (..., K) F, right F (K, N), bias f32 (N).",
        in_one_float_type(2, 1),
    ),
    Row(
        "tpu.DequantizedConv2D",
        ("input", "filter", "bias", "scale"),
        CONVOLUTION,
        "y = relu(f32(acc) * scale[oc]), F; acc is that of tpu.Conv2D. x (n,c,h,w) int8/uint8, "
        "filter int8 (oc,c/group,kh,kw), bias int32 (oc), scale f32 (oc).",
        dequantizes,
    ),
    Row(
        "tpu.DequantizedMatMul",
        ("input", "right", "bias", "scale"),
        RELU,
        "y = relu(f32(acc) * scale[j]), F; acc is that of tpu.MatMul. x (..., K) int8/uint8, right int8 (K, N), "
        "bias int32 (N), scale f32 (N).",
        dequantizes,
    ),
    _binary("FloatAdd", "y = left + right"),
    _binary("FloatSub", "y = left - right"),
    _binary("FloatMul", "y = left * right"),
    Row(
        "tpu.Affine",
        ("input", "scale", "bias"),
        RELU,
        "y = relu(x * scale + bias), two steps, scale and bias f32 (1) or (C) along axis 1; a scale of ones and a bias "
        "of zeros are no step.",
        in_one_float_type(1, 2),
    ),
    _function("Clip", "y = min(max(min, x), max).", min=(FLOAT, REQUIRED), max=(FLOAT, REQUIRED)),
    _function("LeakyRelu", "y = x, times alpha where negative.", alpha=(FLOAT, REQUIRED)),
    _function("PRelu", "y = x, times slope where negative; slope f32 (1) or (C) along axis 1.", "slope"),
    _function("Sigmoid", "y = 1 / (1 + exp(-x))."),
    _function("Tanh", "y = tanh(x)."),
    _function("Erf", "y = erf(x)."),
    _function("HardSigmoid", "y = clip(alpha * x + beta, 0, 1).", alpha=(FLOAT, REQUIRED), beta=(FLOAT, REQUIRED)),
    _function("HardSwish", "y = x * clip(x / 6 + 0.5, 0, 1)."),
    _function("SiLU", "y = x * sigmoid(x)."),
    _function("Mish", "y = x * tanh(softplus(x))."),
    _function("Softplus", "y = log(1 + exp(x))."),
    _function("Elu", "y = x, or alpha * (exp(x) - 1) where negative.", alpha=(FLOAT, REQUIRED)),
    _function("GELU", "y = x * Phi(x), by erf, tanh or sigmoid.", approx_mode=(STRING, REQUIRED)),
    Row(
        "tpu.FloatAvgPool2D",
        ("input",),
        {**WINDOW, "count_include_pad": (INT, 0), **RELU},
        "y = relu(s * f32(1 / count)), s the sum over the window (padding adds nothing), count the number of positions "
        "counted at this output (geometry.window_counts).",
        in_one_float_type(),
    ),
)
"""The operations, in order."""
