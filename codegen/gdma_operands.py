"""The places of sources and destinations of GDMA commands, one function an instruction.

Source: the instructions executed on the vendor's chip model, memories compared afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tpu_deploy.codegen.isa.encoding import Command
from tpu_deploy.codegen.isa.operations import DmaGeneralOp, DmaMatrixOp, DmaTensorOp
from tpu_deploy.codegen.places import VECTOR, Place, Quad, locate_gdma
from tpu_deploy.codegen.tiu_operands import Operands, UnsupportedCommandError, itemsize

Fields = Mapping[str, int]

_INDEX_BYTES = 4


def gdma_operands(command: Command) -> Operands:
    """The places of a GDMA command, roles "source", "destination" and "index"; raises UnsupportedCommandError."""
    if command.name not in _INSTRUCTIONS:
        raise UnsupportedCommandError(f"{command.name} is not supported")
    if command.fields["fill_constant_en"] and command.name not in ("DMA_tensor", "DMA_general"):
        raise UnsupportedCommandError(f"{command.name} that fills with a constant")
    return _INSTRUCTIONS[command.name](command.fields)


def address(fields: Fields, side: str) -> int:
    """The 40-bit address of one side ("src", "dst", "index")."""
    return fields[f"{side}_start_addr_l32"] | fields[f"{side}_start_addr_h8"] << 32


def _sizes(fields: Fields, side: str) -> Quad:
    return tuple(fields[f"{side}_{axis}size"] for axis in "nchw")  # type: ignore[return-value]


def _place(fields: Fields, side: str, dims: Quad, size: int, unit_width: bool = False) -> Place:
    """A tensor with the strides the command gives, or those of its memory when it gives none.

    Without strides local memory is in the aligned layout and other memories are dense. `unit_width`: the instruction
    ignores the stride of w, and elements of a row follow each other.
    """
    memory, lane, offset = locate_gdma(address(fields, side))
    if fields["stride_enable"]:
        n, c, h, w = (fields[f"{side}_{axis}stride"] * size for axis in "nchw")
        return Place(memory, lane, offset, dims, (n, c, h, size if unit_width else w), size)
    _, c, h, w = dims
    row = h * w * size
    if memory == "local":
        row = -(-row // VECTOR) * VECTOR
        rows = -(-(c + lane) // 64)
        return Place(memory, lane, offset, dims, (rows * row, row, w * size, size), size)
    return Place(memory, lane, offset, dims, (c * row, row, w * size, size), size)


def _tensor(fields: Fields) -> Operands:
    size, operation = itemsize(fields, "src_data_format"), fields["cmd_special_function"]
    source_dims = _sizes(fields, "src")
    destination_dims = source_dims if fields["nchw_copy"] else _sizes(fields, "dst")
    broadcast = operation == DmaTensorOp.BROADCAST
    if operation == DmaTensorOp.TRANSPOSE:
        n, c, h, w = source_dims
        destination_dims = (c, n, h, w)
    elif broadcast:
        n, _, h, w = source_dims = (source_dims[0], 1, *source_dims[2:])
        destination_dims = (n, fields["dst_csize"], h, w)
    elif operation != DmaTensorOp.COPY:
        raise UnsupportedCommandError(f"DMA_tensor operation {DmaTensorOp(operation).name.lower()}")
    unit_width = operation != DmaTensorOp.COPY
    destination = _place(fields, "dst", destination_dims, size, unit_width)
    if fields["fill_constant_en"]:
        return Operands({}, {"destination": destination})
    return Operands({"source": _place(fields, "src", source_dims, size, unit_width)}, {"destination": destination})


def _matrix_side(fields: Fields, side: str, other: str, rows: int, columns: int, size: int) -> dict[str, Place]:
    """The local side: `rows` x `columns`, `wsize` columns a lane; two places where the last lane holds fewer."""
    memory, lane, offset = locate_gdma(address(fields, side))
    width = fields[f"{side}_wsize"]
    if not width:
        raise UnsupportedCommandError(f"DMA_matrix with {side}_wsize=0")
    full, rest = divmod(columns, width)
    row, step = fields[f"{side}_nstride"] * size, fields[f"{side}_cstride"] * size
    if not fields["stride_enable"]:
        step = -(-width * size // VECTOR) * VECTOR
        row = step * -(-(full + bool(rest) + lane) // 64)
    places = {}
    if full:
        places[other] = Place(memory, lane, offset, (rows, full, 1, width), (row, step, 0, size), size)
    if rest:
        down, at = divmod(lane + full, 64)
        dims = (rows, 1, 1, rest)
        places[f"{other}_last" if full else other] = Place(
            memory, at, offset + down * step, dims, (row, step, 0, size), size
        )
    return places


def _matrix(fields: Fields) -> Operands:
    size = itemsize(fields, "src_data_format")
    local = [side for side in ("src", "dst") if locate_gdma(address(fields, side))[0] == "local"]
    if len(local) != 1:
        raise UnsupportedCommandError("DMA_matrix not between local memory and another")
    side, dense = (local[0], "dst" if local[0] == "src" else "src")
    height, width = fields[f"{dense}_hsize"], fields[f"{dense}_wsize"]
    memory, _, offset = locate_gdma(address(fields, dense))
    stride = (fields[f"{dense}_hstride"] if fields["stride_enable"] else width) * size
    whole = Place(memory, 0, offset, (1, 1, height, width), (0, 0, stride, size), size)
    transposed = fields["cmd_special_function"] == DmaMatrixOp.TRANSPOSE
    rows, columns = (width, height) if transposed else (height, width)
    if side == "dst":
        return Operands({"source": whole}, _matrix_side(fields, side, "destination", rows, columns, size))
    return Operands(_matrix_side(fields, side, "source", rows, columns, size), {"destination": whole})


def _linear(fields: Fields, side: str, count: int, size: int, lanes: int = 1) -> Place:
    memory, lane, offset = locate_gdma(address(fields, side))
    return Place(memory, lane, offset, (1, lanes, 1, count), (0, 0, 0, size), size)


def _general(fields: Fields) -> Operands:
    size, count = itemsize(fields, "src_data_format"), fields["src_cstride"]
    lanes = fields["dst_csize"] if fields["cmd_special_function"] == DmaGeneralOp.BROADCAST else 1
    destination = _linear(fields, "dst", count, size, lanes)
    if fields["fill_constant_en"]:
        return Operands({}, {"destination": destination})
    return Operands({"source": _linear(fields, "src", count, size)}, {"destination": destination})


def _cw_transpose(fields: Fields) -> Operands:
    size = itemsize(fields, "src_data_format")
    n, c, h, w = dims = _sizes(fields, "src")
    destination = _place(fields, "dst", (n, w, h, c), size, unit_width=True)
    return Operands({"source": _place(fields, "src", dims, size, unit_width=True)}, {"destination": destination})


def _rows(fields: Fields, side: str, size: int, columns: int) -> Place:
    """(1, c, h, columns) with given strides of c and h; dense, or aligned in local memory, when none are given."""
    memory, lane, offset = locate_gdma(address(fields, side))
    c, h = fields[f"{side}_csize"], fields[f"{side}_hsize"]
    if fields["stride_enable"]:
        step, line = fields[f"{side}_cstride"] * size, fields[f"{side}_hstride"] * size
    else:
        line = columns * size
        step = h * line if memory != "local" else -(-h * line // VECTOR) * VECTOR
    return Place(memory, lane, offset, (1, c, h, columns), (0, step, line, size), size)


def _indexed(fields: Fields) -> Operands:
    """Gather reads, and scatter writes, rows that the indices choose: the whole tensor counts as read or written."""
    size = itemsize(fields, "src_data_format")
    source = _rows(fields, "src", size, fields["src_wsize"])
    destination = _rows(fields, "dst", size, fields["dst_wsize"])
    index = _rows(fields, "index", _INDEX_BYTES, 1)
    return Operands({"source": source, "index": index}, {"destination": destination})


def _system(fields: Fields) -> Operands:
    return Operands({}, {})


_INSTRUCTIONS: dict[str, Callable[[Fields], Operands]] = {
    "DMA_tensor": _tensor,
    "DMA_matrix": _matrix,
    "DMA_general": _general,
    "DMA_cw_transpose": _cw_transpose,
    "DMA_gather": _indexed,
    "DMA_scatter": _indexed,
    "sDMA_sys": _system,
}
