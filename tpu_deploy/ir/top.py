"""The TOP dialect: graph semantics free of hardware, spelt as the vendor reads it. Source: TPU-MLIR TopOps.td."""

import numpy as np
from xdsl.ir import Dialect, Operation

from tpu_deploy.ir.dialect import BOOL, FLOAT, FLOATS, INT, INTS, REQUIRED, SIGNED, STRING, Kind, Row, classes

RELU = {"do_relu": (BOOL, False), "relu_limit": (FLOAT, -1.0)}
"""A folded ReLU, and its upper limit (negative: none)."""

UNBOUNDED = float(np.finfo(np.float32).max)
"""A bound of a Clip that no float32 value exceeds: stands for one that is absent."""

POOL = {
    "kernel_shape": (INTS, REQUIRED),
    "strides": (INTS, REQUIRED),
    "pads": (INTS, REQUIRED),
    "ceil_mode": (BOOL, False),
    "count_include_pad": (BOOL, False),
    "is_adaptive": (BOOL, False),
    "keepdims": (BOOL, True),
    "pad_value": (INT, 0),
    "round_mode": (STRING, "HalfAwayFromZero"),
    "first_round_mode": (STRING, "HalfAwayFromZero"),
    **RELU,
}


def _unary(name: str, meaning: str, **attributes: tuple[Kind, object]) -> Row:
    return Row(f"top.{name}", ("input",), attributes, meaning)


ROWS = (
    Row("top.None", (), {}, "Stands for an operand that is absent."),
    Row("top.Weight", (), {}, "An array of the weight store, under the name of its location."),
    Row("top.Input", ("input",), {}, "An input of the network."),
    Row(
        "top.Conv",
        ("input", "filter", "bias?"),
        {
            "kernel_shape": (INTS, REQUIRED),
            "strides": (INTS, REQUIRED),
            "pads": (INTS, REQUIRED),
            "dilations": (INTS, REQUIRED),
            "inserts": (INTS, (0, 0)),
            "group": (INT, 1),
            "weight_is_coeff": (INT, 1),
            "dynweight_reorderd": (BOOL, False),
            **RELU,
        },
        "Convolution, NCHW, of the input with `inserts` [h, w] zeros between its elements, "
        "pads [top, left, bottom, right], then ReLU if do_relu. Strides are 1 where zeros are inserted.",
    ),
    Row(
        "top.MatMul",
        ("input", "right", "bias?"),
        {
            "right_transpose": (BOOL, False),
            "left_transpose": (BOOL, False),
            "output_transpose": (BOOL, False),
            "hdim_is_batch": (BOOL, False),
            "keep_dims": (BOOL, True),
            **RELU,
        },
        "input @ right + bias, then ReLU if do_relu.",
    ),
    Row("top.Scale", ("input", "scale", "bias"), RELU, "input * scale + bias along axis 1, then ReLU if do_relu."),
    Row(
        "top.BatchNorm",
        ("input", "mean", "variance", "gamma", "beta"),
        {"epsilon": (FLOAT, 1e-5), **RELU},
        "(input - mean) / sqrt(variance + epsilon) * gamma + beta along axis 1.",
    ),
    Row(
        "top.Add",
        ("*inputs",),
        {"coeff": (FLOATS, None), "is_scalar": (BOOL, False), **RELU},
        "Sum of coeff[i] * input i.",
    ),
    Row(
        "top.Sub",
        ("*inputs",),
        {"is_reverse": (BOOL, False), "is_scalar": (BOOL, False), **RELU},
        "First minus second.",
    ),
    Row("top.Mul", ("*inputs",), {"is_scalar": (BOOL, False), **RELU}, "Product, broadcast as in numpy."),
    Row(
        "top.AddConst",
        ("input",),
        {"const_val": (FLOAT, REQUIRED), "is_scalar": (BOOL, False), **RELU},
        "input + const_val.",
    ),
    Row(
        "top.SubConst",
        ("input",),
        {"const_val": (FLOAT, REQUIRED), "is_reverse": (BOOL, False), "is_scalar": (BOOL, False), **RELU},
        "input - const_val, or const_val - input if is_reverse.",
    ),
    Row("top.MulConst", ("input",), {"const_val": (FLOAT, REQUIRED), **RELU}, "input * const_val."),
    Row("top.MaxPool", ("input",), POOL, "Maximum over windows."),
    Row("top.AvgPool", ("input",), POOL, "Average over windows; ceil_mode where one reaches beyond counted pads."),
    _unary("Relu", "max(input, 0), at most relu_limit if that is not negative.", relu_limit=(FLOAT, -1.0)),
    _unary("LeakyRelu", "input, times alpha where negative.", alpha=(FLOAT, REQUIRED)),
    Row("top.PRelu", ("input", "slope"), {}, "input, times slope where negative."),
    _unary("Clip", "input clipped to [min, max].", min=(FLOAT, REQUIRED), max=(FLOAT, REQUIRED)),
    _unary(
        "Sigmoid", "1 / (1 + exp(-input)) * scale + bias.", scale=(FLOAT, 1.0), bias=(FLOAT, 0.0), log=(BOOL, False)
    ),
    _unary("Tanh", "tanh(input)."),
    _unary("Erf", "erf(input)."),
    _unary("HardSigmoid", "clip(alpha * input + beta, 0, 1).", alpha=(FLOAT, REQUIRED), beta=(FLOAT, REQUIRED)),
    _unary("HardSwish", "input * clip(input / 6 + 0.5, 0, 1)."),
    _unary("SiLU", "input * sigmoid(input)."),
    _unary("Mish", "input * tanh(softplus(input))."),
    _unary("Softplus", "log(1 + exp(input))."),
    _unary("Elu", "input, or alpha * (exp(input) - 1) where negative.", alpha=(FLOAT, REQUIRED)),
    _unary("GELU", "input * Phi(input).", approx_mode=(STRING, "normal")),
    _unary(
        "Softmax",
        "exp(beta * input) normalized over axis.",
        axis=(SIGNED, REQUIRED),
        log=(BOOL, False),
        beta=(FLOAT, 1.0),
    ),
    Row("top.Concat", ("*inputs",), {"axis": (SIGNED, REQUIRED), **RELU}, "Joined along axis."),
    Row(
        "top.Slice",
        ("input", "offsetT?", "endsT?", "stepsT?"),
        {
            "offset": (INTS, REQUIRED),
            "steps": (INTS, REQUIRED),
            "ends": (INTS, REQUIRED),
            "axes": (INTS, ()),
            "hasparamConvert_axes": (INTS, ()),
        },
        "input[offset:ends:steps] per axis; a backward run up to element 0 ends at -size - 1.",
    ),
    Row(
        "top.Split",
        ("input",),
        {"axis": (SIGNED, REQUIRED), "num": (INT, REQUIRED), "split_size": (INTS, REQUIRED)},
        "Cut along axis into pieces of split_size.",
        results=None,
    ),
    Row(
        "top.Pad",
        ("input", "paddingsT?"),
        {"paddings": (INTS, REQUIRED), "val": (FLOAT, 0.0), "mode": (STRING, "constant")},
        "input with paddings [begin per axis, end per axis].",
    ),
    Row(
        "top.Reshape",
        ("input",),
        {"shape": (INTS, None), "flatten_start_dim": (INT, -1)},
        "The same elements, another shape.",
    ),
    _unary("Squeeze", "Without the axes of size 1.", axes=(INTS, REQUIRED), is_scalar=(BOOL, False)),
    _unary("Unsqueeze", "With axes of size 1 added.", axes=(INTS, REQUIRED)),
    _unary("Permute", "transpose(input, order).", order=(INTS, REQUIRED)),
)
"""All operations, in order."""

OPERATIONS: list[type[Operation]] = classes(ROWS)

Top = Dialect("top", OPERATIONS, [])
