"""MLIR's `quant` types: `!quant.calibrated<f32<min:max>>`, `!quant.uniform<i8:f32, scale:zero_point>`, per axis too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    Float32Type,
    FloatAttr,
    IntAttr,
    IntegerType,
    NoneAttr,
    Signedness,
    f64,
)
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from tpu_deploy import numbers


def float_text(value: float) -> str:
    """The shortest text that reads back as the same double and that MLIR takes for a float."""
    text = repr(float(value))
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


@irdl_attr_definition
class CalibratedType(ParametrizedAttribute, TypeAttribute):
    """A float tensor element whose range is known."""

    name = "quant.calibrated"
    expressed: AnyFloat = param_def()  # type: ignore[assignment]
    low: FloatAttr = param_def()
    high: FloatAttr = param_def()

    def print_parameters(self, printer: Printer) -> None:
        """Writes `<f32<low:high>>`."""
        with printer.in_angle_brackets():
            printer.print_attribute(self.expressed)
            printer.print_string(f"<{float_text(self.low.value.data)}:{float_text(self.high.value.data)}>")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Reads what `print_parameters` writes."""
        with parser.in_angle_brackets():
            expressed = parser.parse_type()
            parser.parse_punctuation("<")
            low = parser.parse_float()
            parser.parse_punctuation(":")
            high = parser.parse_float()
            parser.parse_punctuation(">")
        return [expressed, FloatAttr(low, f64), FloatAttr(high, f64)]

    def verify(self) -> None:
        """Refuses an empty range."""
        if not self.low.value.data < self.high.value.data:
            raise VerifyException(f"calibrated range is empty: {self.low.value.data}:{self.high.value.data}")


def storage_text(storage: IntegerType) -> str:
    """`i8` for signed, `u8` for unsigned storage, as the quant dialect spells them."""
    return ("u" if storage.signedness.data is Signedness.UNSIGNED else "i") + str(storage.width.data)


@irdl_attr_definition
class UniformType(ParametrizedAttribute, TypeAttribute):
    """Stored integer q stands for scale * (q - zero_point); one scale a tensor, or one for each index of `axis`."""

    name = "quant.uniform"
    storage: IntegerType = param_def()
    expressed: AnyFloat = param_def()  # type: ignore[assignment]
    axis: IntAttr | NoneAttr = param_def()  # type: ignore[assignment]
    scales: ArrayAttr[FloatAttr] = param_def()
    zero_points: ArrayAttr[IntAttr] = param_def()

    @staticmethod
    def of(
        dtype: np.dtype[np.generic] | type,
        scale: float | Sequence[float],
        zero_point: int = 0,
        axis: int | None = None,
    ) -> UniformType:
        """The type with storage `dtype` (int8, uint8, int16, ...); with `axis` it has a scale for each index of it."""
        kind = np.dtype(dtype)
        signedness = Signedness.UNSIGNED if kind.kind == "u" else Signedness.SIGNLESS
        scales = [scale] if isinstance(scale, float | int) else list(scale)
        return UniformType(
            IntegerType(kind.itemsize * 8, signedness),
            Float32Type(),
            NoneAttr() if axis is None else IntAttr(axis),
            ArrayAttr([FloatAttr(each, f64) for each in scales]),
            ArrayAttr([IntAttr(zero_point)] * len(scales)),
        )

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """The numpy dtype of the stored integers."""
        sign = "u" if self.storage.signedness.data is Signedness.UNSIGNED else "i"
        return np.dtype(f"{sign}{self.storage.width.data // 8}")

    @property
    def is_per_axis(self) -> bool:
        """Whether each index of an axis has a scale of its own."""
        return isinstance(self.axis, IntAttr)

    @property
    def scale(self) -> float:
        """The scale; of a per-axis type the largest of its scales."""
        return max(float(scale.value.data) for scale in self.scales.data)

    @property
    def zero_point(self) -> int:
        """The zero point, which all channels must share."""
        points = {point.data for point in self.zero_points.data}
        if len(points) != 1:
            raise ValueError("the channels of this type have several zero points")
        return points.pop()

    def scales_over(self, rank: int) -> npt.NDArray[np.float64]:
        """The scales, float64, in a shape that broadcasts over a tensor of so many axes."""
        scales = np.array([float(scale.value.data) for scale in self.scales.data])
        if not isinstance(self.axis, IntAttr):
            return scales.reshape((1,) * rank)
        return scales.reshape([-1 if axis == self.axis.data else 1 for axis in range(rank)])

    def quantize(self, reals: npt.NDArray[np.float32]) -> npt.NDArray[np.integer[Any]]:
        """Float32 values as stored integers, rounded half away from zero (`numbers.quantize`), saturated."""
        return numbers.quantize(reals, self.scales_over(reals.ndim), self.zero_point, self.dtype)

    def dequantize(self, stored: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Stored integers as float32 values (`numbers.dequantize`)."""
        return numbers.dequantize(stored, self.scales_over(stored.ndim), self.zero_point)

    def _points(self) -> list[str]:
        pairs = zip(self.scales.data, self.zero_points.data, strict=True)
        return [float_text(s.value.data) + (f":{z.data}" if z.data else "") for s, z in pairs]

    def print_parameters(self, printer: Printer) -> None:
        """Writes `<i8:f32, scale:zero_point>` or `<i8:f32:axis, {scale:zero_point, ...}>`."""
        with printer.in_angle_brackets():
            printer.print_string(storage_text(self.storage) + ":")
            printer.print_attribute(self.expressed)
            if isinstance(self.axis, IntAttr):
                printer.print_string(f":{self.axis.data}, {{{','.join(self._points())}}}")
            else:
                printer.print_string(f", {self._points()[0]}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Reads what `print_parameters` writes."""

        def point() -> tuple[FloatAttr, IntAttr]:
            scale = parser.parse_float()
            zero = parser.parse_integer() if parser.parse_optional_punctuation(":") else 0
            return FloatAttr(scale, f64), IntAttr(zero)

        with parser.in_angle_brackets():
            word = parser.parse_identifier()
            signedness = Signedness.UNSIGNED if word[0] == "u" else Signedness.SIGNLESS
            storage = IntegerType(int(word[1:]), signedness)
            parser.parse_punctuation(":")
            expressed = parser.parse_type()
            axis: Attribute = NoneAttr()
            if parser.parse_optional_punctuation(":"):
                axis = IntAttr(parser.parse_integer())
            parser.parse_punctuation(",")
            if isinstance(axis, IntAttr):
                points = parser.parse_comma_separated_list(parser.Delimiter.BRACES, point)
            else:
                points = [point()]
        scales, zeros = zip(*points, strict=True)
        return [storage, expressed, axis, ArrayAttr(scales), ArrayAttr(zeros)]

    def verify(self) -> None:
        """Refuses scales that are not positive and finite, and zero points outside the storage range."""
        if len(self.scales.data) != len(self.zero_points.data):
            raise VerifyException("as many zero points as scales are needed")
        for scale in self.scales.data:
            if not 0 < scale.value.data < float("inf"):
                raise VerifyException(f"scale must be positive and finite, got {scale.value.data}")
        limits = np.iinfo(self.dtype)
        for zero in self.zero_points.data:
            if not limits.min <= zero.data <= limits.max:
                raise VerifyException(f"zero point {zero.data} is outside {storage_text(self.storage)}")


Quant = Dialect("quant", [], [CalibratedType, UniformType])
