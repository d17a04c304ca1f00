"""Operations that are x * scale + bias with constants: read from any spelling, written in the plainest one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, name_of, shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.rewriting import check_float32, fresh_weight, rebuild, relu_of


@dataclass(frozen=True)
class Affine:
    """y = x * scale + bias; both float64, of shape () or of the size of `axis`, along which they vary."""

    scale: Array
    bias: Array
    axis: int | None

    def along(self, axis: int) -> bool:
        """Whether it is constant, or varies along `axis` only."""
        return self.axis is None or self.axis == axis

    def after(self, first: Affine) -> Affine | None:
        """This one applied to the result of `first`; None when they vary along different axes."""
        if self.axis is not None and not first.along(self.axis):
            return None
        axis = self.axis if self.axis is not None else first.axis
        return Affine(self.scale * first.scale, self.scale * first.bias + self.bias, axis)


def read_affine(network: Network, op: Operation) -> tuple[SSAValue, Affine] | None:
    """The operand that varies and what is done to it, before the operation's ReLU; None for other operations."""
    attributes = attributes_of(op)
    if op.name in ("top.AddConst", "top.MulConst", "top.SubConst"):
        return op.operands[0], _with_number(op.name, attributes["const_val"], bool(attributes.get("is_reverse")))
    if op.name == "top.Scale":
        scale, bias = (_array(network, v).reshape(-1) for v in op.operands[1:])
        return op.operands[0], Affine(scale, bias, 1)
    if op.name == "top.BatchNorm":
        mean, variance, gamma, beta = (_array(network, v) for v in op.operands[1:])
        factor = gamma / np.sqrt(variance + attributes["epsilon"])
        return op.operands[0], Affine(factor, beta - mean * factor, 1)
    if op.name in ("top.Add", "top.Mul", "top.Sub") and len(op.operands) == 2 and not attributes.get("coeff"):
        return _with_weight(network, op, bool(attributes.get("is_reverse")))
    return None


def _array(network: Network, value: SSAValue) -> Array:
    array = network.weight(value)
    assert array is not None, f"{name_of(value)} is no weight"
    return array.astype(np.float64)


def _with_number(name: str, number: float, is_reverse: bool) -> Affine:
    one, value = np.array(1.0), np.array(number)
    if name == "top.MulConst":
        return Affine(value, np.array(0.0), None)
    if name == "top.AddConst":
        return Affine(one, value, None)
    return Affine(-one, value, None) if is_reverse else Affine(one, -value, None)


def _with_weight(network: Network, op: Operation, is_reverse: bool) -> tuple[SSAValue, Affine] | None:
    constant = [network.weight(v) is not None for v in op.operands]
    if sum(constant) != 1:
        return None
    side = constant.index(False)
    x, other = op.operands[side], op.operands[1 - side]
    shape = shape_of(x)
    varying = [a - len(shape_of(other)) + len(shape) for a, d in enumerate(shape_of(other)) if d != 1]
    if len(varying) > 1 or shape != shape_of(op.results[0]):
        return None
    array = _array(network, other).reshape(-1 if varying else ())
    one, zero = np.ones_like(array), np.zeros_like(array)
    axis = varying[0] if varying else None
    if op.name == "top.Mul":
        return x, Affine(array, zero, axis)
    if op.name == "top.Add":
        return x, Affine(one, array, axis)
    subtracted = (side == 1) != is_reverse
    return x, Affine(-one, array, axis) if subtracted else Affine(one, -array, axis)


def write_affine(network: Network, op: Operation, x: SSAValue, affine: Affine) -> Operation | None:
    """The plainest operation for `affine` of `x` in the place of `op`, keeping its ReLU; None when one is not enough.

    A number alone: MulConst or AddConst. Along axis 1: Scale. Along another axis: Mul or Add with a weight.
    """
    shape = shape_of(x)
    no_scale, no_bias = bool(np.all(affine.scale == 1)), bool(np.all(affine.bias == 0))
    if affine.axis is None and (no_scale or no_bias):
        name, number = ("top.AddConst", affine.bias) if no_scale else ("top.MulConst", affine.scale)
        check_float32(network, op, "constant", number)
        return rebuild(network, op, name, [x], {"const_val": float(number), **relu_of(op)})
    if len(shape) > 1 and affine.along(1):
        values = {"scale": affine.scale, "bias": affine.bias}
        operands = [fresh_weight(network, op, suffix, np.broadcast_to(v, shape[1:2])) for suffix, v in values.items()]
        return rebuild(network, op, "top.Scale", [x, *operands], relu_of(op))
    if affine.axis is None or not (no_scale or no_bias):
        return None
    wide = [d if a == affine.axis else 1 for a, d in enumerate(shape)]
    name, array = ("top.Add", affine.bias) if no_scale else ("top.Mul", affine.scale)
    suffix = "bias" if no_scale else "scale"
    return rebuild(network, op, name, [x, fresh_weight(network, op, suffix, array.reshape(wide))], relu_of(op))
