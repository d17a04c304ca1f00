"""Random TPU networks in floating point: one operation between casts, with odd shapes and awkward windows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from random_networks import Maker
from xdsl.ir import SSAValue

from tpu_deploy.ir import geometry
from tpu_deploy.ir.network import Network, dtype_of, element_type, shape_of, tensor_type, uniform_of
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.numbers import BFLOAT16, rounded

FLOATS = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": BFLOAT16}
Shape = tuple[int, ...]


class FloatMaker(Maker):
    """A network under construction whose values have one float type."""

    def __init__(self, seed: int, shape: Shape, kind: str) -> None:
        super().__init__(seed, shape)
        self.dtype = FLOATS[kind]

    def type(self, shape: Shape):
        """The tensor type of a result."""
        return tensor_type(shape, element_type(self.dtype))

    def values(self, *shape: int) -> np.ndarray[Any, Any]:
        """Numbers of the float type."""
        return rounded(self.rng.standard_normal(shape).astype(np.float32), self.dtype)

    def single(self, *shape: int) -> np.ndarray[Any, Any]:
        """float32 numbers."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def relu(self) -> dict[str, Any]:
        """No ReLU, one, or one with a limit."""
        return {"do_relu": bool(self.rng.random() < 0.6), "relu_limit": float(self.rng.choice([-1.0, 0.7, 6.0]))}

    def cast(self, x: SSAValue, dtype) -> SSAValue:
        kind = tensor_type(shape_of(x), element_type(dtype))
        return x if dtype_of(x) == dtype else self.op("tpu.Cast", [x], kind)

    def start(self) -> SSAValue:
        return self.cast(self.network.inputs[0], self.dtype)

    def quantize(self, x) -> SSAValue:
        return self.op("tpu.Quantize", [x], self.quantized(shape_of(x)))

    def quantize_channels(self, x) -> SSAValue:
        """Each index of some axis by a scale of its own."""
        shape, rng = shape_of(x), self.rng
        axis = int(rng.integers(1, len(shape)))
        dtype = rng.choice([np.int8, np.uint8])
        zero = int(rng.integers(0, 100)) if rng.random() < 0.6 else 0
        kind = UniformType.of(dtype, rng.uniform(0.005, 0.1, shape[axis]).tolist(), zero, axis)
        return self.op("tpu.Quantize", [x], tensor_type(shape, kind))

    def dequantize(self, x) -> SSAValue:
        return self.op("tpu.Dequantize", [x], self.type(shape_of(x)))

    def window(self, x, oc, kernel, strides, pads, dilations, inserts) -> tuple[Shape, list[int], list[int]]:
        """The result's shape, with kernel and dilations that fit."""
        n, _, *sizes = shape_of(x)
        kernel, dilations, out = list(kernel), list(dilations), []
        for axis, size in enumerate(map(geometry.spread_size, sizes, inserts)):
            both = pads[axis] + pads[2 + axis]
            if size + both < dilations[axis] * (kernel[axis] - 1) + 1:
                kernel[axis], dilations[axis] = 1, 1
            out.append(geometry.output_size(size, kernel[axis], strides[axis], both, dilations[axis]))
        return (n, oc, *out), kernel, dilations

    def conv(
        self, x, oc=None, kernel=None, strides=None, pads=None, dilations=None, group=1, relu=None, inserts=(0, 0)
    ) -> SSAValue:
        """A convolution of floats, or of integers with a float result."""
        rng, c = self.rng, shape_of(x)[1]
        oc = oc or int(rng.integers(1, 150))
        kernel = kernel or [int(k) for k in rng.integers(1, 5, 2)]
        strides = strides or [int(k) for k in rng.integers(1, 4, 2)]
        dilations = dilations or [int(k) for k in rng.integers(1, 3, 2)]
        pads = pads or [int(k) for k in rng.integers(0, 4, 4)]
        shape, kernel, dilations = self.window(x, oc, kernel, strides, pads, dilations, inserts)
        filters = (oc, c // group, *kernel)
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
        attributes |= {"group": group, "inserts": inserts}
        constants = [self.values(*filters), self.single(oc)]
        if uniform_of(x):
            weights = rng.integers(-127, 128, filters).astype(np.int8)
            bias = rng.integers(-3000, 3000, oc) - uniform_of(x).zero_point * weights.astype(np.int64).sum((1, 2, 3))
            constants = [weights, bias.astype(np.int32), np.abs(self.single(oc)) * np.float32(1e-3)]
        kind = "tpu.DequantizedConv2D" if uniform_of(x) else "tpu.FloatConv2D"
        operands = [x, *map(self.weight, constants)]
        return self.op(kind, operands, self.type(shape), **attributes, **(self.relu() if relu is None else relu))

    def add_depthwise(self, x) -> SSAValue:
        c = shape_of(x)[1]
        return self.conv(x, oc=c, group=c)

    def add_spread(self, x) -> SSAValue:
        """A convolution, dense or depthwise, of an input with zeros between its elements."""
        c, inserts = shape_of(x)[1], [int(k) for k in self.rng.choice([0, 1, 2, 6, 9], 2)]
        group = int(self.rng.choice([1, c]))
        return self.conv(x, oc=c if group > 1 else None, strides=[1, 1], group=group, inserts=inserts)

    def add_grouped(self, x) -> SSAValue:
        c = shape_of(x)[1]
        group = int(self.rng.choice([g for g in range(1, c + 1) if c % g == 0]))
        return self.conv(x, oc=group * int(self.rng.integers(1, 1 + max(1, 140 // group))), group=group)

    def matmul(self, x, columns=None, relu=None) -> SSAValue:
        """A matrix product of floats, or of integers with a float result."""
        *rows, k = shape_of(x)
        columns = columns or int(self.rng.integers(1, 200))
        constants = [self.values(k, columns), self.single(columns)]
        if uniform_of(x):
            right = self.rng.integers(-127, 128, (k, columns)).astype(np.int8)
            bias = self.rng.integers(-3000, 3000, columns) - uniform_of(x).zero_point * right.astype(np.int64).sum(0)
            constants = [right, bias.astype(np.int32), np.abs(self.single(columns)) * np.float32(1e-3)]
        kind = "tpu.DequantizedMatMul" if uniform_of(x) else "tpu.FloatMatMul"
        operands = [x, *map(self.weight, constants)]
        return self.op(kind, operands, self.type((*rows, columns)), **(self.relu() if relu is None else relu))

    def binary(self, kind, x) -> SSAValue:
        """x with itself, a broadcast slice of it or a constant."""
        shape = shape_of(x)
        part = tuple(k if self.rng.random() < 0.5 else 1 for k in shape)
        choice = int(self.rng.integers(0, 3))
        if choice == 0:
            other = x
        elif choice == 1:
            starts = {"offset": [0] * len(shape), "steps": [1] * len(shape)}
            other = self.op("tpu.Slice", [x], self.type(part), **starts)
        else:
            other = self.weight(self.values(*part))
        operands = [x, other] if self.rng.random() < 0.5 else [other, x]
        return self.op(kind, operands, self.type(shape), **self.relu())

    def affine(self, x) -> SSAValue:
        """With scale and bias of each channel, of all, or that do nothing."""
        c = shape_of(x)[1]
        scale = [np.ones(1, np.float32), self.single(1), self.single(c)][int(self.rng.integers(0, 3))]
        bias = [np.zeros(1, np.float32), np.full(1, 0.5, np.float32), self.single(c)][int(self.rng.integers(0, 3))]
        return self.op("tpu.Affine", [x, self.weight(scale), self.weight(bias)], self.type(shape_of(x)), **self.relu())

    def function(self, kind, x, **attributes) -> SSAValue:
        """An operation that is a program of steps."""
        operands = [x]
        if kind == "tpu.PRelu":
            operands.append(self.weight(self.single(int(self.rng.choice([1, shape_of(x)[1]])))))
        return self.op(kind, operands, self.type(shape_of(x)), **attributes)

    def max_pool(self, x) -> SSAValue:
        shape, window = self._window(x)
        return self.op("tpu.MaxPool2D", [x], self.type(shape), **window)

    def average_pool(self, x) -> SSAValue:
        shape, window = self._window(x)
        if self.rng.random() < 0.3:
            whole = list(shape_of(x)[2:])
            shape, window = (*shape[:2], 1, 1), {"kernel_shape": whole, "strides": [1, 1], "pads": [0] * 4}
        include = bool(self.rng.random() < 0.5)
        return self.op("tpu.FloatAvgPool2D", [x], self.type(shape), count_include_pad=include, **window, **self.relu())

    def finish(self, *values: SSAValue) -> Network:
        """Closes the network: each value as float32."""
        outputs = [self.dequantize(v) if uniform_of(v) else v for v in values]
        outputs = [self.cast(v, np.dtype(np.float32)) for v in outputs]
        self.network.finish(outputs, [f"out{k}" for k in range(len(outputs))])
        self.network.verify()
        return self.network


FUNCTIONS: dict[str, dict[str, Any]] = {
    "Clip": {"min": -0.3, "max": 0.9},
    "LeakyRelu": {"alpha": 0.1},
    "PRelu": {},
    "Sigmoid": {},
    "Tanh": {},
    "Erf": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "HardSwish": {},
    "SiLU": {},
    "Mish": {},
    "Softplus": {},
    "Elu": {"alpha": 0.7},
    "GELU": {"approx_mode": "normal"},
}

Make = Callable[[FloatMaker, SSAValue], SSAValue]

SUMMED: dict[str, Make] = {
    "conv": FloatMaker.conv,
    "depthwise": FloatMaker.add_depthwise,
    "grouped": FloatMaker.add_grouped,
    "spread": FloatMaker.add_spread,
    "matmul": FloatMaker.matmul,
    "average_pool": FloatMaker.average_pool,
}
"""Operations whose sums are taken in any order."""

EXACT: dict[str, Make] = {
    "dequantized_conv": lambda m, x: m.conv(m.quantize(x)),
    "dequantized_depthwise": lambda m, x: m.add_depthwise(m.quantize(x)),
    "dequantized_grouped": lambda m, x: m.add_grouped(m.quantize(x)),
    "dequantized_matmul": lambda m, x: m.matmul(m.quantize(x)),
    "quantize": lambda m, x: m.quantize(x),
    "quantize_channels": lambda m, x: m.quantize_channels(x),
    "add": lambda m, x: m.binary("tpu.FloatAdd", x),
    "sub": lambda m, x: m.binary("tpu.FloatSub", x),
    "mul": lambda m, x: m.binary("tpu.FloatMul", x),
    "affine": FloatMaker.affine,
    "max_pool": FloatMaker.max_pool,
    **{
        name: lambda m, x, name=name, attributes=attributes: m.function(f"tpu.{name}", x, **attributes)
        for name, attributes in FUNCTIONS.items()
    },
}
"""Operations that are right to the bit."""

OPERATIONS = SUMMED | EXACT


def random_shape(rng: np.random.Generator) -> Shape:
    """Images of few or many channels."""
    return int(rng.integers(1, 4)), int(rng.choice([1, 3, 16, 64, 65, 130])), *(int(k) for k in rng.integers(1, 15, 2))


def single(name: str, kind: str, seed: int, shape: Shape | None = None) -> Network:
    """One operation in one float type."""
    rng = np.random.default_rng([seed, *name.encode()])
    maker = FloatMaker(seed, shape or random_shape(rng), kind)
    return maker.finish(OPERATIONS[name](maker, maker.start()))
