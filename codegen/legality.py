"""What the chip asks of single commands and its model does not enforce, judged from decoded fields alone.

Source: the assertions of the vendor's own command generators, the widths of fields, and trials on the chip model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tpu_deploy.codegen.findings import Finding, finding
from tpu_deploy.codegen.hazards import LIMIT
from tpu_deploy.codegen.isa import INSTRUCTIONS, Command
from tpu_deploy.codegen.isa.addresses import L2_BYTES, LANE_BYTES, LANES, STATIC_BYTES
from tpu_deploy.codegen.isa.operations import (
    ArithmeticOp,
    DmaGeneralOp,
    DmaTensorOp,
    PoolOp,
    RequantOp,
    SearchGatherOp,
    SfuOp,
    TransposeOp,
)
from tpu_deploy.codegen.isa.precision import Layout, Precision, RoundMode
from tpu_deploy.codegen.places import VECTOR, Place
from tpu_deploy.codegen.regions import operands_of, touch
from tpu_deploy.codegen.tiu_operands import Operands, UnsupportedCommandError

Fields = Mapping[str, int]
Complaints = Iterator[str]
Rule = Callable[[Fields, Operands], Complaints]

MAX_SIZE = 65535
MAX_INSERTION = 14
MAX_POOL_INSERTION = 7
MAX_ELEMENT_STRIDE = 1 << 18
MAX_ROW_STRIDE_BYTES = 128
"""How far apart elements of a row may lie for the GDMA."""

BANK_BYTES = LANE_BYTES // 16


@dataclass(frozen=True)
class GlobalRanges:
    """The parts of global memory a stage owns, as (first address, address after the last byte)."""

    coefficients: tuple[int, int] | None
    context: tuple[int, int]


_RULES: dict[str, list[Rule]] = {}


def _for(*families: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for family in families:
            _RULES.setdefault(family, []).append(rule)
        return rule

    return register


def check_legality(
    commands: Sequence[Command], memory: GlobalRanges | None = None, limit: int = LIMIT
) -> list[Finding]:
    """The rules that commands of either engine break; with `memory`, also global addresses that are nobody's."""
    return list(islice(_illegal(commands, memory), limit))


def _illegal(commands: Sequence[Command], memory: GlobalRanges | None) -> Iterator[Finding]:
    for command in commands:
        if command.is_end:
            continue
        try:
            operands = operands_of(command)
        except UnsupportedCommandError as error:
            yield finding("unsupported", command, f"cannot be judged: {error}")
            continue
        instruction = INSTRUCTIONS[command.name]
        family = instruction.family if command.engine == "TIU" else "GDMA"
        complaints = [*_common(command, operands), *_outside(operands, memory)]
        for rule in _RULES.get(family, ()):
            complaints += rule(command.fields, operands)
        for complaint in complaints:
            yield finding("legality", command, complaint)


def _common(command: Command, operands: Operands) -> Complaints:
    """Sizes from 1 to 65535, places inside their memories, the engine's own memories only."""
    if command.fields.get("cmd_id_en") != 1:
        yield "cmd_id_en is not 1"
    for role, place in _places(operands):
        derived = role == "weight" or command.name == "DMA_general"  # no field holds the width of packed filters
        if not all(1 <= size <= MAX_SIZE for size in place.dims) and not derived:
            yield f"{role} has sizes {list(place.dims)}; each must be 1 to {MAX_SIZE}"
        elif place.memory == "nowhere":
            yield f"{role}: {place.offset:#x} is an address of no memory"
        elif place.memory == "static" and (command.engine == "GDMA" or role != "x"):
            yield f"{role} lies in static memory"
        elif place.end > {"local": LANE_BYTES, "static": STATIC_BYTES, "l2": L2_BYTES}.get(place.memory, place.end):
            yield f"{role} reaches to {place.describe()}, beyond its memory"
        elif command.engine == "GDMA" and place.offset % place.itemsize:
            yield f"{role} at {place.describe()} is not aligned to its elements of {place.itemsize} bytes"


def _outside(operands: Operands, memory: GlobalRanges | None) -> Complaints:
    """Global memory: sources inside coefficients or context, destinations inside the context."""
    if memory is None:
        return
    for side, ranges in ((operands.reads, (memory.coefficients, memory.context)), (operands.writes, (memory.context,))):
        for role, place in side.items():
            if place.memory != "global" or any(r and r[0] <= place.offset and place.end <= r[1] for r in ranges):
                continue
            yield f"{role} at {place.offset:#x}..{place.end:#x} is outside the stage's global memory"


def _places(operands: Operands) -> Iterator[tuple[str, Place]]:
    yield from operands.writes.items()
    yield from operands.reads.items()


def _start_lanes(operands: Operands, roles: Sequence[str], lane: int | None = None) -> Complaints:
    """All of these start on one lane, and on `lane` if one is given."""
    lanes = {role: operands[role].lane for role in roles if role in operands}
    wanted = lane if lane is not None else next(iter(lanes.values()), 0)
    for role, found in lanes.items():
        if found != wanted:
            yield f"{role} starts at lane {found}, not {wanted}"


def _alignment(operands: Operands, roles: Sequence[str], alignment: int = VECTOR) -> Complaints:
    for role in roles:
        if role in operands and operands[role].offset % alignment:
            yield f"{role} at {operands[role].describe()} is not aligned to {alignment} bytes"


def _apart(operands: Operands, roles: Sequence[str] | None = None) -> Complaints:
    """The results touch no byte of these operands (all of them by default)."""
    for role, operand in operands.reads.items():
        if roles is None or role in roles:
            for name, result in operands.writes.items():
                if touch(result, operand):
                    yield _overlapping(name, result, role, operand)


def _in_place(operands: Operands, roles: Sequence[str]) -> Complaints:
    """An element-wise result overlaps an operand only at the same place, its elements not wider."""
    for role, operand in operands.reads.items():
        for name, result in operands.writes.items():
            same = (result.lane, result.offset) == (operand.lane, operand.offset)
            if role not in roles or (same and result.itemsize <= operand.itemsize):
                continue
            if touch(result, operand):
                yield _overlapping(name, result, role, operand)


def _overlapping(name: str, result: Place, role: str, operand: Place) -> str:
    return f"{name} at {result.describe()} overlaps {role} at {operand.describe()}"


def _window(fields: Fields, max_insertion: int) -> Complaints:
    """Strides above zero, insertions in range, and every window inside the padded input."""
    for axis, down, near, far in (("y", "h", "up", "dn"), ("x", "w", "lf", "rt")):
        stride, inserted = fields[f"res_op_{axis}_str"], fields[f"opd0_{axis}_ins0"]
        dilation = fields[f"opd1_{axis}_ins0"]
        if not stride:
            yield f"the stride along {down} is 0"
        if inserted > max_insertion or dilation > MAX_INSERTION:
            yield f"{inserted} zeros between inputs and {dilation} between taps along {down} are too many"
        pads = fields[f"opd0_{near}_pad"] + fields[f"opd0_{far}_pad"]
        extent = (fields[f"opd0_{down}"] - 1) * (inserted + 1) + 1 + pads
        needed = (fields[f"res0_{down}"] - 1) * stride + (fields[f"opd1_{down}"] - 1) * (dilation + 1) + 1
        if needed > extent:
            yield f"its windows need {needed} elements along {down} and the padded input has {extent}"


@_for("CONV")
def _convolution(fields: Fields, operands: Operands) -> Complaints:
    """CONV: x at lane 0 unless f32, weights with y, vectors aligned, sums in i32 only."""
    yield from _window(fields, MAX_INSERTION)
    if fields["opd0_prec"] != Precision.F32:
        yield from _start_lanes(operands, ["x"], lane=0)
    yield from _start_lanes(operands, ["y", "weight", "per_channel"])
    yield from _start_lanes(operands, ["x", "pad"])
    yield from _alignment(operands, ["weight"])
    free = fields["opd0_str"] == Layout.FREE_STRIDE
    yield from _alignment(operands, ["x"], operands["x"].itemsize if free else VECTOR)
    size = operands["y"].itemsize
    yield from _alignment(operands, ["y"], VECTOR if fields["opd0_prec"] == Precision.F32 else 4 * size)
    yield from _sum_type(fields)
    yield from _apart(operands, ["x", "weight", "per_channel", "pad"])


def _sum_type(fields: Fields) -> Complaints:
    if fields["res_add"] and fields["res0_prec"] not in (Precision.I32, Precision.F32):
        yield "adds to a result that is neither i32 nor f32"


@_for("PorD")
def _pool(fields: Fields, operands: Operands) -> Complaints:
    """PorD: one start lane, x and y aligned to vectors, bias to its elements; maxima keep the element type."""
    yield from _window(fields, MAX_POOL_INSERTION)
    yield from _start_lanes(operands, ["y", "x", "weight", "bias", "pad"])
    yield from _alignment(operands, ["y", "x"])
    if "bias" in operands:
        yield from _alignment(operands, ["bias"], operands["bias"].itemsize)
    if fields["tsk_eu_typ"] == PoolOp.MAX and fields["res0_prec"] != fields["opd0_prec"]:
        yield "the result of a maximum has another element type"
    yield from _apart(operands)


@_for("MM")
def _matrix(fields: Fields, operands: Operands) -> Complaints:
    """MM: right, bias and y on one start lane, all aligned to vectors."""
    yield from _start_lanes(operands, ["y", "right", "bias"])
    yield from _alignment(operands, ["y", "left", "right", "bias"])
    if not 1 <= fields["opd1_w"] <= fields["opd0_w"]:
        yield f"the last lane holds {fields['opd1_w']} of {fields['opd0_w']} columns"
    yield from _apart(operands, ["left", "right", "bias"])


@_for("MM2")
def _matrix2(fields: Fields, operands: Operands) -> Complaints:
    """MM2: everything at lane 0 and aligned to vectors; no f32 inputs."""
    yield from _start_lanes(operands, ["y", "left", "right"], lane=0)
    yield from _alignment(operands, ["y", "left", "right"])
    if fields["opd0_prec"] == Precision.F32:
        yield "f32 inputs are for MM"
    yield from _sum_type(fields)
    yield from _apart(operands, ["left", "right", "zero_point"])


@_for("AR")
def _arithmetic(fields: Fields, operands: Operands) -> Complaints:
    """AR: one start lane, layouts 0 and 3 only, in place only where the result's elements are not wider."""
    yield from _start_lanes(operands, ["y", "a", "b", "c"])
    for role, prefix in (("y", "res0"), ("a", "opd0"), ("b", "opd1")):
        if role not in operands:
            continue
        layout = fields[f"{prefix}_str"]
        if layout not in (Layout.ALIGNED, Layout.FREE_STRIDE):
            yield f"{role} has layout {layout}; only 0 (aligned) and 3 (strides) are safe"
        strides = [fields[f"{prefix}_{axis}_str"] for axis in "hw"] if layout == Layout.FREE_STRIDE else [0]
        if max(strides) >= MAX_ELEMENT_STRIDE:
            yield f"{role} has a stride of {max(strides)} elements"
        size = operands[role].itemsize
        yield from _alignment(operands, [role], VECTOR if layout == Layout.ALIGNED else size)
    yield from _arithmetic_types(fields)
    constants = [fields[f"{prefix}_const"] for prefix in ("opd0", "opd1")][: fields["tsk_opd_num"]]
    if all(constants) and len(constants) == 2 and operands["y"].elements != 1:
        yield "both operands are constants and the result has more than one element"
    yield from _in_place(operands, ["a", "b", "c"])


_EXTREMES = (ArithmeticOp.MAX, ArithmeticOp.MIN)
_SELECTIONS = (ArithmeticOp.SELECT_GREATER, ArithmeticOp.SELECT_EQUAL, ArithmeticOp.SELECT_LESS)


def _arithmetic_types(fields: Fields) -> Complaints:
    """What the operations ask of element types; the chip model aborts or leaves garbage otherwise."""
    operation = fields["tsk_eu_typ"]
    a, b, y = (Precision(fields[f"{prefix}_prec"]) for prefix in ("opd0", "opd1", "res0"))
    if operation in _EXTREMES and not (a == b == y and (a.is_float or fields["opd0_sign"] == fields["opd1_sign"])):
        yield "the extreme of operands, or a result, of different element types"
    if operation in _SELECTIONS and not (a == b and (a.is_float or fields["opd0_sign"] == fields["opd1_sign"])):
        yield "compares operands of different element types"
    if operation in _SELECTIONS and y.itemsize > a.itemsize:
        yield "selects elements wider than those it compares"
    if operation == ArithmeticOp.ABS and a != y:
        yield "an absolute value of another element type"
    if operation in (ArithmeticOp.ABS_DIFFERENCE, ArithmeticOp.DIV) and not (a == b == y and a.is_float):
        yield f"{ArithmeticOp(operation).name.lower()} is for floats"


@_for("RQ_DQ")
def _requantization(fields: Fields, operands: Operands) -> Complaints:
    """RQ and DQ: one start lane, all aligned to vectors, the element types and rounding modes the unit has."""
    yield from _start_lanes(operands, ["y", "x", "table"])
    yield from _alignment(operands, ["y", "x", "table"])
    operation, x, y = RequantOp(fields["tsk_eu_typ"]), fields["opd0_prec"], fields["res0_prec"]
    modes = [fields["opd2_n_str"] & 7, fields["opd2_n_str"] >> 3]
    if operation in (RequantOp.RQ_FLOAT, RequantOp.DQ_FLOAT) and max(modes) > RoundMode.CEIL:
        yield "rounds a float half up or down"
    if operation in (RequantOp.RQ_INT, RequantOp.RQ_FLOAT) and (
        x not in (Precision.I16, Precision.I32) or y not in _NARROW
    ):
        yield f"requantizes {Precision(x).name} to {Precision(y).name}; it takes I16 or I32 and gives I8 or I16"
    if operation == RequantOp.DQ_FLOAT and x not in _NARROW:
        yield f"dequantizes {Precision(x).name}; it takes I8 or I16"
    if operation == RequantOp.DQ_INT and y not in (Precision.I16, Precision.I32):
        yield f"dequantizes to {Precision(y).name}; it gives I16 or I32"
    yield from _in_place(operands, ["x"])
    yield from _apart(operands, ["table"])


_NARROW = (Precision.I8, Precision.I16)


@_for("SFU")
def _special(fields: Fields, operands: Operands) -> Complaints:
    """SFU: one start lane, aligned to vectors, at least two coefficients."""
    yield from _start_lanes(operands, ["y", "x", "coefficients"])
    yield from _alignment(operands, ["y", "x", "coefficients"])
    if fields["tsk_eu_typ"] in (SfuOp.TAYLOR, SfuOp.TAYLOR_4X) and fields["opd1_n"] < 2:
        yield f"a polynomial of {fields['opd1_n']} coefficients"
    yield from _in_place(operands, ["x"])
    yield from _apart(operands, ["coefficients"])


@_for("TRANS_BC")
def _transposition(fields: Fields, operands: Operands) -> Complaints:
    """TRANS_BC: source and result apart (a broadcast may start in place), CW from lane 0, WC to lane 0, 64 lanes."""
    operation = fields["tsk_eu_typ"]
    if operation == TransposeOp.CW:
        yield from _start_lanes(operands, ["x"], lane=0)
    if operation == TransposeOp.WC:
        yield from _start_lanes(operands, ["y"], lane=0)
    y = operands["y"]
    spread = (TransposeOp.LANE_BROADCAST, TransposeOp.STATIC_BROADCAST, TransposeOp.STATIC_DISTRIBUTE)
    if operation in spread and y.lane + y.dims[1] > LANES:
        yield f"broadcasts to {y.dims[1]} lanes from lane {y.lane}"
    yield from _alignment(operands, ["y"])
    if operation == TransposeOp.LANE_BROADCAST:
        yield from _in_place(operands, ["x"])
    else:
        yield from _apart(operands)


@_for("SG")
def _search_gather(fields: Fields, operands: Operands) -> Complaints:
    """SG: one start lane, aligned to vectors; table, index and result of a look-up in banks of their own."""
    yield from _start_lanes(operands, ["y", "table", "index"])
    yield from _alignment(operands, ["y", "table", "index"])
    yield from _apart(operands)
    if fields["tsk_eu_typ"] != SearchGatherOp.PE_GATHER:
        return
    banks = {role: _banks(operands[role]) for role in ("y", "table", "index")}
    for one, other in (("y", "table"), ("y", "index"), ("table", "index")):
        if shared := banks[one] & banks[other]:
            yield f"{one} and {other} share bank {min(shared)}"


def _banks(place: Place) -> set[int]:
    return set(range(place.offset // BANK_BYTES, (place.end - 1) // BANK_BYTES + 1))


@_for("LIN", "CMP")
def _element_wise(fields: Fields, operands: Operands) -> Complaints:
    """LIN and CMP: one start lane, tensors aligned to vectors."""
    roles = [role for role, _ in _places(operands)]
    yield from _start_lanes(operands, roles)
    yield from _alignment(operands, [role for role in roles if operands[role].dims[2:] != (1, 1)])


@_for("GDMA")
def _transfer(fields: Fields, operands: Operands) -> Complaints:
    """GDMA: elements of a row at most 128 bytes apart, broadcasts within the 64 lanes, as many elements out as in."""
    operation = fields["cmd_special_function"]
    for role, place in _places(operands):
        step = place.strides[3]
        if not 0 < step <= MAX_ROW_STRIDE_BYTES:
            yield f"{role} has its elements {step} bytes apart; 1 to {MAX_ROW_STRIDE_BYTES} are possible"
    place = operands["destination"]
    general = "src_wsize" in fields and fields["cmd_type"] == _GENERAL
    broadcasts = operation == (DmaGeneralOp.BROADCAST if general else DmaTensorOp.BROADCAST)
    if broadcasts and place.memory == "local" and place.lane + place.dims[1] > LANES:
        yield f"broadcasts to {place.dims[1]} lanes from lane {place.lane}"
    if fields["cmd_type"] == _TENSOR and operation != DmaTensorOp.COPY and not fields["nchw_copy"]:
        given = tuple(fields[f"dst_{axis}size"] for axis in "nchw")
        if given != place.dims:
            yield f"its destination has sizes {list(given)} where {list(place.dims)} arrive"
    if fields["cmd_type"] == _TENSOR and not broadcasts and "source" in operands:
        source = operands["source"].elements
        if source != place.elements:
            yield f"moves {source} elements to a place for {place.elements}"
    yield from _apart(operands)


_TENSOR = INSTRUCTIONS["DMA_tensor"].fixed["cmd_type"]
_GENERAL = INSTRUCTIONS["DMA_general"].fixed["cmd_type"]
