"""Which results and operands the TIU instructions of a family have: one row each, read from the fields of a command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tpu_deploy.codegen.isa.operations import (
    ArithmeticOp,
    CompareOp,
    LinearOp,
    Matrix2Op,
    PoolOp,
    SfuOp,
)
from tpu_deploy.codegen.isa.precision import Precision

Fields = Mapping[str, int]
Shape = Callable[[Fields], tuple[int, ...]]
Condition = Callable[[Fields], bool]

_WHOLE_BYTES = frozenset(code for code in Precision if code is not Precision.I4)


def always(fields: Fields) -> bool:
    """True whatever the fields hold."""
    return True


@dataclass(frozen=True)
class Operand:
    """A tensor or constant of a TIU command.

    `prefix` ("res0", "opd1") begins the names of its fields; `precision` names the field with its element type, "" when
    the command does not say; `signed` and `used` say whether its integers have a sign and whether it is there at all.
    """

    role: str
    prefix: str
    shape: Shape
    precision: str = ""
    signed: Condition = always
    used: Condition = always

    def dtype(self, fields: Fields) -> str:
        """Its element type, such as "u8"; "" when the command does not say or the code is none of the known ones."""
        if not self.precision or fields[self.precision] not in set(Precision):
            return ""
        return Precision(fields[self.precision]).dtype_name(self.signed(fields))

    def constant(self, fields: Fields) -> int | None:
        """The bits of its value, in the width of its type, when it is a constant in the command; else None."""
        if not fields.get(f"{self.prefix}_const"):
            return None
        code = fields[self.precision] if self.precision else Precision.I32
        width = 8 * Precision(code).itemsize if code in _WHOLE_BYTES else 32
        return fields[f"{self.prefix}_addr"] & ((1 << width) - 1)

    def strides(self, fields: Fields) -> tuple[int, ...] | None:
        """Its strides in elements as (n, c, h, w) when it has free ones, else None."""
        if fields.get(f"{self.prefix}_str") != 3 or f"{self.prefix}_w_str" not in fields:
            return None
        return tuple(fields[f"{self.prefix}_{axis}_str"] for axis in "nchw")


def _dims(names: str) -> Shape:
    """Reads the dimensions from the named fields; a number stands for itself."""
    parts = names.split()
    return lambda fields: tuple(int(part) if part.isdigit() else fields[part] for part in parts)


def _any(*names: str) -> Condition:
    return lambda fields: any(fields.get(name, 0) for name in names)


def _does(*operations: int) -> Condition:
    return lambda fields: fields["tsk_eu_typ"] in operations


def _takes(count: int) -> Condition:
    return lambda fields: fields["tsk_opd_num"] >= count


def _not_constant_zero(prefix: str) -> Condition:
    return lambda fields: not fields.get(f"{prefix}_const") or fields[f"{prefix}_addr"] != 0


def _arithmetic_signed(fields: Fields) -> bool:
    """A cast says the sign of its result; every other result has a sign when an operand has."""
    if fields["tsk_eu_typ"] == ArithmeticOp.CAST:
        return bool(fields["opd2_sign"])
    return bool(fields["opd0_sign"] or fields["opd1_sign"])


def _matrix_depth(fields: Fields) -> int:
    """Columns of the left operand of MM as stored: full lanes and the part in the last one."""
    return fields["opd0_w"] * (fields["opd0_c"] - 1) + fields["opd1_w"]


def _matrix_left(fields: Fields) -> tuple[int, ...]:
    return fields["opd0_n"], _matrix_depth(fields)


def _matrix_right(fields: Fields) -> tuple[int, ...]:
    rows = fields["opd0_n"] if fields["left_tran"] else _matrix_depth(fields)
    return rows, fields["res0_c"] * fields["res0_w"]


def _matrix_result(fields: Fields) -> tuple[int, ...]:
    rows = _matrix_depth(fields) if fields["left_tran"] else fields["opd0_n"]
    return rows, fields["res0_c"] * fields["res0_w"]


def _matrix_bias(fields: Fields) -> bool:
    """Float products may add a bias; for integers the vendor leaves address 0 when there is none."""
    return fields["opd2_addr"] != 0 or (not fields["opd2_const"] and fields["opd0_prec"] == Precision.F32)


def _matrix2_left(fields: Fields) -> tuple[int, ...]:
    """The left operand as stored; the result of TT is the product transposed."""
    if fields["tsk_eu_typ"] == Matrix2Op.TT:
        return fields["opd1_w"], fields["res0_w"]
    return fields["res0_c"], fields["opd1_c" if fields["tsk_eu_typ"] == Matrix2Op.NN else "opd1_w"]


_RESULT = _dims("res0_n res0_c res0_h res0_w")
_CHANNELS = _dims("1 res0_c 1 1")
_SIGN0 = _any("opd0_sign")
_SIGN1 = _any("opd1_sign")
_SIGN_OF_PRODUCT = _any("opd0_sign", "opd1_sign", "opd2_sign")
_DEPTHWISE = _does(PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU, PoolOp.ROI_DEPTHWISE)
_SUMMING = _does(*(code for code in PoolOp if code not in (PoolOp.MAX, PoolOp.ROI_MAX)))
_TAYLOR = _does(SfuOp.TAYLOR, SfuOp.TAYLOR_4X)
_TWO_RESULTS = _does(CompareOp.MAX_AND_SELECT, CompareOp.MIN_AND_SELECT)

# The first operand of a family is its result.
OPERANDS: dict[str, tuple[Operand, ...]] = {
    "CONV": (
        Operand("y", "res0", _RESULT, "res0_prec", _SIGN_OF_PRODUCT),
        Operand("x", "opd0", _dims("res0_n opd0_c opd0_h opd0_w"), "opd0_prec", _SIGN0),
        Operand("weight", "opd1", _dims("res0_c opd0_c opd1_h opd1_w"), "opd0_prec", _SIGN1),
        Operand("per_channel", "opd2", _CHANNELS, used=_not_constant_zero("opd2")),
        Operand("pad", "opd3", _dims("1 opd0_c 1 2"), "opd0_prec", _SIGN0, _not_constant_zero("opd3")),
    ),
    "PorD": (
        Operand("y", "res0", _RESULT, "res0_prec", _SIGN_OF_PRODUCT),
        Operand("x", "opd0", _dims("res0_n res0_c opd0_h opd0_w"), "opd0_prec", _SIGN0),
        Operand("weight", "opd1", _dims("1 res0_c opd1_h opd1_w"), "opd0_prec", _SIGN1, _SUMMING),
        Operand("bias", "opd2", _CHANNELS, used=_DEPTHWISE),
        Operand("pad", "opd3", _dims("1 res0_c 1 2"), "opd0_prec", _SIGN0, _not_constant_zero("opd3")),
    ),
    "MM": (
        Operand("y", "res0", _matrix_result, "res0_prec", _SIGN_OF_PRODUCT),
        Operand("left", "opd0", _matrix_left, "opd0_prec", _SIGN0),
        Operand("right", "opd1", _matrix_right, "opd0_prec", _SIGN1),
        Operand("bias", "opd2", lambda fields: (1, *_matrix_right(fields)[1:]), used=_matrix_bias),
    ),
    "MM2": (
        Operand("y", "res0", _dims("res0_c res0_w"), "res0_prec", _SIGN_OF_PRODUCT),
        Operand("left", "opd0", _matrix2_left, "opd0_prec", _SIGN0),
        Operand("right", "opd1", _dims("opd1_c opd1_w"), "opd0_prec", _SIGN1),
        Operand("zero_point", "opd2", _dims("1 res0_w"), used=_any("opd2_addr")),
    ),
    "AR": (
        Operand("y", "res0", _RESULT, "res0_prec", _arithmetic_signed),
        Operand("a", "opd0", _RESULT, "opd0_prec", _SIGN0),
        Operand("b", "opd1", _RESULT, "opd1_prec", _SIGN1, _takes(2)),
        Operand("c", "opd2", _RESULT, "opd2_prec", _any("opd2_sign"), _takes(3)),
    ),
    "LAR": (
        Operand("y", "res0", _dims("res0_c res0_w"), "res0_prec", _SIGN_OF_PRODUCT),
        Operand("a", "opd0", _dims("res0_c res0_w"), "opd0_prec", _SIGN0),
        Operand("b", "opd1", _dims("res0_c res0_w"), "opd1_prec", _SIGN1, _takes(2)),
    ),
    "RQ_DQ": (
        Operand("y", "res0", _RESULT, "res0_prec", _any("opd2_sign")),
        Operand("x", "opd0", _RESULT, "opd0_prec", _SIGN0),
        Operand("table", "opd1", _CHANNELS, used=lambda fields: not fields["opd1_const"]),
    ),
    "TRANS_BC": (
        Operand("y", "res0", _RESULT, "res0_prec"),
        Operand("x", "opd0", _dims("res0_n opd0_c res0_h opd0_w"), "res0_prec"),
    ),
    "SG": (
        Operand("y", "res0", _RESULT, "res0_prec"),
        Operand("table", "opd0", _dims("res0_n res0_c opd0_h opd0_w"), "opd0_prec"),
        Operand("index", "opd1", _dims("1 opd1_c 1 opd1_w"), "opd1_prec", _any()),
    ),
    "SGL": (
        Operand("y", "res0", _RESULT, "res0_prec"),
        Operand("table", "opd0", _dims("1 res0_c opd0_h res0_w"), "res0_prec"),
        Operand("index", "opd1", _dims("res0_n res0_c res0_h 1"), "opd1_prec", _any()),
    ),
    "SFU": (
        Operand("y", "res0", _RESULT, "res0_prec"),
        Operand("x", "opd0", _RESULT, "opd0_prec"),
        Operand("coefficients", "opd1", _dims("opd1_n"), "opd0_prec", used=_TAYLOR),
    ),
    "LIN": (
        Operand("y", "res0", _RESULT, "res0_prec"),
        Operand("x", "opd0", _RESULT, "res0_prec"),
        Operand("a", "opd1", _CHANNELS, "res0_prec"),
        Operand("b", "opd2", _CHANNELS, "res0_prec", used=_does(LinearOp.MAC)),
    ),
    "CMP": (
        Operand("extreme", "res0", _RESULT, "opd0_prec", _SIGN0, _TWO_RESULTS),
        Operand("selected", "res1", _RESULT, "opd2_prec", used=_TWO_RESULTS),
        Operand("selected", "res0", _RESULT, "opd2_prec", used=lambda fields: not _TWO_RESULTS(fields)),
        Operand("a", "opd0", _RESULT, "opd0_prec", _SIGN0),
        Operand("b", "opd1", _RESULT, "opd0_prec", _SIGN0),
        Operand("x", "opd2", _RESULT, "opd2_prec"),
        Operand("y", "opd3", _RESULT, "opd2_prec"),
    ),
    "VC": (
        Operand("y", "res0", _dims("res0_c res0_w"), "res0_prec", _SIGN_OF_PRODUCT),
        Operand("a", "opd0", _dims("opd0_c opd0_w"), "opd0_prec", _SIGN0),
        Operand("b", "opd1", _dims("res0_c opd1_w"), "opd1_prec", _SIGN1),
    ),
    "SYSID": (),
}
"""The results (prefixes res0, res1) and operands of each family of the TIU."""
