"""A TPU network under construction: which TPU value stands for each TOP value, and the casts between precisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import Float32Type, StringAttr
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.rewriter import Rewriter

from tpu_deploy.errors import BadInput
from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent, name_of, named, shape_of, tensor_type, uniform_of
from tpu_deploy.ir.quant_types import UniformType
from tpu_deploy.ir.weights import Array
from tpu_deploy.quant.plan import LIMITS, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.ranges import reach
from tpu_deploy.quant.weights import IntegerProduct, chosen_product, integer_product, requantization

SATURATION_TOLERANCE = 0.01
"""How far, relative to the limit, saturation may clip beside a ReLU's limit: scales around additions move by 0.5 %."""


def uniform(quantization: TensorQuantization) -> UniformType:
    """The IR element type of a quantization."""
    return UniformType.of(quantization.numpy_dtype, quantization.scale, quantization.zero_point)


class Builder:
    """Builds the TPU network for a planned TOP network, operation by operation in order.

    A TOP value has a float32 form, a quantized form, or both: `float32` and `quantized` add the cast that is missing.
    The form in which a value is made carries its TOP name, except that an output's name belongs to the returned form.
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
        self._float32: dict[str, SSAValue] = {}
        self._quantized: dict[str, SSAValue] = {}
        for value in self.target.inputs:
            self._start_input(value)

    def _start_input(self, value: SSAValue) -> None:
        name = name_of(value)
        quantization = self.plan.tensors[name]
        if not (self.quantized_io and quantization.is_quantized):
            self._float32[name] = value
            return
        owner = value.owner
        assert isinstance(owner, Operation)
        argument = self.typed(owner.operands[0], quantization)
        assert isinstance(argument, BlockArgument)
        argument.location = named(name)
        self._quantized[name] = self.typed(value, quantization)

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

    def quantized(self, value: SSAValue) -> SSAValue:
        """The 8-bit form of a TOP value, in its planned type."""
        name = name_of(value)
        if name not in self._quantized:
            quantization = self.plan.tensors[name]
            kind = tensor_type(shape_of(value), uniform(quantization))
            self._quantized[name] = self.emit(
                "tpu.Quantize", [self._float32[name]], kind, self.helper_name(name, "quantized")
            )
        return self._quantized[name]

    def float32(self, value: SSAValue) -> SSAValue:
        """The float32 form of a TOP value."""
        name = name_of(value)
        if name not in self._float32:
            kind = tensor_type(shape_of(value), Float32Type())
            free = name if name in self._outputs and not self.quantized_io else self.helper_name(name, "float32")
            self._float32[name] = self.emit("tpu.Dequantize", [self._quantized[name]], kind, free)
        return self._float32[name]

    def operand(self, op: Operation, index: int = 0) -> SSAValue:
        """The form of an operand that the precision of `op` asks for."""
        return self.read(op, op.operands[index])

    def read(self, op: Operation, value: SSAValue) -> SSAValue:
        """The form of `value` that the precision of `op` asks for."""
        return self.float32(value) if self.precision(op) == "F32" else self.quantized(value)

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
        """An integer weight named after `op`."""
        return self.target.add_weight(self.helper_name(name_of(op), suffix), array)

    def typed(self, value: SSAValue, quantization: TensorQuantization) -> SSAValue:
        """`value` itself with another element type."""
        return Rewriter.replace_value_with_new_type(value, tensor_type(shape_of(value), uniform(quantization)))

    def integers(
        self, op: Operation, weights: Array, bias: Array | None, channel_axis: int, x: TensorQuantization
    ) -> IntegerProduct:
        """The integer weights of `op`, a product of x with float `weights` and `bias`: the plan's where it chose them.

        Raises BadInput naming the operation when the plan's do not fit it.
        """
        y, chosen = self.direct(op), self.plan.weights.get(name_of(op))
        if chosen is None:
            return integer_product(weights, bias, channel_axis, x, y, self.plan.weight_method)
        channels = (weights.shape[channel_axis],)
        if (chosen.weights.shape, chosen.scales.shape, chosen.bias.shape) != (weights.shape, channels, channels):
            raise BadInput(f"quantization plan: weights of {name_of(op)} have other shapes than the network's")
        try:
            return chosen_product(chosen, channel_axis, x, y)
        except ValueError as error:
            raise BadInput(f"quantization plan: weights of {name_of(op)}: {error}; choose them again") from error

    def weights(self, op: Operation, name: str, integers: IntegerProduct) -> list[SSAValue]:
        """The weights of an integer product as operands: weights (called `name`), bias, multiplier, rshift."""
        return [
            self.weight(op, name, integers.weights),
            self.weight(op, "bias", integers.bias),
            self.weight(op, "multiplier", integers.multiplier),
            self.weight(op, "rshift", integers.rshift),
        ]

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
        element = uniform_of(value) or Float32Type()
        return self.emit("tpu.Reshape", [value], tensor_type(shape, element), self.helper_name(name_of(op), "shaped"))

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
        return TensorQuantization("uint8", min(planned.high, high) / LIMITS["uint8"][1])

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
        """A TPU operation that makes the (only) result of `op`, float32 or in the type `quantization` or `direct` says.

        With `shape` it makes the result under that shape, and a reshape follows.
        """
        value = op.results[0]
        chosen = quantization or self.direct(op)
        is_float = self.precision(op) == "F32"
        element = Float32Type() if is_float else uniform(chosen)
        made = shape_of(value) if shape is None else tuple(shape)
        final = made == shape_of(value) and (is_float or chosen == self.quantization(value))
        result = self.own_name(value) if final else self.helper_name(name_of(value), "made")
        self.define(value, self.emit(name, operands, tensor_type(made, element), result, attributes))

    def define(self, value: SSAValue, made: SSAValue) -> None:
        """Lets `made` stand for a TOP value, reshaped and requantized to its planned type where it differs."""
        quantization = uniform_of(made)
        if quantization is None:
            self._float32[name_of(value)] = self._shaped_like(value, made)
            return
        planned = self.quantization(value)
        if quantization != uniform(planned):
            made = self._requantized(value, made, planned)
        self._quantized[name_of(value)] = self._shaped_like(value, made)

    def _shaped_like(self, value: SSAValue, made: SSAValue) -> SSAValue:
        if shape_of(made) == shape_of(value):
            return made
        kind = tensor_type(shape_of(value), uniform_of(made) or Float32Type())
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
        """A quantized value times `gain`, in another type."""
        source = uniform_of(made)
        assert source is not None
        multiplier, rshift = requantization(gain * source.scale / quantization.scale)
        kind = tensor_type(shape_of(made), uniform(quantization))
        attributes = {"multiplier": int(multiplier), "rshift": int(rshift)}
        return self.emit("tpu.Requantize", [made], kind, result, attributes)

    def own_name(self, value: SSAValue) -> str:
        """The name of the form in which `value` is made, given out once."""
        name = name_of(value)
        returned_otherwise = name in self._outputs and self.quantization(value).is_quantized and not self.quantized_io
        made_quantized = isinstance(value.owner, Operation) and self.precision(value.owner) == "INT8"
        return self.helper_name(name, "int8") if returned_otherwise and made_quantized else name

    def finish(self) -> Network:
        """The finished network: outputs float32, or with `quantized_io` in the form in which they are made."""
        outputs = [self._returned(v) for v in self.source.outputs]
        self.target.finish(outputs, self.source.output_names)
        self.target.remove_unused()
        self.target.verify()
        return self.target

    def _returned(self, value: SSAValue) -> SSAValue:
        name = name_of(value)
        owner = value.owner
        made_float = isinstance(owner, Operation) and owner.name != "top.Input" and self.precision(owner) == "F32"
        if self.quantized_io and not made_float and name in self._quantized:
            return self._quantized[name]
        return self.float32(value)


def stored_integer(real: float, quantization: TensorQuantization) -> int:
    """The stored integer nearest to a real number, saturated."""
    low, high = LIMITS[quantization.dtype]
    return int(np.clip(np.rint(real / quantization.scale) + quantization.zero_point, low, high))
