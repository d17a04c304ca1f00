"""Small TOP networks for tests of passes, and the judge: a pass must not change what the network computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx_cases import assert_close, run, weight
from xdsl.dialects.builtin import Float32Type
from xdsl.ir import SSAValue

from tpu_deploy.frontend import export_onnx
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of, tensor_type

IMAGE = (2, 6, 9, 8)


class Top:
    """A TOP network under construction; every value is named by whoever makes it."""

    def __init__(self, shape: Sequence[int] = IMAGE) -> None:
        self.network = Network.create("net", [("x", shape)])
        self.x = self.network.inputs[0]

    def op(
        self, kind: str, name: str, *operands: SSAValue, shape: Sequence[int] | None = None, **attributes: Any
    ) -> SSAValue:
        """The result of `top.{kind}`, of the first operand's shape unless `shape` is given."""
        made = tensor_type(shape_of(operands[0]) if shape is None else shape, Float32Type())
        return self.network.append(f"top.{kind}", operands, [made], [name], attributes).results[0]

    def weight(self, *shape: int, seed: int = 0) -> SSAValue:
        """A weight of seeded normal values."""
        return self.network.add_weight("w", weight(*shape, seed=seed))

    def constant(self, array: np.ndarray[Any, Any]) -> SSAValue:
        """A weight with given values."""
        return self.network.add_weight("c", np.asarray(array, np.float32))

    def absent(self) -> SSAValue:
        """No operand."""
        return self.network.absent()

    def conv(
        self, name: str, x: SSAValue, outputs: int = 4, kernel: int = 3, pad: int = 0, **attributes: Any
    ) -> SSAValue:
        """A convolution with bias."""
        n, c, *spatial = shape_of(x)
        filters = self.weight(outputs, c // attributes.get("group", 1), kernel, kernel)
        shape = (n, outputs, *(size + 2 * pad - kernel + 1 for size in spatial))
        window = {"kernel_shape": [kernel] * 2, "strides": [1, 1], "pads": [pad] * 4, "dilations": [1, 1]}
        return self.op("Conv", name, x, filters, self.weight(outputs), shape=shape, **window, **attributes)

    def matmul(self, name: str, x: SSAValue, outputs: int = 5, bias: bool = True) -> SSAValue:
        """A product with a weight."""
        shape = shape_of(x)
        added = self.weight(outputs) if bias else self.absent()
        return self.op("MatMul", name, x, self.weight(shape[-1], outputs), added, shape=(*shape[:-1], outputs))

    def pool(self, kind: str, name: str, x: SSAValue, kernel: int = 3, pad: int = 0, **attributes: Any) -> SSAValue:
        """A pool of stride 1."""
        n, c, *spatial = shape_of(x)
        shape = (n, c, *(size + 2 * pad - kernel + 1 for size in spatial))
        window = {"kernel_shape": [kernel] * 2, "strides": [1, 1], "pads": [pad] * 4}
        return self.op(kind, name, x, shape=shape, **window, **attributes)

    def pad(self, name: str, x: SSAValue, paddings: Sequence[int], value: float = 0.0) -> SSAValue:
        """A padded tensor."""
        shape = shape_of(x)
        made = [d + paddings[a] + paddings[a + len(shape)] for a, d in enumerate(shape)]
        return self.op("Pad", name, x, self.absent(), shape=made, paddings=paddings, val=value)

    def finish(self, *outputs: SSAValue) -> Network:
        """The network returning these values under their own names."""
        self.network.finish(outputs, [name_of(v) for v in outputs])
        self.network.verify()
        return self.network


def summary(network: Network) -> list[str]:
    """`name=Operation` for each operation, with its ReLU."""

    def relu(attributes: dict[str, Any]) -> str:
        if not attributes.get("do_relu"):
            return ""
        return "+relu" if attributes["relu_limit"] < 0 else f"+relu{attributes['relu_limit']:g}"

    return [f"{name_of(op)}={op.name.removeprefix('top.')}{relu(attributes_of(op))}" for op in network.operations]


def rewritten(network: Network, *passes: Callable[[Network], Any], repeats: int = 1) -> list[str]:
    """The summary after the passes, which must leave a valid network that computes the same."""
    rng = np.random.default_rng(3)
    feeds = {name_of(v): (2 * rng.standard_normal(shape_of(v))).astype(np.float32) for v in network.inputs}
    expected = run(export_onnx(network), feeds)
    for rewrite in passes * repeats:
        rewrite(network)
        network.verify()
    network.remove_unused()
    assert_close(run(export_onnx(network), feeds), expected)
    return summary(network)
