"""Operations as table rows: a row names operands and attributes, their kinds and defaults, and becomes a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    NoneType,
    Signedness,
    StringAttr,
    f64,
    i64,
)
from xdsl.ir import Attribute, Operation
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_attr_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

REQUIRED = object()
"""Default of an attribute that every operation must carry."""


@dataclass(frozen=True)
class Kind:
    """How one sort of attribute is written and read: `build` makes the IR attribute, `value` the Python value."""

    name: str
    build: Callable[[Any], Attribute]
    value: Callable[[Any], Any]
    accepts: Callable[[Attribute], bool]


INT = Kind("i64", lambda v: IntegerAttr(int(v), i64), lambda a: a.value.data, lambda a: isinstance(a, IntegerAttr))
SIGNED = Kind(
    "si32",
    lambda v: IntegerAttr(int(v), IntegerType(32, Signedness.SIGNED)),
    lambda a: a.value.data,
    lambda a: isinstance(a, IntegerAttr),
)
BOOL = Kind(
    "bool", lambda v: BoolAttr.from_bool(bool(v)), lambda a: bool(a.value.data), lambda a: isinstance(a, IntegerAttr)
)
FLOAT = Kind("f64", lambda v: FloatAttr(float(v), f64), lambda a: a.value.data, lambda a: isinstance(a, FloatAttr))
STRING = Kind("string", lambda v: StringAttr(v), lambda a: a.data, lambda a: isinstance(a, StringAttr))
INTS = Kind(
    "i64 array",
    lambda v: ArrayAttr([IntegerAttr(int(x), i64) for x in v]),
    lambda a: [x.value.data for x in a.data],
    lambda a: isinstance(a, ArrayAttr),
)
FLOATS = Kind(
    "f64 array",
    lambda v: ArrayAttr([FloatAttr(float(x), f64) for x in v]),
    lambda a: [x.value.data for x in a.data],
    lambda a: isinstance(a, ArrayAttr),
)


@dataclass(frozen=True)
class Row:
    """One operation of a dialect.

    `operands` are names; `*inputs` takes any number, `bias?` may be a `top.None`. `attributes` maps a name to
    (kind, default); `verify` gets the operation and raises VerifyException. `variadic_results` for Split and the like.
    """

    name: str
    operands: tuple[str, ...]
    attributes: Mapping[str, tuple[Kind, Any]] = field(default_factory=dict)
    meaning: str = ""
    verify: Callable[[Operation], None] | None = None
    results: int | None = 1

    @property
    def optional(self) -> frozenset[str]:
        """Names of the operands that may be absent."""
        return frozenset(o[:-1] for o in self.operands if o.endswith("?"))


ROWS: dict[str, Row] = {}


def row_of(op: Operation) -> Row:
    """The table row of an operation; KeyError for an operation of a dialect that is not ours."""
    return ROWS[op.name]


def operation_class(row: Row) -> type[IRDLOperation]:
    """The xDSL class for a row; registers the row. Registering a name twice is an error."""
    if row.name in ROWS:
        raise ValueError(f"{row.name} is registered twice")
    ROWS[row.name] = row

    def verify_(self: IRDLOperation) -> None:
        _verify_attributes(self, row)
        _verify_operands(self, row)
        if row.verify is not None:
            row.verify(self)

    body: dict[str, Any] = {
        "name": row.name,
        "__module__": __name__,
        "__doc__": row.meaning,
        "traits": traits_def(Pure()),
        "verify_": verify_,
    }
    for operand in row.operands:
        if operand.startswith("*"):
            body[operand[1:]] = var_operand_def(Attribute)
        else:
            body[operand.rstrip("?")] = operand_def(Attribute)
    for attribute in row.attributes:
        body[attribute] = opt_attr_def(Attribute)
    body["output"] = result_def(Attribute) if row.results == 1 else var_result_def(Attribute)
    return irdl_op_definition(type(row.name.split(".")[1], (IRDLOperation,), body))


def _verify_attributes(op: Operation, row: Row) -> None:
    for name, attribute in op.attributes.items():
        if name not in row.attributes:
            raise VerifyException(f"{row.name} has no attribute {name}; it takes {', '.join(row.attributes) or 'none'}")
        kind = row.attributes[name][0]
        if not kind.accepts(attribute):
            raise VerifyException(f"{row.name}: attribute {name} must be {kind.name}, got {attribute}")
    for name, (_, default) in row.attributes.items():
        if default is REQUIRED and name not in op.attributes:
            raise VerifyException(f"{row.name} needs attribute {name}")


def _verify_operands(op: Operation, row: Row) -> None:
    if any(o.startswith("*") for o in row.operands):
        return
    for name, operand in zip(row.operands, op.operands, strict=True):
        if isinstance(operand.type, NoneType) and not name.endswith("?"):
            raise VerifyException(f"{row.name}: operand {name} is absent")


def build_attributes(row: Row, values: Mapping[str, Any]) -> dict[str, Attribute]:
    """IR attributes for the given Python values, defaults filled in; TypeError for an unknown or missing name."""
    unknown = set(values) - set(row.attributes)
    if unknown:
        raise TypeError(f"{row.name} has no attribute {', '.join(sorted(unknown))}")
    built: dict[str, Attribute] = {}
    for name, (kind, default) in row.attributes.items():
        value = values.get(name, default)
        if value is REQUIRED:
            raise TypeError(f"{row.name} needs attribute {name}")
        if value is not None:
            built[name] = kind.build(value)
    return built


def attributes_of(op: Operation) -> dict[str, Any]:
    """Python values of an operation's attributes, defaults filled in where it carries none."""
    row = row_of(op)
    found: dict[str, Any] = {}
    for name, (kind, default) in row.attributes.items():
        if name in op.attributes:
            found[name] = kind.value(op.attributes[name])
        elif default is not REQUIRED:
            found[name] = default
    return found


def classes(rows: Sequence[Row]) -> list[type[Operation]]:
    """The xDSL classes of all rows, in order."""
    return [operation_class(row) for row in rows]
