"""One readable line for a command: engine, identifiers, operation, what it reads and writes, and how."""

from collections.abc import Iterator, Sequence

from tpu_deploy.codegen.isa.addresses import GDMA_LOCAL, STATIC, place_name
from tpu_deploy.codegen.isa.encoding import INSTRUCTIONS, Command
from tpu_deploy.codegen.isa.instruction import Engine
from tpu_deploy.codegen.isa.operands import OPERANDS, Fields, Operand
from tpu_deploy.codegen.isa.operations import ArithmeticOp, RequantOp, SfuOp
from tpu_deploy.codegen.isa.precision import Precision, RoundMode

# Operations that go without saying: the instruction alone is the name.
_UNNAMED = {"NORMAL", "COPY"}


def opcode(command: Command) -> str:
    """What the command does: "CONV", "AR.adds", "GDMA.tensor", "GDMA.tensor.broadcast", ..."""
    instruction = INSTRUCTIONS[command.name]
    operation = instruction.operations(command.operation).name
    family = instruction.family if command.engine == "TIU" else f"GDMA.{instruction.family}"
    if operation in _UNNAMED and family not in ("AR", "LAR"):
        return family
    return f"{family}.{operation.lower()}"


def disassemble(command: Command) -> str:
    """The command as one line, such as
    "TIU 7 after GDMA 4: AR.adds y=i32[1,64,56,56] lane0+0x8000, a=..., b=... | round=half_up".

    Tensors read `dtype[shape] place`, with free strides in elements as `:(n,c,h,w)`; constants are the bits in hex.
    """
    fields = command.fields
    parts = _tiu_operands(command) if command.engine == "TIU" else _gdma_operands(command)
    attributes = _tiu_attributes(command) if command.engine == "TIU" else _gdma_attributes(command)
    other = "GDMA" if command.engine == "TIU" else "TIU"
    after = f" after {other} {fields['cmd_id_dep']}" if fields.get("cmd_id_dep") else ""
    line = f"{command.engine} {fields.get('cmd_id', '-')}{after}: {opcode(command)} {', '.join(parts)}".rstrip()
    described = " ".join(attributes)
    return f"{line} | {described}" if described else line


def _tensor(
    engine: Engine, dtype: str, shape: Sequence[int], address: int, strides: Sequence[int] | None = None
) -> str:
    step = f":({','.join(map(str, strides))})" if strides is not None else ""
    return f"{dtype}[{','.join(map(str, shape))}]{step} {place_name(engine, address)}"


def _tiu_operands(command: Command) -> Iterator[str]:
    for operand in OPERANDS[INSTRUCTIONS[command.name].family]:
        if operand.used(command.fields):
            yield f"{operand.role}={_tiu_operand(operand, command.fields)}"


def _tiu_operand(operand: Operand, fields: Fields) -> str:
    constant = operand.constant(fields)
    if constant is not None:
        return f"{operand.dtype(fields)} {constant:#x}".lstrip()
    address = fields[f"{operand.prefix}_addr"]
    return _tensor("TIU", operand.dtype(fields), operand.shape(fields), address, operand.strides(fields))


def _tiu_attributes(command: Command) -> Iterator[str]:
    """What the operands leave open; geometry of windows, accumulation, rounding, constants of requantization."""
    fields, family = command.fields, INSTRUCTIONS[command.name].family
    if family in ("CONV", "PorD"):
        yield from _window(fields)
    for flag in ("res_add", "left_tran", "kernel_rotate", "relu"):
        if fields.get(flag):
            yield flag
    if family == "RQ_DQ":
        yield from _requantization(fields)
    elif family in ("PorD", "VC") or (family == "AR" and fields["tsk_eu_typ"] != ArithmeticOp.DIV):
        yield from _rounding(fields["opd2_n_str"])
    elif family == "AR" or (family == "SFU" and fields["tsk_eu_typ"] == SfuOp.RSQRT):
        yield f"iterations={fields['opd2_n_str'] + 1}"


def _window(fields: Fields) -> Iterator[str]:
    """Kernel, stride, pads (up, down, left, right), dilation and zeros inserted between inputs, where not the usual."""
    yield f"kernel={fields['opd1_h']}x{fields['opd1_w']} stride={fields['res_op_y_str']}x{fields['res_op_x_str']}"
    pads = [fields[f"opd0_{side}_pad"] for side in ("up", "dn", "lf", "rt")]
    if any(pads):
        yield f"pads={','.join(map(str, pads))}"
    if fields["opd1_y_ins0"] or fields["opd1_x_ins0"]:
        yield f"dilation={fields['opd1_y_ins0'] + 1}x{fields['opd1_x_ins0'] + 1}"
    if fields["opd0_y_ins0"] or fields["opd0_x_ins0"]:
        yield f"insert={fields['opd0_y_ins0']}x{fields['opd0_x_ins0']}"


def _rounding(mode: int, name: str = "round") -> Iterator[str]:
    if mode:
        yield f"{name}={RoundMode(mode).name.lower() if mode in set(RoundMode) else mode}"


def _requantization(fields: Fields) -> Iterator[str]:
    operation = fields["tsk_eu_typ"]
    yield from _rounding(fields["opd2_n_str"] & 7)
    if operation == RequantOp.RQ_FLOAT:
        yield from _rounding(fields["opd2_n_str"] >> 3, "round_result")
    if not fields["opd1_const"]:
        return
    first, second = fields["opd1_addr"], fields["opd2_addr"]
    if operation == RequantOp.RQ_INT:
        yield f"multiplier={_signed(first, 32)} shift={_signed(second & 0xFF, 8)}"
        yield f"zero_point={_signed(second >> 16, 16)}"
    else:
        yield f"constants={first:#x},{second:#x}"


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _address(fields: Fields, side: str) -> int:
    return fields[f"{side}_start_addr_l32"] | fields[f"{side}_start_addr_h8"] << 32


def _dtype(code: int) -> str:
    """The element type by width: the GDMA moves integers without regard to sign."""
    return Precision(code).name.lower() if code in set(Precision) else f"format{code}"


def _gdma_operands(command: Command) -> Iterator[str]:
    fields, family = command.fields, INSTRUCTIONS[command.name].family
    if family == "sys":
        return
    dtype = _dtype(fields["src_data_format"])
    for side in ("dst", "src"):
        if side == "src" and fields["fill_constant_en"]:
            yield f"src={dtype} {fields['constant_value']:#x}"
        else:
            shape, strides = _gdma_side(command, side)
            yield f"{side}={_tensor('GDMA', dtype, shape, _address(fields, side), strides)}"
    if family in ("gather", "scatter"):
        index_shape = (1, fields["index_csize"], fields["index_hsize"], 1)
        index_strides = (0, fields["index_cstride"], fields["index_hstride"], 0)
        yield f"index={_tensor('GDMA', 'u32', index_shape, _address(fields, 'index'), index_strides)}"
    elif family == "masked_select":
        mask = _dtype(fields["mask_data_format"])
        yield f"mask={_tensor('GDMA', mask, _sizes(fields, 'src'), _address(fields, 'mask'))}"


def _sizes(fields: Fields, side: str) -> tuple[int, ...]:
    return tuple(fields[f"{side}_{axis}size"] for axis in "nchw")


def _gdma_side(command: Command, side: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shape and strides in elements of the source or the destination."""
    fields, family = command.fields, INSTRUCTIONS[command.name].family
    if family == "general":
        return (fields["src_cstride"],), None
    if family in ("gather", "scatter"):
        rows = (1, fields[f"{side}_csize"], fields[f"{side}_hsize"], fields[f"{side}_wsize"])
        return rows, (0, fields[f"{side}_cstride"], fields[f"{side}_hstride"], 1)
    if family == "matrix":
        return _matrix_side(fields, side)
    same = side == "dst" and (fields["nchw_copy"] or family in ("nonzero", "masked_select"))
    shape = _sizes(fields, "src" if same and not fields["fill_constant_en"] else side)
    strides = tuple(fields[f"{side}_{axis}stride"] for axis in "nchw")
    return shape, strides if fields["stride_enable"] else None


def _matrix_side(fields: Fields, side: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns where the matrix lies in DDR; rows, lanes and columns a lane where it lies in local memory."""
    if GDMA_LOCAL <= _address(fields, side) < STATIC:
        lanes = (fields[f"{side}_nsize"], fields[f"{side}_csize"], fields[f"{side}_wsize"])
        return lanes, (fields[f"{side}_nstride"], fields[f"{side}_cstride"], 1)
    return (fields[f"{side}_hsize"], fields[f"{side}_wsize"]), (fields[f"{side}_hstride"], 1)


def _gdma_attributes(command: Command) -> Iterator[str]:
    """Whether elements are put into another shape, and which lanes take part when not all."""
    fields = command.fields
    if command.name == "sDMA_sys":
        return
    moves = command.name == "DMA_tensor" and not fields["cmd_special_function"] and not fields["fill_constant_en"]
    if moves and not fields["nchw_copy"]:
        yield "reshape"
    lanes = fields["localmem_mask_l32"] | fields["localmem_mask_h32"] << 32
    if lanes != (1 << 64) - 1:
        yield f"lanes={lanes:#x}"
