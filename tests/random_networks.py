"""Random TPU networks for tests: every operation with odd shapes, zero points, both signs, awkward windows."""

from collections.abc import Callable

import numpy as np
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.ir import geometry
from tpu_deploy.ir.network import Network, dtype_of, shape_of, tensor_type, uniform_of
from tpu_deploy.ir.quant_types import UniformType


class Maker:
    """A network under construction; every `add_*` appends one operation and returns its value."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.network = Network.create(f"random{seed}", [("x", shape)], "TPU_LOWERED")
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def quantized(self, shape: tuple[int, ...], like: SSAValue | None = None):
        """A random quantized tensor type, or that of `like`."""
        if like is not None:
            return tensor_type(shape, uniform_of(like))
        dtype = self.rng.choice([np.int8, np.uint8])
        limits = np.iinfo(dtype)
        zero = int(self.rng.integers(limits.min, limits.max + 1)) if self.rng.random() < 0.4 else 0
        return tensor_type(shape, UniformType.of(dtype, float(self.rng.uniform(0.01, 0.1)), zero))

    def op(self, kind, operands, result_type, **attributes) -> SSAValue:
        made = self.network.append(kind, operands, [result_type], [self.name(kind.split(".")[1])], attributes)
        return made.results[0]

    def weight(self, array) -> SSAValue:
        return self.network.add_weight(self.name("weight"), array)

    def start(self) -> SSAValue:
        x = self.network.inputs[0]
        return self.op("tpu.Quantize", [x], self.quantized(shape_of(x)))

    def multipliers(self, count: int, spread: float):
        """Requantization of sums of about `spread` to the 8-bit range."""
        multiplier = self.rng.integers(1 << 22, 1 << 23, count).astype(np.int32)
        shift = np.full(count, 23 + max(0, int(np.log2(max(spread, 1) / 64))), np.int32)
        return multiplier, shift + self.rng.integers(0, 2, count).astype(np.int32)

    def add_conv(
        self, x, oc=None, kernel=None, strides=None, pads=None, dilations=None, group=1, inserts=(0, 0)
    ) -> SSAValue:
        rng, (n, c, h, w) = self.rng, shape_of(x)
        oc = oc or int(rng.integers(1, 150))
        kernel = kernel or [int(k) for k in rng.integers(1, 5, 2)]
        strides = strides or [int(k) for k in rng.integers(1, 4, 2)]
        dilations = dilations or [int(k) for k in rng.integers(1, 3, 2)]
        pads = pads or [int(k) for k in rng.integers(0, 4, 4)]
        out = []
        for axis, size in enumerate(map(geometry.spread_size, (h, w), inserts)):
            room = size + pads[axis] + pads[2 + axis]
            if room < dilations[axis] * (kernel[axis] - 1) + 1:
                kernel[axis], dilations[axis] = 1, 1
            both = pads[axis] + pads[2 + axis]
            out.append(geometry.output_size(size, kernel[axis], strides[axis], both, dilations[axis]))
        filters = rng.integers(-127, 128, (oc, c // group, *kernel)).astype(np.int8)
        zero = uniform_of(x).zero_point
        bias = rng.integers(-3000, 3000, oc) - zero * filters.astype(np.int64).sum((1, 2, 3))
        multiplier, shift = self.multipliers(oc, 5000 * np.sqrt(filters[0].size))
        narrow = int(rng.integers(-1, 6)) if group == c == oc > 1 and not any(inserts) else -1
        shift = shift - max(narrow, 0)
        constants = [self.weight(a) for a in (filters, bias.astype(np.int32), multiplier, shift)]
        return self.op(
            "tpu.Conv2D", [x, *constants], self.quantized((n, oc, *out)),
            kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, group=group, acc_shift=narrow,
            inserts=inserts,
        )  # fmt: skip

    def add_depthwise(self, x) -> SSAValue:
        c = shape_of(x)[1]
        return self.add_conv(x, oc=c, group=c) if c > 1 else self.add_conv(x)

    def add_spread(self, x) -> SSAValue:
        """A convolution, dense, grouped or depthwise, of an input with zeros between its elements."""
        if uniform_of(x).zero_point:
            kind = tensor_type(shape_of(x), UniformType.of(np.dtype(np.int8), 0.05, 0))
            x = self.op("tpu.Requantize", [x], kind, multiplier=1 << 22, rshift=22)
        c, inserts = shape_of(x)[1], [int(k) for k in self.rng.choice([0, 1, 1, 2, 6, 9], 2)]
        group = int(self.rng.choice([g for g in (1, 1, 2, 3, c) if c % g == 0]))
        oc = c if group == c else group * int(self.rng.integers(1, 20))
        return self.add_conv(x, oc=oc, strides=[1, 1], group=group, inserts=inserts)

    def add_grouped(self, x) -> SSAValue:
        c = shape_of(x)[1]
        groups = [g for g in range(1, c + 1) if c % g == 0]
        group = int(self.rng.choice(groups))
        return self.add_conv(x, oc=group * int(self.rng.integers(1, 1 + max(1, 140 // group))), group=group)

    def add_matmul(self, x) -> SSAValue:
        shape = shape_of(x)
        k, columns = shape[-1], int(self.rng.integers(1, 200))
        right = self.rng.integers(-127, 128, (k, columns)).astype(np.int8)
        bias = self.rng.integers(-3000, 3000, columns) - uniform_of(x).zero_point * right.astype(np.int64).sum(0)
        multiplier, shift = self.multipliers(columns, 5000 * np.sqrt(k))
        constants = [self.weight(a) for a in (right, bias.astype(np.int32), multiplier, shift)]
        return self.op("tpu.MatMul", [x, *constants], self.quantized((*shape[:-1], columns)))

    def add_sum(self, x) -> SSAValue:
        """A sum of x with itself, a broadcast slice of it, an int16 constant or an offset."""
        rng, shape = self.rng, shape_of(x)
        operands, multipliers, rshifts, bounds = [x], [int(rng.integers(20, 128))], [0], [255]
        for kind in rng.permutation(["self", "slice", "constant"])[: rng.integers(0, 3)]:
            if kind == "constant":
                part = tuple(k if rng.random() < 0.5 else 1 for k in shape)
                operands.append(self.weight(rng.integers(-2000, 2001, part).astype(np.int16)))
                multipliers.append(1)
                rshifts.append(0)
                continue
            other = x
            if kind == "slice":
                part = tuple(k if rng.random() < 0.5 else 1 for k in shape)
                other = self.op(
                    "tpu.Slice", [x], self.quantized(part, x), offset=[0] * len(shape), steps=[1] * len(shape)
                )
            operands.append(other)
            multipliers.append(int(rng.integers(-128, 200)))
            rshifts.append(0)
        room = 32767 - 2000 * sum(o is not x and dtype_of(o) == np.int16 for o in operands) - 600
        count = sum(dtype_of(o) != np.int16 for o in operands)
        for index, operand in enumerate(operands):
            if dtype_of(operand) != np.int16:
                while (bounds[0] * abs(multipliers[index]) >> rshifts[index]) + 1 > room // count:
                    rshifts[index] += 1
        offset = int(rng.integers(-600, 600)) if rng.random() < 0.6 else 0
        return self.op(
            "tpu.Add", operands, self.quantized(shape), multipliers=multipliers, rshifts=rshifts,
            offset=offset, rshift=int(rng.integers(4, 8)),
        )  # fmt: skip

    def add_product(self, x) -> SSAValue:
        rng, shape = self.rng, shape_of(x)
        part = tuple(k if rng.random() < 0.6 else 1 for k in shape)
        if rng.random() < 0.3:
            other = self.network.append(
                "top.Weight", [], [tensor_type(part, UniformType.of(np.int8, 0.1))], [self.name("w")]
            )
            self.network.weights[other.location.desc.data] = rng.integers(-128, 128, part).astype(np.int8)
            other = other.results[0]
        else:
            other = self.op("tpu.Slice", [x], self.quantized(part, x), offset=[0] * len(shape), steps=[1] * len(shape))
        operands = [x, other] if rng.random() < 0.5 else [other, x]
        return self.op(
            "tpu.Mul", operands, self.quantized(shape), multiplier=int(rng.integers(1 << 22, 1 << 23)), rshift=29
        )

    def add_lut(self, x) -> SSAValue:
        kind, shape = self.quantized(shape_of(x)), shape_of(x)
        dtype = kind.element_type.dtype
        limits = np.iinfo(dtype)
        entries = (shape[1], 256) if len(shape) > 1 and self.rng.random() < 0.4 else (256,)
        table = self.rng.integers(limits.min, limits.max + 1, entries).astype(dtype)
        return self.op("tpu.Lut", [x, self.weight(table)], kind)

    def add_requantize(self, x) -> SSAValue:
        shift = int(self.rng.integers(21, 25))
        return self.op(
            "tpu.Requantize", [x], self.quantized(shape_of(x)),
            multiplier=int(self.rng.integers(1 << 22, 1 << 23)), rshift=shift,
        )  # fmt: skip

    def _window(self, x):
        rng, (n, c, h, w) = self.rng, shape_of(x)
        kernel = [int(min(k, s)) for k, s in zip(rng.integers(1, 5, 2), (h, w), strict=True)]
        strides = [int(k) for k in rng.integers(1, 4, 2)]
        pads = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
        ceil = bool(rng.random() < 0.5)
        out = []
        for axis, size in enumerate((h, w)):
            begin, end = pads[axis], pads[2 + axis]
            count = geometry.output_size(size, kernel[axis], strides[axis], begin + end, ceil_mode=ceil)
            while (count - 1) * strides[axis] >= size + begin:
                count -= 1
            out.append(count)
        return (n, c, *out), {"kernel_shape": kernel, "strides": strides, "pads": pads}

    def add_max_pool(self, x) -> SSAValue:
        shape, window = self._window(x)
        return self.op("tpu.MaxPool2D", [x], self.quantized(shape, x), **window)

    def add_average_pool(self, x) -> SSAValue:
        shape, window = self._window(x)
        if self.rng.random() < 0.3:
            shape, window = (
                (*shape[:2], 1, 1),
                {"kernel_shape": list(shape_of(x)[2:]), "strides": [1, 1], "pads": [0] * 4},
            )
        include = bool(self.rng.random() < 0.5)
        axes = [
            geometry.window_counts(
                shape_of(x)[2 + a], window["kernel_shape"][a], window["strides"][a],
                window["pads"][a], window["pads"][2 + a], shape[2 + a], include,
            )
            for a in (0, 1)
        ]  # fmt: skip
        counts = sorted({int(a * b) for a in axes[0] for b in axes[1]})
        multipliers = [round((1 << 22) / k) for k in counts]
        return self.op(
            "tpu.AvgPool2D", [x], self.quantized(shape), counts=counts, multipliers=multipliers, rshift=22,
            count_include_pad=include, **window,
        )  # fmt: skip

    def add_permute(self, x) -> SSAValue:
        order = [int(a) for a in self.rng.permutation(len(shape_of(x)))]
        return self.op("tpu.Permute", [x], self.quantized(tuple(shape_of(x)[a] for a in order), x), order=order)

    def add_concat(self, x) -> SSAValue:
        shape, axis = shape_of(x), int(self.rng.integers(0, len(shape_of(x))))
        other = self.op("tpu.Lut", [x, self.weight(np.arange(256).astype(dtype_of(x)))], self.quantized(shape, x))
        parts = [x, other] if self.rng.random() < 0.5 else [other, x, other]
        whole = tuple(k * len(parts) if a == axis else k for a, k in enumerate(shape))
        return self.op("tpu.Concat", parts, self.quantized(whole, x), axis=axis)

    def add_slice(self, x) -> SSAValue:
        shape = shape_of(x)
        offsets, steps, out = [], [], []
        for size in shape:
            step = int(self.rng.choice([1, 1, 2, -1]))
            start = int(self.rng.integers(0, size))
            length = (size - start + step - 1) // step if step > 0 else start + 1
            offsets.append(start)
            steps.append(step)
            out.append(int(self.rng.integers(1, length + 1)))
        return self.op("tpu.Slice", [x], self.quantized(tuple(out), x), offset=offsets, steps=steps)

    def add_pad(self, x) -> SSAValue:
        rank = len(shape_of(x))
        pads = [int(k) for k in self.rng.integers(0, 3, 2 * rank)]
        shape = tuple(k + pads[a] + pads[rank + a] for a, k in enumerate(shape_of(x)))
        limits = np.iinfo(dtype_of(x))
        value = int(self.rng.integers(limits.min, limits.max + 1))
        return self.op("tpu.Pad", [x], self.quantized(shape, x), pads=pads, value=value)

    def add_reshape(self, x) -> SSAValue:
        shape = shape_of(x)
        flat = (shape[0], int(np.prod(shape[1:])))
        return self.op("tpu.Reshape", [x], self.quantized(self.rng.permutation(shape) if len(shape) > 2 else flat, x))

    def finish(self, *values: SSAValue) -> Network:
        """Closes the network: each value dequantized to an output."""
        outputs, names = [], []
        for value in values:
            name = self.name("out")
            kind = tensor_type(shape_of(value), Float32Type())
            outputs.append(self.network.append("tpu.Dequantize", [value], [kind], [name]).results[0])
            names.append(name)
        self.network.finish(outputs, names)
        self.network.verify()
        return self.network


WINDOWED: dict[str, Callable[[Maker, SSAValue], SSAValue]] = {
    "conv": Maker.add_conv,
    "depthwise": Maker.add_depthwise,
    "grouped": Maker.add_grouped,
    "spread": Maker.add_spread,
    "max_pool": Maker.add_max_pool,
    "average_pool": Maker.add_average_pool,
}
"""Operations on 4-D tensors."""

ANY_RANK: dict[str, Callable[[Maker, SSAValue], SSAValue]] = {
    "matmul": Maker.add_matmul,
    "sum": Maker.add_sum,
    "product": Maker.add_product,
    "lut": Maker.add_lut,
    "requantize": Maker.add_requantize,
    "permute": Maker.add_permute,
    "concat": Maker.add_concat,
    "slice": Maker.add_slice,
    "pad": Maker.add_pad,
    "reshape": Maker.add_reshape,
}

OPERATIONS = WINDOWED | ANY_RANK


def single(kind: str, seed: int) -> Network:
    """A network of one operation of a kind."""
    rng = np.random.default_rng(seed)
    rank = 4 if kind in WINDOWED else int(rng.integers(2, 6))
    shape = tuple(int(k) for k in (rng.integers(1, 4), rng.integers(1, 140), *rng.integers(1, 14, rank - 2)))
    maker = Maker(seed, shape)
    return maker.finish(OPERATIONS[kind](maker, maker.start()))


def chain(seed: int, length: int = 6) -> Network:
    """A network of several operations one after another, each also an output by chance."""
    rng = np.random.default_rng(seed)
    maker = Maker(seed, tuple(int(k) for k in (rng.integers(1, 3), rng.integers(1, 40), *rng.integers(4, 16, 2))))
    value, outputs = maker.start(), []
    for _ in range(length):
        rank = len(shape_of(value))
        kinds = OPERATIONS if rank == 4 else ANY_RANK
        made = kinds[str(rng.choice(list(kinds)))](maker, value)
        if int(np.prod(shape_of(made))) > 200_000:
            continue
        value = made
        if rng.random() < 0.25:
            outputs.append(value)
    return maker.finish(*outputs, value)
