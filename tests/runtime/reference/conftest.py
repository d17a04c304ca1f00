from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import Float32Type

from tpu_deploy.ir.network import Network, tensor_type
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.runtime.reference import Reference

Array = np.ndarray[Any, Any]


def rounded(value: int, multiplier: int, shift: int, zero_point: int, low: int, high: int) -> int:
    """Fixed-point requantization in Python's unbounded integers."""
    product = value * multiplier
    quotient = (2 * product + 2**shift) // 2 ** (shift + 1) if shift >= 0 else product * 2**-shift
    return min(max(quotient + zero_point, low), high)


@pytest.fixture(scope="session")
def requantized() -> Callable[..., Array]:
    """Arrays (broadcast) and a quantized type to the stored integers."""

    def apply(values: Any, multiplier: Any, shift: Any, kind: UniformType) -> Array:
        limits = np.iinfo(kind.dtype)
        slow = np.vectorize(rounded, otypes=[object])
        wide = [np.asarray(each).astype(object) for each in (values, multiplier, shift)]
        return slow(*wide, kind.zero_point, int(limits.min), int(limits.max)).astype(kind.dtype)

    return apply


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., Array]:
    """Runs one operation: operands are `(array, type)` for activations, plain arrays for weights."""

    def run(
        op: str, operands: list[Any], shape: tuple[int, ...], kind: Any = None, threads: int = 2, **attributes: Any
    ):
        given = [operand for operand in operands if isinstance(operand, tuple)]
        inputs = [(f"x{i}", array.shape) for i, (array, _) in enumerate(given)]
        network = Network.create("one", inputs, "TPU_LOWERED")
        feeds, overrides, values = {}, {}, []
        for i, (array, element) in enumerate(given):
            value = network.inputs[i]
            if element is None:
                feeds[f"x{i}"] = array
            else:
                typed = [tensor_type(array.shape, element)]
                value = network.append("tpu.Quantize", [value], typed, [f"q{i}"]).results[0]
                overrides[f"q{i}"] = array
            values.append(value)
        read = [
            values.pop(0) if isinstance(operand, tuple) else network.add_weight("w", operand) for operand in operands
        ]
        result = network.append(op, read, [tensor_type(shape, kind or Float32Type())], ["y"], attributes).results[0]
        network.finish([result], ["output"])
        network.verify()
        return Reference(network, threads).run(feeds, ["y"], overrides)["y"]

    return run
