"""A TPU network under construction: which TPU value stands for each TOP value, and the casts between precisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, StringAttr
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.rewriter import Rewriter

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import (
    Network,
    element_of,
    element_type,
    is_absent,
    name_of,
    named,
    shape_of,
    tensor_type,
    uniform_of,
)
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.ir.weights import Array
from tpu_deploy.numbers import rounded
from tpu_deploy.quant.factors import effective_weights
from tpu_deploy.quant.plan import FLOAT_TYPES, FLOATS, LIMITS, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.ranges import reach
from tpu_deploy.quant.weights import IntegerProduct, chosen_product, integer_product, requantization

SATURATION_TOLERANCE = 0.01
"""How far, relative to the limit, saturation may clip beside a ReLU's limit: scales around additions move by 0.5 %."""

FINE = TensorQuantization("int8", 1e-30)
"""Stands for a float where an 8-bit type is asked for whose step tells how fine weights need to be."""

FLOAT_NAMES: dict[type[Attribute], str] = {Float32Type: "float32", Float16Type: "float16", BFloat16Type: "bfloat16"}
"""What the names of casts to the float types end in."""


def uniform(quantization: TensorQuantization) -> UniformType:
    """The IR element type of a quantization."""
    dtype, scale, zero = quantization.numpy_dtype, quantization.scale, quantization.zero_point
    if not quantization.factors:
        return UniformType.of(dtype, scale, zero)
    return UniformType.of(dtype, [scale * factor for factor in quantization.factors], zero, quantization.axis)


class Builder:
    """Builds the TPU network for a planned TOP network, operation by operation in order.

    A TOP value has forms: quantized (its planned type), and floats of one or several types. It is made in one;
    `quantized` and `floating` add the cast from that to another. The form in which a value is made carries its TOP
    name, except that an output's name belongs to the returned form.
    """

    def __init__(self, source: Network, plan: QuantizationPlan, chip: str, quantized_io: bool = False) -> None:
        self.source = source
        self.plan = plan
        self.quantized_io = quantized_io
        inputs = [(name_of(v), shape_of(v)) for v in source.inputs]
        self.target = Network.create(source.name, inputs, "TPU_LOWERED")
        self.target.module.attributes["module.chip"] = StringAttr(chip)
        self.target.module.attributes["module.platform"] = source.module.attributes["module.platform"]
        self._taken = {name_of(v) for v in source.values()} | set(source.weights)
        self._outputs = {name_of(v) for v in source.outputs}
        self._made: dict[str, SSAValue] = {}
        self._quantized: dict[str, SSAValue] = {}
        self._floats: dict[tuple[str, Attribute], SSAValue] = {}
        for value in self.target.inputs:
            self._start_input(value)

    def _start_input(self, value: SSAValue) -> None:
        name = name_of(value)
        quantization = self.plan.tensors[name]
        if not (self.quantized_io and quantization.is_quantized):
            self._keep(name, value)
            return
        owner = value.owner
        assert isinstance(owner, Operation)
        argument = self.typed(owner.operands[0], quantization)
        assert isinstance(argument, BlockArgument)
        argument.location = named(name)
        self._keep(name, self.typed(value, quantization))

    def _keep(self, name: str, made: SSAValue) -> None:
        """Notes the form in which a TOP value is made."""
        self._made[name] = made
        if uniform_of(made) is None:
            self._floats[name, element_of(made)] = made
        else:
            self._quantized[name] = made

    # ---- what the families read

    def precision(self, op: Operation) -> str:
        """The planned precision of a TOP operation."""
        return self.plan.operations[name_of(op)]

    def quantization(self, value: SSAValue) -> TensorQuantization:
        """The planned type of a TOP value."""
        return self.plan.tensors[name_of(value)]

    def constant(self, value: SSAValue) -> Array | None:
        """The array of a TOP weight; None for an absent operand. For an activation, ValueError."""
        if is_absent(value):
            return None
        array = self.source.weight(value)
        if array is None:
            raise ValueError(f"{name_of(value)} is no constant")
        return array

    def is_constant(self, value: SSAValue) -> bool:
        """Whether a TOP value is a weight."""
        return self.source.weight(value) is not None

    def float_type(self, op: Operation) -> Attribute:
        """The element type of what `op` computes with, or for an INT8 operation with a float result, of that."""
        return element_type(FLOAT_TYPES[self.plan.made_in(name_of(op))].numpy_dtype)

    def is_made_float(self, op: Operation) -> bool:
        """Whether the result of `op` is a float."""
        return self.plan.made_in(name_of(op)) != "INT8"

    def quantized(self, value: SSAValue) -> SSAValue:
        """The 8-bit form of a TOP value, in its planned type."""
        name = name_of(value)
        if name not in self._quantized:
            kind = tensor_type(shape_of(value), uniform(self.plan.tensors[name]))
            free = self.helper_name(name, "quantized")
            self._quantized[name] = self.emit("tpu.Quantize", [self._made[name]], kind, free)
        return self._quantized[name]

    def floating(self, value: SSAValue, element: Attribute) -> SSAValue:
        """The form of a TOP value with the float type `element`."""
        name = name_of(value)
        if (name, element) not in self._floats:
            made, wide = self._made[name], Float32Type()
            if uniform_of(made) is None and wide not in (element, element_of(made)):
                made = self.floating(value, wide)
            returned = element == wide and name in self._outputs and not self._returns_quantized(value)
            free = name if returned else self.helper_name(name, FLOAT_NAMES[type(element)])
            kind = "tpu.Cast" if uniform_of(made) is None else "tpu.Dequantize"
            self._floats[name, element] = self.emit(kind, [made], tensor_type(shape_of(value), element), free)
        return self._floats[name, element]

    def operand(self, op: Operation, index: int = 0) -> SSAValue:
        """The form of an operand that the precision of `op` asks for."""
        return self.read(op, op.operands[index])

    def read(self, op: Operation, value: SSAValue) -> SSAValue:
        """The form of `value` that the precision of `op` asks for."""
        return self.quantized(value) if self.precision(op) == "INT8" else self.floating(value, self.float_type(op))

    def forms(self, name: str) -> list[SSAValue]:
        """All forms that a TOP value has so far."""
        floats = [form for (owner, _), form in self._floats.items() if owner == name]
        return [*floats, self._quantized[name]] if name in self._quantized else floats

    # ---- what the families write

    def helper_name(self, name: str, suffix: str) -> str:
        """A free name for a value or weight that has none in the TOP network."""
        wanted = free = f"{name}_{suffix}"
        count = 1
        while free in self._taken:
            count += 1
            free = f"{wanted}_{count}"
        self._taken.add(free)
        return free

    def weight(self, op: Operation, suffix: str, array: Array) -> SSAValue:
        """A weight named after `op`, in the type of `array`."""
        return self.target.add_weight(self.helper_name(name_of(op), suffix), array)

    def float_weight(self, op: Operation, suffix: str, array: Array) -> SSAValue:
        """A weight named after `op`, rounded to the float type that it computes with."""
        dtype = FLOAT_TYPES[self.plan.made_in(name_of(op))].numpy_dtype
        return self.weight(op, suffix, rounded(np.ascontiguousarray(array, np.float32), dtype))

    def typed(self, value: SSAValue, quantization: TensorQuantization) -> SSAValue:
        """`value` itself with another element type."""
        return Rewriter.replace_value_with_new_type(value, tensor_type(shape_of(value), uniform(quantization)))

    def integers(
        self, op: Operation, weights: Array, bias: Array | None, channel_axis: int, x: TensorQuantization
    ) -> IntegerProduct:
        """The integer weights of `op`, a product of x with float `weights` and `bias`: the plan's where it chose them.

        Raises BadInput naming the operation when the plan's do not fit it.
        """
        y, chosen = FINE if self.is_made_float(op) else self.direct(op), self.plan.weights.get(name_of(op))
        if chosen is None:
            real = effective_weights(weights, bias, channel_axis, x, y)
            return integer_product(*real, channel_axis, x, y, self.plan.weight_method)
        channels = (weights.shape[channel_axis],)
        if (chosen.weights.shape, chosen.scales.shape, chosen.bias.shape) != (weights.shape, channels, channels):
            raise BadInput(f"quantization plan: weights of {name_of(op)} have other shapes than the network's")
        try:
            return chosen_product(chosen, channel_axis, x, y)
        except ValueError as error:
            raise BadInput(f"quantization plan: weights of {name_of(op)}: {error}; choose them again") from error

    def weights(self, op: Operation, name: str, integers: IntegerProduct) -> list[SSAValue]:
        """The weights of an integer product as operands: weights (called `name`), bias, and multiplier and rshift, or
        the scale of a float result.
        """
        factors: dict[str, Array] = {"multiplier": integers.multiplier, "rshift": integers.rshift}
        if self.is_made_float(op):
            factors = {"scale": integers.unit.astype(np.float32)}
        arrays: dict[str, Array] = {name: integers.weights, "bias": integers.bias, **factors}
        return [self.weight(op, suffix, array) for suffix, array in arrays.items()]

    def emit(
        self,
        name: str,
        operands: Sequence[SSAValue],
        kind: Attribute,
        result: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> SSAValue:
        """The result of a new TPU operation."""
        return self.target.append(name, operands, [kind], [result], attributes).results[0]

    def reshaped(self, op: Operation, value: SSAValue, shape: Sequence[int]) -> SSAValue:
        """`value` under another shape, with a name derived from `op`."""
        if shape_of(value) == tuple(shape):
            return value
        kind = tensor_type(shape, element_of(value))
        return self.emit("tpu.Reshape", [value], kind, self.helper_name(name_of(op), "shaped"))

    def direct(self, op: Operation) -> TensorQuantization:
        """The type in which an INT8 `op` makes its result: the planned one where its saturation does the clipping that
        `op` asks for (a ReLU and its limit), else an unsigned one that does; `define` then requantizes.
        """
        planned = self.quantization(op.results[0])
        if not (op.name == "top.Relu" or attributes_of(op).get("do_relu")):
            return planned
        low, high = reach(op)
        tolerance = SATURATION_TOLERANCE * planned.scale * 255
        if planned.low >= low - tolerance and planned.high <= high + tolerance:
            return planned
        return replace(planned, dtype="uint8", scale=min(planned.high, high) / LIMITS["uint8"][1], zero_point=0)

    def produce(
        self,
        op: Operation,
        name: str,
        operands: Sequence[SSAValue],
        attributes: Mapping[str, Any] | None = None,
        *,
        shape: Sequence[int] | None = None,
        quantization: TensorQuantization | None = None,
    ) -> None:
        """A TPU operation that makes the (only) result of `op`, a float or in the type `quantization` or `direct` says.

        With `shape` it makes the result under that shape, and a reshape follows.
        """
        value = op.results[0]
        is_float = self.is_made_float(op)
        chosen = quantization or (self.quantization(value) if is_float else self.direct(op))
        element = self.float_type(op) if is_float else uniform(chosen)
        made = shape_of(value) if shape is None else tuple(shape)
        final = made == shape_of(value) and (is_float or chosen == self.quantization(value))
        result = self.own_name(value) if final else self.helper_name(name_of(value), "made")
        self.define(value, self.emit(name, operands, tensor_type(made, element), result, attributes))

    def define(self, value: SSAValue, made: SSAValue) -> None:
        """Lets `made` stand for a TOP value, reshaped, and where it is quantized requantized to the planned type."""
        quantization = uniform_of(made)
        if quantization is not None and quantization != uniform(self.quantization(value)):
            made = self._requantized(value, made, self.quantization(value))
        self._keep(name_of(value), self._shaped_like(value, made))

    def _shaped_like(self, value: SSAValue, made: SSAValue) -> SSAValue:
        if shape_of(made) == shape_of(value):
            return made
        kind = tensor_type(shape_of(value), element_of(made))
        return self.emit("tpu.Reshape", [made], kind, self.own_name(value))

    def scaled(self, op: Operation, made: SSAValue, gain: float) -> SSAValue:
        """`made` times `gain` as the result of `op`, in the type `direct` says."""
        value, quantization = op.results[0], self.direct(op)
        final = quantization == self.quantization(value)
        name = self.own_name(value) if final else self.helper_name(name_of(value), "made")
        return self.requantized(made, quantization, name, gain)

    def _requantized(self, value: SSAValue, made: SSAValue, planned: TensorQuantization) -> SSAValue:
        final = shape_of(made) == shape_of(value)
        result = self.own_name(value) if final else self.helper_name(name_of(value), "requantized")
        return self.requantized(made, planned, result)

    def requantized(self, made: SSAValue, quantization: TensorQuantization, result: str, gain: float = 1.0) -> SSAValue:
        """A quantized value times `gain`, in another type with the same factors."""
        source = uniform_of(made)
        assert source is not None and source.is_per_axis == bool(quantization.factors), result
        multiplier, rshift = requantization(gain * source.scale / quantization.scale)
        kind = tensor_type(shape_of(made), uniform(quantization))
        attributes = {"multiplier": int(multiplier), "rshift": int(rshift)}
        return self.emit("tpu.Requantize", [made], kind, result, attributes)

    def own_name(self, value: SSAValue) -> str:
        """The name of the form in which `value` is made, given out once."""
        name, owner = name_of(value), value.owner
        assert isinstance(owner, Operation)
        made_in = self.plan.made_in(name_of(owner))
        is_returned = made_in == "F32" or (made_in == "INT8" and self._returns_quantized(value))
        if name not in self._outputs or is_returned:
            return name
        return self.helper_name(name, FLOATS.get(made_in, "int8"))

    def _returns_quantized(self, value: SSAValue) -> bool:
        """Whether an output is returned in 8 bits."""
        owner = value.owner
        assert isinstance(owner, Operation)
        made_integer = owner.name == "top.Input" or not self.is_made_float(owner)
        return self.quantized_io and made_integer and self.quantization(value).is_quantized

    def finish(self) -> Network:
        """The finished network: outputs float32, or with `quantized_io` in 8 bits where they are made so."""
        outputs = [
            self.quantized(v) if self._returns_quantized(v) else self.floating(v, Float32Type())
            for v in self.source.outputs
        ]
        self.target.finish(outputs, self.source.output_names)
        self.target.remove_unused()
        self.target.verify()
        return self.target


def stored_integer(real: float, quantization: TensorQuantization) -> int:
    """The stored integer nearest to a real number, saturated."""
    low, high = LIMITS[quantization.dtype]
    return int(np.clip(np.rint(real / quantization.scale) + quantization.zero_point, low, high))
