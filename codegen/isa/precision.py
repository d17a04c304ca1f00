"""The codes that name element types, rounding modes and layouts in commands of either engine."""

from enum import IntEnum

from tpu_deploy.numbers import RoundMode as RoundMode


class Precision(IntEnum):
    """Width and kind of an element, as in the fields `*_prec` and `src_data_format`; its sign is a bit of its own."""

    I8 = 0
    F16 = 1
    F32 = 2
    I16 = 3
    I32 = 4
    BF16 = 5
    I4 = 6

    @property
    def itemsize(self) -> int:
        """Bytes of one element; raises ValueError for I4, of which two share a byte."""
        if self is Precision.I4:
            raise ValueError("I4 elements are packed two to a byte and have no size in whole bytes")
        return _ITEMSIZE[self]

    @property
    def is_float(self) -> bool:
        """Whether elements are floating point, so that sign bits mean nothing."""
        return self in (Precision.F16, Precision.F32, Precision.BF16)

    def dtype_name(self, signed: bool) -> str:
        """The element type as people write it: "i8", "u8", "f32", ..."""
        name = self.name.lower()
        return name if self.is_float or signed else f"u{name[1:]}"


_ITEMSIZE = {
    Precision.I8: 1,
    Precision.F16: 2,
    Precision.F32: 4,
    Precision.I16: 2,
    Precision.I32: 4,
    Precision.BF16: 2,
}


class Layout(IntEnum):
    """Where element (n, c, h, w) of a local tensor lies, as in the fields `*_str`."""

    ALIGNED = 0
    COMPACT = 1
    PER_CHANNEL = 2
    FREE_STRIDE = 3
