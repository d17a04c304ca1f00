"""TPU networks put together by hand: single operations of chosen shapes, for tests that need a certain structure."""

from collections.abc import Sequence

import numpy as np
from random_networks import ANY_RANK, OPERATIONS, Maker
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue
from xdsl.rewriter import Rewriter

from tpu_deploy.ir.network import Network, dtype_of, named, shape_of, tensor_type, uniform_of
from tpu_deploy.ir.quant_types import UniformType

Shape = tuple[int, ...]


class Parts(Maker):
    """A network under construction whose shapes the test chooses; numbers are random."""

    def __init__(self, *shapes: Shape, seed: int = 1, quantized_io: bool = False) -> None:
        super().__init__(seed, shapes[0])
        names = [("x" if index == 0 else f"x{index}", shape) for index, shape in enumerate(shapes)]
        self.network = Network.create(f"parts{seed}", names, "TPU_LOWERED")
        if quantized_io:
            for name, value in zip([name for name, _ in names], self.network.inputs, strict=True):
                kind = self.quantized(shape_of(value))
                argument = Rewriter.replace_value_with_new_type(value.owner.operands[0], kind)
                argument.location = named(name)
                Rewriter.replace_value_with_new_type(value, kind)

    def start(self, index: int = 0) -> SSAValue:
        """Input `index` as a quantized tensor."""
        x = self.network.inputs[index]
        return x if uniform_of(x) else self.op("tpu.Quantize", [x], self.quantized(shape_of(x)))

    def unsigned(self, shape: Shape):
        return tensor_type(shape, UniformType.of(np.uint8, 0.05))

    def conv(self, x, oc, kernel=(1, 1), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1) -> SSAValue:
        return self.add_conv(x, oc, list(kernel), list(strides), list(pads), list(dilations), group)

    def same_conv(self, x, oc, kernel=3, group=1) -> SSAValue:
        """A convolution that keeps height and width."""
        return self.conv(x, oc, (kernel, kernel), pads=(kernel // 2,) * 4, group=group)

    def lut(self, x) -> SSAValue:
        """A permutation of the stored integers, in the type of x."""
        table = self.rng.permutation(256).astype(np.uint8).view(dtype_of(x))
        return self.op("tpu.Lut", [x, self.weight(table)], self.quantized(shape_of(x), x))

    def requantize(self, x, like) -> SSAValue:
        """x in the type of `like`."""
        kind = self.quantized(shape_of(x), like)
        return self.op("tpu.Requantize", [x], kind, multiplier=5_000_000, rshift=22)

    def add(self, *operands) -> SSAValue:
        shape = tuple(np.broadcast_shapes(*map(shape_of, operands)))
        multipliers = [60 - 7 * k for k in range(len(operands))]
        kind = self.quantized(shape)
        return self.op("tpu.Add", operands, kind, multipliers=multipliers, rshifts=[1] * len(operands), rshift=5)

    def mul(self, left, right) -> SSAValue:
        shape = tuple(np.broadcast_shapes(shape_of(left), shape_of(right)))
        return self.op("tpu.Mul", [left, right], self.quantized(shape), multiplier=5_000_000, rshift=29)

    def permute(self, x, *order: int) -> SSAValue:
        return self.op("tpu.Permute", [x], self._like(x, [shape_of(x)[a] for a in order]), order=list(order))

    def reshape(self, x, *shape: int) -> SSAValue:
        return self.op("tpu.Reshape", [x], self._like(x, shape))

    def slice(self, x, offset: Sequence[int], shape: Sequence[int], steps: Sequence[int] | None = None) -> SSAValue:
        chosen = list(steps or [1] * len(offset))
        return self.op("tpu.Slice", [x], self._like(x, shape), offset=list(offset), steps=chosen)

    def concat(self, axis: int, *operands) -> SSAValue:
        shape = list(shape_of(operands[0]))
        shape[axis] = sum(shape_of(o)[axis] for o in operands)
        return self.op("tpu.Concat", operands, self._like(operands[0], shape), axis=axis)

    def pad(self, x, begin: Sequence[int], end: Sequence[int], value: int = 7) -> SSAValue:
        shape = [a + k + b for a, k, b in zip(begin, shape_of(x), end, strict=True)]
        return self.op("tpu.Pad", [x], self._like(x, shape), pads=[*begin, *end], value=value)

    def max_pool(self, x, kernel, strides=(1, 1), pads=(0, 0, 0, 0)) -> SSAValue:
        kind = self._like(x, self._pooled(x, kernel, strides, pads))
        return self.op("tpu.MaxPool2D", [x], kind, kernel_shape=list(kernel), strides=list(strides), pads=list(pads))

    def average_pool(self, x, kernel, strides=(1, 1), pads=(0, 0, 0, 0)) -> SSAValue:
        """Averages that count padding, so that all windows share one count."""
        area = int(np.prod(kernel))
        rshift = 22 + area.bit_length()
        return self.op(
            "tpu.AvgPool2D", [x], self.quantized(self._pooled(x, kernel, strides, pads)), kernel_shape=list(kernel),
            strides=list(strides), pads=list(pads), counts=[area], multipliers=[round(2**rshift / area)], rshift=rshift,
            count_include_pad=1,
        )  # fmt: skip

    def matmul(self, x, columns: int) -> SSAValue:
        shape = shape_of(x)
        right = self.rng.integers(-127, 128, (shape[-1], columns)).astype(np.int8)
        bias = self.rng.integers(-3000, 3000, columns).astype(np.int32)
        multiplier, shift = self.multipliers(columns, 5000 * np.sqrt(shape[-1]))
        constants = [self.weight(a) for a in (right, bias, multiplier, shift)]
        return self.op("tpu.MatMul", [x, *constants], self.quantized((*shape[:-1], columns)))

    def softmax(self, x, axis: int) -> SSAValue:
        """Of a float32 value."""
        return self.op("tpu.Softmax", [x], tensor_type(shape_of(x), Float32Type()), axis=axis)

    def dequantize(self, x) -> SSAValue:
        return self.op("tpu.Dequantize", [x], tensor_type(shape_of(x), Float32Type()))

    def returning(self, *values: SSAValue) -> Network:
        """Closes the network with the values as they are for outputs y0, y1, ..."""
        self.network.finish(values, [f"y{index}" for index in range(len(values))])
        self.network.verify()
        return self.network

    def _like(self, x, shape: Sequence[int]):
        return tensor_type([int(k) for k in shape], x.type.element_type)

    @staticmethod
    def _pooled(x, kernel, strides, pads) -> Shape:
        n, c, *plane = shape_of(x)
        sizes = ((k + pads[a] + pads[2 + a] - kernel[a]) // strides[a] + 1 for a, k in enumerate(plane))
        return n, c, *sizes


def bouquet(seed: int) -> Network:
    """Every operation once, side by side on one input."""
    rng = np.random.default_rng(seed)
    maker = Maker(seed, (int(rng.integers(1, 4)), int(rng.integers(1, 140)), *(int(k) for k in rng.integers(3, 14, 2))))
    x = maker.start()
    return maker.finish(*(add(maker, x) for add in OPERATIONS.values()))


def tangle(seed: int, size: int = 10, elements: int = 60_000) -> Network:
    """A random graph: values are read by several operations, joined, added, cut along the batch, returned by chance."""
    rng = np.random.default_rng(seed)
    batch, channels = int(rng.choice([1, 1, 2, 4, 6])), int(rng.choice([3, 16, 64, 70, 130]))
    plane = [int(k) for k in rng.integers(4, 40, 2)]
    parts = Parts((batch, channels, *plane), seed=seed)
    values = [parts.start()]
    for _ in range(size):
        x = values[-1] if rng.random() < 0.6 else values[int(rng.integers(len(values)))]
        made = _step(parts, rng, x, values)
        if 0 < np.prod(shape_of(made)) <= elements:
            values.append(made)
    returned = [v for v in values if rng.random() < 0.2]
    return parts.finish(*returned, values[-1])


def _step(parts: Parts, rng: np.random.Generator, x: SSAValue, values: list[SSAValue]) -> SSAValue:
    """One operation on x, perhaps with another value of its shape."""
    shape = shape_of(x)
    kind = str(rng.choice(["join", "add", "mul", "shape", "compute", "compute", "compute", "compute"]))
    others = [v for v in values if shape_of(v) == shape]
    other = others[int(rng.integers(len(others)))]
    if kind == "join":
        axis = int(rng.integers(len(shape)))
        return parts.concat(axis, *(x if v is x else parts.requantize(v, x) for v in (x, other)))
    if kind == "add":
        first = [int(rng.integers(k)) if rng.random() < 0.3 else 0 for k in shape]
        cut = parts.slice(other, first, [1 if f else k for f, k in zip(first, shape, strict=True)])
        return parts.add(x, cut)
    if kind == "mul":
        return parts.mul(other, x)
    if kind == "shape":
        return OPERATIONS[str(rng.choice(["permute", "slice", "pad", "reshape"]))](parts, x)
    kinds = OPERATIONS if len(shape) == 4 else ANY_RANK
    return kinds[str(rng.choice(list(kinds)))](parts, x)
