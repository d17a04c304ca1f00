"""Random TOP networks for tests: branching graphs of every kind of operation, and random precisions for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from top_networks import Top
from xdsl.ir import SSAValue

from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.lowering.registry import RULES
from tpu_deploy.quant.plan import FLOATS, INTEGER_PRODUCTS, PRECISIONS

FUNCTIONS = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.2}, "Clip": {"min": -1.0, "max": 2.0}, "Sigmoid": {}, "Tanh": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "HardSwish": {}, "SiLU": {}, "Mish": {}, "Softplus": {},
    "Elu": {"alpha": 1.0}, "GELU": {}, "MulConst": {"const_val": -0.7}, "AddConst": {"const_val": 0.3},
}  # fmt: skip


def _function(top: Top, rng: np.random.Generator, name: str, x: SSAValue, _: SSAValue) -> SSAValue:
    kind = str(rng.choice(list(FUNCTIONS)))
    return top.op(kind, name, x, **FUNCTIONS[kind])


def _conv(top: Top, rng: np.random.Generator, name: str, x: SSAValue, _: SSAValue) -> SSAValue:
    n, c, h, w = shape_of(x)
    group = int(rng.choice([1, c]))
    filters = rng.standard_normal((c, c // group, 3, 3)).astype(np.float32) / np.float32(3 * np.sqrt(c / group))
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": group}
    operands = [x, top.constant(filters), top.weight(c)]
    return top.op("Conv", name, *operands, shape=(n, c, h, w), do_relu=bool(rng.random() < 0.5), **window)


def _matmul(top: Top, rng: np.random.Generator, name: str, x: SSAValue, _: SSAValue) -> SSAValue:
    width = shape_of(x)[-1]
    right = top.constant(rng.standard_normal((width, width)).astype(np.float32) / np.float32(np.sqrt(width)))
    return top.op("MatMul", name, x, right, top.absent())


def _scale(top: Top, _: np.random.Generator, name: str, x: SSAValue, __: SSAValue) -> SSAValue:
    channels = shape_of(x)[1]
    return top.op("Scale", name, x, top.weight(channels, seed=1), top.weight(channels, seed=2))


def _binary(top: Top, rng: np.random.Generator, name: str, x: SSAValue, y: SSAValue) -> SSAValue:
    return top.op(str(rng.choice(["Add", "Sub", "Mul"])), name, x, y, do_relu=bool(rng.random() < 0.3))


def _movement(top: Top, rng: np.random.Generator, name: str, x: SSAValue, _: SSAValue) -> SSAValue:
    turned = top.op("Permute", name, x, shape=[shape_of(x)[a] for a in (0, 1, 3, 2)], order=[0, 1, 3, 2])
    return top.op("Reshape", f"{name}_back", turned, shape=shape_of(x))


def _pooled(top: Top, rng: np.random.Generator, name: str, x: SSAValue, _: SSAValue) -> SSAValue:
    return top.pool(str(rng.choice(["MaxPool", "AvgPool"])), name, x, pad=1)


def _joined(top: Top, rng: np.random.Generator, name: str, x: SSAValue, y: SSAValue) -> SSAValue:
    n, c, h, w = shape_of(x)
    both = top.op("Concat", f"{name}_both", x, y, shape=(n, 2 * c, h, w), axis=1)
    absent = [top.absent() for _ in range(3)]
    bounds = {"offset": [0, 1, 0, 0], "steps": [1, 1, 1, 1], "ends": [n, 1 + c, h, w]}
    return top.op("Slice", name, both, *absent, shape=(n, c, h, w), **bounds)


def _softmax(top: Top, rng: np.random.Generator, name: str, x: SSAValue, _: SSAValue) -> SSAValue:
    return top.op("Softmax", name, x, axis=int(rng.choice([1, 3])))


Maker = Callable[[Top, np.random.Generator, str, SSAValue, SSAValue], SSAValue]
MAKERS: tuple[Maker, ...] = (
    _function, _function, _conv, _conv, _matmul, _scale, _binary, _binary, _movement, _pooled, _joined, _softmax,
)  # fmt: skip


def random_top(seed: int, length: int = 9) -> Network:
    """A network of about `length` operations that all keep the shape of the input; the last two are returned."""
    rng = np.random.default_rng(seed)
    top = Top((1, int(rng.integers(2, 9)), int(rng.integers(3, 8)), int(rng.integers(3, 8))))
    values = [top.x]
    for number in range(length):
        x, y = (values[-1 - int(rng.integers(0, min(3, len(values))))] for _ in range(2))
        make = MAKERS[int(rng.integers(len(MAKERS)))]
        values.append(make(top, rng, f"op{number}", x, y))
    return top.finish(*dict.fromkeys(values[-2:]))


def random_precisions(network: Network, seed: int) -> tuple[dict[str, str], dict[str, str]]:
    """A precision for each operation that has it, movements now and then left to follow, and float results."""
    rng = np.random.default_rng(seed)
    chosen, results = {}, {}
    for op in network.operations:
        precision = str(rng.choice([p for p in PRECISIONS if (op.name, p) in RULES]))
        if rng.random() < 0.8:
            chosen[name_of(op)] = precision
            if precision == "INT8" and op.name in INTEGER_PRODUCTS and rng.random() < 0.5:
                results[name_of(op)] = str(rng.choice(list(FLOATS)))
    return chosen, results
