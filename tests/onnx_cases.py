"""ONNX models of one or a few nodes: every supported operator in its attribute forms, over opsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
N = helper.make_node


def weight(*shape: int, seed: int = 0) -> Array:
    """Seeded normal float32 values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    """Seeded float32 values from 0.5 to 1.5."""
    return np.random.default_rng(shape).uniform(0.5, 1.5, shape).astype(np.float32)


def ints(*values: int) -> Array:
    """int64 values."""
    return np.array(values, np.int64)


def number(value: float) -> Array:
    """A float32 scalar."""
    return np.array(value, np.float32)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    constants: Mapping[str, Array] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 13,
) -> onnx.ModelProto:
    """A model with float32 inputs and outputs of unknown shape."""
    graph = helper.make_graph(
        list(nodes),
        "case",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def single(
    op_type: str, shape: Sequence[int], *constants: Array | None, opset: int = 13, **attributes: Any
) -> onnx.ModelProto:
    """One node that reads the input `x` and constants (None: left out) and makes `y`."""
    named = {f"c{i}": array for i, array in enumerate(constants) if array is not None}
    names = ["" if array is None else f"c{i}" for i, array in enumerate(constants)]
    return model([N(op_type, ["x", *names], ["y"], **attributes)], {"x": shape}, named, opset=opset)


Arrays = dict[str, np.ndarray[Any, Any]]


def run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    """What onnxruntime makes of a model, by output name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_for(model: onnx.ModelProto) -> Arrays:
    """Seeded inputs, normal with a deviation of 2."""
    rng = np.random.default_rng(7)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {name: (2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def assert_close(actual: Arrays, expected: Arrays) -> None:
    """The same names, shapes and, up to float32 rounding, values."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


IMAGE = (2, 6, 9, 8)

CASES: dict[str, onnx.ModelProto] = {}
"""Models by the name of what they show."""


def add(name: str, made: onnx.ModelProto) -> None:
    if name in CASES:
        raise ValueError(f"{name} is there twice")
    CASES[name] = made


# ---- convolutions

for label, shape, attributes in (
    ("plain", (4, 6, 3, 3), {}),
    ("pads", (4, 6, 3, 3), {"pads": [1, 1, 1, 1]}),
    ("asymmetric_pads", (4, 6, 3, 2), {"pads": [0, 2, 1, 0]}),
    ("strides", (4, 6, 3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}),
    ("dilations", (4, 6, 3, 2), {"dilations": [2, 3], "pads": [2, 0, 2, 0]}),
    ("group", (4, 3, 3, 3), {"group": 2}),
    ("depthwise", (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    ("depthwise_multiplier", (12, 1, 5, 3), {"group": 6}),
    ("pointwise", (7, 6, 1, 1), {}),
    ("same_upper", (4, 6, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("same_lower", (4, 6, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("same_upper_wide_stride", (4, 6, 2, 2), {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    ("valid", (4, 6, 3, 3), {"auto_pad": "VALID"}),
    ("whole_image", (5, 6, 9, 8), {}),
):
    add(f"conv_{label}", single("Conv", IMAGE, weight(*shape), **attributes))
add("conv_bias", single("Conv", IMAGE, weight(4, 6, 3, 3), weight(4), opset=11))
add("conv_opset_22", single("Conv", IMAGE, weight(4, 6, 3, 3), weight(4), opset=22))
add("conv_1d", single("Conv", (2, 6, 15), weight(4, 6, 3), weight(4), pads=[2, 1], strides=[2]))
add("conv_1d_same", single("Conv", (2, 6, 15), weight(4, 6, 3), auto_pad="SAME_UPPER", strides=[2]))
for label, shape, attributes in (
    ("plain", (6, 4, 3, 3), {}),
    ("strides", (6, 4, 2, 2), {"strides": [2, 2]}),
    ("strides_differ", (6, 4, 3, 5), {"strides": [3, 2], "pads": [1, 2, 0, 1]}),
    ("pads", (6, 4, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("output_padding", (6, 4, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("output_shape", (6, 4, 3, 3), {"strides": [2, 2], "output_shape": [18, 17]}),
    ("dilations", (6, 4, 3, 2), {"strides": [2, 1], "dilations": [2, 3]}),
    ("groups", (6, 2, 3, 3), {"strides": [2, 2], "group": 3}),
    ("depthwise", (6, 1, 3, 3), {"strides": [2, 2], "group": 6}),
    ("same", (6, 4, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("apart", (6, 4, 1, 1), {"strides": [3, 3]}),
):
    add(f"conv_transpose_{label}", single("ConvTranspose", IMAGE, weight(*shape), **attributes))
add("conv_transpose_bias", single("ConvTranspose", IMAGE, weight(6, 4, 2, 2), weight(4), strides=[2, 2], opset=11))
add("conv_transpose_1d", single("ConvTranspose", (2, 6, 7), weight(6, 4, 4), weight(4), strides=[2], pads=[1, 1]))
add("conv_1d_depthwise", single("Conv", (1, 6, 15), weight(6, 1, 5), group=6))

# ---- products

add("matmul", single("MatMul", (3, 8), weight(8, 5)))
add("matmul_batch", single("MatMul", (2, 3, 8), weight(8, 5)))
add("matmul_4d", single("MatMul", (2, 3, 4, 8), weight(1, 8, 5)))
add("matmul_right_vector", single("MatMul", (2, 3, 8), weight(8)))
add("matmul_left_vector", single("MatMul", (8,), weight(8, 5)))
add("matmul_both_vectors", single("MatMul", (8,), weight(8)))
add("matmul_wide_right", single("MatMul", (3, 8), weight(1, 1, 8, 5)))
add("matmul_left_constant", model([N("MatMul", ["w", "x"], ["y"])], {"x": (2, 8, 5)}, {"w": weight(3, 8)}))
add("gemm", single("Gemm", (3, 8), weight(8, 5), weight(5)))
add("gemm_no_c", single("Gemm", (3, 8), weight(8, 5), opset=11))
add("gemm_trans_b", single("Gemm", (3, 8), weight(5, 8), weight(1, 5), transB=1))
add("gemm_trans_a", single("Gemm", (8, 3), weight(8, 5), weight(5), transA=1))
add("gemm_alpha_beta", single("Gemm", (3, 8), weight(5, 8), weight(5), transB=1, alpha=0.5, beta=2.0))
add("gemm_beta_zero", single("Gemm", (3, 8), weight(8, 5), weight(5), beta=0.0))
add("gemm_scalar_c", single("Gemm", (3, 8), weight(8, 5), number(0.5)))
add("gemm_column_c", single("Gemm", (3, 8), weight(8, 5), weight(3, 1), beta=0.5))
add("gemm_matrix_c", single("Gemm", (3, 8), weight(8, 5), weight(3, 5)))
add(
    "gemm_computed_c",
    model([N("Gemm", ["x", "w", "z"], ["y"], beta=0.5)], {"x": (3, 8), "z": (3, 5)}, {"w": weight(8, 5)}),
)

# ---- normalization

BATCH_NORM = (positive(6), weight(6, seed=1), weight(6, seed=2), positive(6))
add("batch_norm", single("BatchNormalization", IMAGE, *BATCH_NORM))
add("batch_norm_opset_15", single("BatchNormalization", IMAGE, *BATCH_NORM, opset=15, epsilon=1e-3))
add("batch_norm_2d", single("BatchNormalization", (3, 6), *BATCH_NORM))
add("batch_norm_3d", single("BatchNormalization", (3, 6, 5), *BATCH_NORM))

# ---- activations

for op_type, opset, attributes in (
    ("Relu", 11, {}),
    ("LeakyRelu", 13, {}),
    ("LeakyRelu", 16, {"alpha": 0.3}),
    ("Sigmoid", 13, {}),
    ("Tanh", 13, {}),
    ("Erf", 13, {}),
    ("HardSigmoid", 13, {}),
    ("HardSigmoid", 22, {"alpha": 1 / 6, "beta": 0.4}),
    ("HardSwish", 14, {}),
    ("Mish", 18, {}),
    ("Softplus", 13, {}),
    ("Elu", 13, {}),
    ("Elu", 22, {"alpha": 0.5}),
    ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}),
    ("Swish", 24, {"alpha": 0.7}),
    ("Identity", 13, {}),
    ("Neg", 13, {}),
):
    label = "_".join([op_type.lower(), *map(str, attributes)])
    add(label, single(op_type, (2, 3, 4, 5), opset=opset, **attributes))
for exponent in (1.0, 2.0, 3.0):
    add(f"pow_{exponent:g}", single("Pow", IMAGE, number(exponent)))
add("prelu_channel", single("PRelu", IMAGE, weight(6, 1, 1)))
add("prelu_4d_slope", single("PRelu", IMAGE, weight(1, 6, 1, 1), opset=16))
add("prelu_one_slope", single("PRelu", IMAGE, weight(1), opset=11))
add("prelu_2d", single("PRelu", (3, 6), weight(6)))
add("clip_tensors", single("Clip", IMAGE, number(-0.5), number(0.7)))
add("clip_no_min", single("Clip", IMAGE, None, number(0.7)))
add("clip_no_max", single("Clip", IMAGE, number(0.0)))
add("clip_nothing", model([N("Relu", ["x"], ["a"]), N("Clip", ["a"], ["y"])], {"x": IMAGE}))
add("clip_relu6", single("Clip", IMAGE, number(0.0), number(6.0), opset=11))
add("clip_crossed", single("Clip", IMAGE, number(1.0), number(0.5)))
add("clip_infinite", single("Clip", IMAGE, number(-np.inf), number(1.0)))

# ---- arithmetic

for op_type in ("Add", "Sub", "Mul", "Div"):
    for label, constant in (
        ("number", number(1.5)),
        ("vector", positive(8)),
        ("channel", positive(6, 1, 1)),
        ("channel_4d", positive(1, 6, 1, 1)),
        ("map", positive(9, 8)),
        ("whole", positive(2, 6, 9, 8)),
        ("one_4d", positive(1, 1, 1, 1)),
    ):
        add(f"{op_type.lower()}_{label}", single(op_type, IMAGE, constant))
for op_type in ("Add", "Sub", "Mul"):
    lower = op_type.lower()
    for label, constant in (("number", number(1.5)), ("channel", positive(6, 1, 1)), ("map", positive(9, 8))):
        add(f"{lower}_left_{label}", model([N(op_type, ["c", "x"], ["y"])], {"x": IMAGE}, {"c": constant}))
    add(f"{lower}_two", model([N(op_type, ["x", "z"], ["y"])], {"x": IMAGE, "z": IMAGE}))
    add(f"{lower}_gate", model([N(op_type, ["x", "z"], ["y"])], {"x": IMAGE, "z": (2, 6, 1, 1)}))
    add(f"{lower}_outer", model([N(op_type, ["x", "z"], ["y"])], {"x": (2, 1, 9, 1), "z": (6, 1, 8)}))
    add(f"{lower}_widens", single(op_type, (9, 8), positive(2, 6, 1, 1)))
    add(f"{lower}_twice", model([N(op_type, ["x", "x"], ["y"])], {"x": IMAGE}))
add("add_rank_grows_by_one", single("Add", (8,), positive(1, 1)))
add("sum_three", model([N("Sum", ["x", "z", "x"], ["y"])], {"x": IMAGE, "z": (9, 8)}))
add("sum_one", single("Sum", IMAGE))
add("max_number", single("Max", IMAGE, number(0.2)))
add("min_number", single("Min", IMAGE, number(0.2)))
add(
    "min_of_max",
    model([N("Max", ["c", "x"], ["a"]), N("Min", ["a", "d"], ["y"])], {"x": IMAGE}, {"c": number(0), "d": number(6)}),
)

# ---- pools

for op_type in ("MaxPool", "AveragePool"):
    lower = op_type.lower()
    for label, attributes in (
        ("plain", {"kernel_shape": [3, 2]}),
        ("pads", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("asymmetric_pads", {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0]}),
        ("ceil", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("ceil_pads", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
        ("ceil_end_in_padding", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1}),
        ("same_upper", {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("same_lower", {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("valid", {"kernel_shape": [4, 4], "strides": [3, 3], "auto_pad": "VALID"}),
    ):
        add(f"{lower}_{label}", single(op_type, IMAGE, opset=12, **attributes))
    add(f"{lower}_opset_22", single(op_type, IMAGE, opset=22, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
    add(f"{lower}_1d", single(op_type, (2, 6, 15), kernel_shape=[4], strides=[3], pads=[1, 2]))
    add(f"global_{lower}", single(f"Global{op_type}", IMAGE))
    add(f"global_{lower}_1d", single(f"Global{op_type}", (2, 6, 15)))
add("maxpool_dilations", single("MaxPool", IMAGE, kernel_shape=[3, 2], dilations=[2, 3], strides=[2, 1]))
for label, attributes in (
    ("pads", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("ceil", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 0], "strides": [2, 2], "ceil_mode": 1}),
):
    add(f"averagepool_include_pad_{label}", single("AveragePool", IMAGE, opset=19, count_include_pad=1, **attributes))
add(
    "averagepool_include_pad_same",
    single("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1),
)
for include in (0, 1):
    add(
        f"averagepool_dilations_{include}",
        single(
            "AveragePool",
            IMAGE,
            opset=19,
            kernel_shape=[3, 2],
            dilations=[2, 3],
            pads=[2, 0, 1, 1],
            count_include_pad=include,
        ),
    )
for label, attributes, opset in (
    ("keep", {"axes": [2, 3]}, 13),
    ("drop", {"axes": [-1, -2], "keepdims": 0}, 11),
    ("last", {"axes": [3]}, 13),
    ("middle", {"axes": [1]}, 13),
    ("first_and_last", {"axes": [0, 3], "keepdims": 0}, 13),
    ("all", {}, 13),
):
    add(f"reduce_mean_{label}", single("ReduceMean", IMAGE, opset=opset, **attributes))
add("reduce_mean_18", single("ReduceMean", IMAGE, ints(2, 3), opset=18, keepdims=0))
add(
    "reduce_mean_18_noop",
    model([N("ReduceMean", ["x"], ["a"], noop_with_empty_axes=1), N("Relu", ["a"], ["y"])], {"x": IMAGE}, opset=18),
)
add("reduce_mean_18_empty_axes", single("ReduceMean", IMAGE, np.zeros(0, np.int64), opset=18))
add("reduce_max", single("ReduceMax", IMAGE, ints(2, 3), opset=18))
add("reduce_mean_tokens", single("ReduceMean", (2, 7, 12), axes=[1], keepdims=0))

# ---- softmax

add("softmax_last", single("Softmax", (2, 5, 7)))
add("softmax_axis_1", single("Softmax", IMAGE, axis=1))
add("softmax_opset_11", single("Softmax", (3, 10), opset=11))
add("softmax_opset_11_flattens", single("Softmax", (2, 5, 7), opset=11, axis=1))
add("softmax_opset_11_tail_of_ones", single("Softmax", (2, 5, 1, 1), opset=11))
add("softmax_opset_11_negative", single("Softmax", (2, 5, 7), opset=11, axis=-1))

# ---- movements

add("reshape", single("Reshape", IMAGE, ints(2, 0, -1)))
add("reshape_allowzero", single("Reshape", IMAGE, ints(12, 72), opset=14, allowzero=1))
add("flatten", single("Flatten", IMAGE))
add("flatten_0", single("Flatten", IMAGE, axis=0))
add("flatten_4", single("Flatten", IMAGE, axis=4))
add("flatten_negative", single("Flatten", IMAGE, axis=-1))
add("squeeze_11", single("Squeeze", (2, 1, 5, 1), opset=11, axes=[1]))
add("squeeze_13", single("Squeeze", (2, 1, 5, 1), ints(-1)))
add("squeeze_all", single("Squeeze", (2, 1, 5, 1)))
add("unsqueeze_11", single("Unsqueeze", (2, 5), opset=11, axes=[0, 3]))
add("unsqueeze_13", single("Unsqueeze", (2, 5), ints(-1, 1)))
add("transpose", single("Transpose", IMAGE, perm=[0, 2, 3, 1]))
add("depth_to_space", single("DepthToSpace", (2, 12, 3, 4), blocksize=2))
add("depth_to_space_crd", single("DepthToSpace", (2, 18, 3, 4), blocksize=3, mode="CRD"))
add("space_to_depth", single("SpaceToDepth", (2, 3, 6, 9), blocksize=3))
for label, where, how in (
    ("asymmetric", "asymmetric", "floor"),
    ("half_pixel", "half_pixel", "round_prefer_floor"),
    ("pytorch", "pytorch_half_pixel", "round_prefer_ceil"),
):
    modes = {"mode": "nearest", "coordinate_transformation_mode": where, "nearest_mode": how}
    factors = np.array([1, 1, 2, 3], np.float32)
    add(f"resize_{label}", single("Resize", IMAGE, np.zeros(0, np.float32), factors, opset=11, **modes))
    add(f"resize_{label}_to", single("Resize", (2, 6, 9, 8), None, None, ints(2, 6, 27, 16), **modes))
add(
    "resize_axes",
    single(
        "Resize",
        IMAGE,
        None,
        np.array([2, 1], np.float32),
        opset=18,
        axes=[-1, 2],
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
)
add("resize_to_the_same", single("Resize", IMAGE, None, number(1.0).repeat(4), mode="linear"))
add("transpose_default", single("Transpose", (2, 3, 4)))
add("expand_rank", single("Expand", (3, 4), ints(1, 1, 3, 1)))
add("concat", model([N("Concat", ["x", "z", "x"], ["y"], axis=-3)], {"x": IMAGE, "z": (2, 3, 9, 8)}))
add("concat_one", model([N("Relu", ["x"], ["a"]), N("Concat", ["a"], ["y"], axis=0)], {"x": IMAGE}))
add("slice", single("Slice", IMAGE, ints(1, 2), ints(6, -1), ints(1, 3), ints(2, 1)))
add("slice_no_axes", single("Slice", IMAGE, ints(0, 1), ints(9, 5)))
add("slice_backwards", single("Slice", IMAGE, ints(-1), ints(-100), ints(2), ints(-2)))
add("slice_far_ends", single("Slice", IMAGE, ints(-100), ints(2**63 - 1), ints(-1)))
add("split_equal_11", model([N("Split", ["x"], ["y", "z"], axis=1)], {"x": IMAGE}, outputs=("y", "z"), opset=11))
add(
    "split_sizes_11",
    model([N("Split", ["x"], ["y", "z"], axis=1, split=[2, 4])], {"x": IMAGE}, outputs=("z", "y"), opset=11),
)
add("split_13", model([N("Split", ["x", "s"], ["a", "y"], axis=2)], {"x": IMAGE}, {"s": ints(4, 5)}))
add(
    "split_18_uneven",
    model([N("Split", ["x"], ["y", "z"], axis=2, num_outputs=2)], {"x": IMAGE}, outputs=("y", "z"), opset=18),
)
add("pad_constant", single("Pad", IMAGE, ints(0, 1, 2, 0, 1, 0, 0, 3), number(1.5)))
add(
    "pad_infinite_then_maxpool",
    model(
        [N("Pad", ["x", "p", "v"], ["a"]), N("MaxPool", ["a"], ["y"], kernel_shape=[3, 3])],
        {"x": IMAGE},
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": number(-np.inf)},
    ),
)
add("pad_default", single("Pad", IMAGE, ints(0, 0, 1, 1, 0, 0, 1, 1)))
add("pad_18_axes", single("Pad", IMAGE, ints(1, 2, 0, 3), None, ints(-1, 1), opset=18))
add("pad_reflect", single("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 3, 0), mode="reflect"))
add("pad_edge", single("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 3, 0), mode="edge"))
add("pad_wrap", single("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 3, 0), mode="wrap", opset=19))
add("pad_crops", single("Pad", IMAGE, ints(0, 0, -1, 0, 0, 0, 0, -2)))
add("pad_crops_and_pads", single("Pad", IMAGE, ints(0, 0, -1, 1, 0, 0, 0, -2), number(0.5)))
add("dropout_12", model([N("Relu", ["x"], ["a"]), N("Dropout", ["a"], ["y", "mask"])], {"x": IMAGE}, opset=12))
add("dropout_opset_11", model([N("Dropout", ["x"], ["a"], ratio=0.3), N("Relu", ["a"], ["y"])], {"x": IMAGE}, opset=11))

# ---- constants and shape arithmetic

add(
    "shape_arithmetic",
    model(
        [
            N("Relu", ["x"], ["r"]),
            N("Shape", ["r"], ["s"]),
            N("Gather", ["s", "zero"], ["n"], axis=0),
            N("Unsqueeze", ["n", "zeros"], ["n1"]),
            N("Constant", [], ["rest"], value_ints=[-1]),
            N("Concat", ["n1", "rest"], ["t"], axis=0),
            N("Reshape", ["r", "t"], ["y"]),
        ],
        {"x": IMAGE},
        {"zero": np.array(0, np.int64), "zeros": ints(0)},
    ),
)
add(
    "shape_limits",
    model(
        [
            N("Shape", ["x"], ["s"], start=1, end=3),
            N("Concat", ["minus", "s"], ["t"], axis=0),
            N("Reshape", ["x", "t"], ["y"]),
        ],
        {"x": (2, 3, 4)},
        {"minus": ints(-1)},
        opset=15,
    ),
)
add(
    "folded_weight",
    model(
        [N("Transpose", ["w"], ["t"]), N("Mul", ["t", "two"], ["v"]), N("MatMul", ["x", "v"], ["y"])],
        {"x": (3, 8)},
        {"w": weight(5, 8), "two": number(2)},
    ),
)
add(
    "half_weight",
    model(
        [N("Cast", ["h"], ["w"], to=1), N("Conv", ["x", "w"], ["y"])],
        {"x": IMAGE},
        {"h": weight(4, 6, 3, 3).astype(np.float16)},
    ),
)
add(
    "quantized_weight",
    model(
        [N("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0), N("Conv", ["x", "w"], ["y"])],
        {"x": IMAGE},
        {"q": np.arange(24, dtype=np.int8).reshape(4, 6, 1, 1) - 12, "s": positive(4), "z": np.zeros(4, np.int8)},
    ),
)
add(
    "shared_weight",
    model(
        [N("Conv", ["x", "w"], ["a"]), N("Relu", ["a"], ["b"]), N("Conv", ["b", "w"], ["y"])],
        {"x": IMAGE},
        {"w": weight(6, 6, 1, 1)},
    ),
)

# ---- names and outputs

add(
    "odd_names",
    model(
        [N("Relu", ["in put/0:x"], ['a.b::c/ü"q"']), N("Sigmoid", ['a.b::c/ü"q"'], ["y\\n'#"])],
        {"in put/0:x": IMAGE},
        outputs=("y\\n'#", 'a.b::c/ü"q"'),
    ),
)
add("output_is_input", model([N("Relu", ["x"], ["y"])], {"x": IMAGE}, outputs=("y", "x")))
add(
    "output_used_inside",
    model(
        [N("Conv", ["x", "w"], ["a"]), N("Relu", ["a"], ["y"])],
        {"x": IMAGE},
        {"w": weight(4, 6, 3, 3)},
        outputs=("a", "y"),
    ),
)
add(
    "output_of_identity",
    model(
        [N("Relu", ["x"], ["a"]), N("Identity", ["a"], ["y"]), N("Identity", ["a"], ["z"])],
        {"x": IMAGE},
        outputs=("y", "z"),
    ),
)
add("unused_input", model([N("Relu", ["x"], ["y"])], {"x": IMAGE, "unread": (1, 2)}))
add("dead_branch", model([N("Relu", ["x"], ["y"]), N("NonZero", ["x"], ["dead"])], {"x": IMAGE}))
