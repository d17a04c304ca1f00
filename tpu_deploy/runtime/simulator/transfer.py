"""GDMA: tensors, matrices and rows moved between memories."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.isa.operations import DmaMatrixOp, DmaTensorOp
from tpu_deploy.codegen.places import Place
from tpu_deploy.codegen.tiu_operands import Operands
from tpu_deploy.runtime.simulator.memory import Memories
from tpu_deploy.runtime.simulator.registry import Fields, executes, unsupported

Array = npt.NDArray[Any]

_ALL_LANES = 0xFFFF_FFFF


def _source(fields: Fields, operands: Operands, memory: Memories) -> Array:
    """The elements to move as unsigned integers; one constant for a fill."""
    if (fields["localmem_mask_l32"], fields["localmem_mask_h32"]) != (_ALL_LANES, _ALL_LANES):
        raise unsupported("GDMA with a lane mask")
    if fields["decompress_enable"]:
        raise unsupported("GDMA decompression")
    if fields["fill_constant_en"]:
        size = operands["destination"].itemsize
        return np.asarray(fields["constant_value"] & (1 << 8 * size) - 1).astype(f"u{size}")
    return _elements(memory, operands["source"])


def _elements(memory: Memories, place: Place) -> Array:
    return memory.read(place, f"u{place.itemsize}")


@executes("DMA_tensor")
def move_tensor(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one DMA_tensor: a strided copy, optionally n and c exchanged, broadcast to lanes, or a fill."""
    place = operands["destination"]
    values = _source(fields, operands, memory)
    if fields["cmd_special_function"] == DmaTensorOp.TRANSPOSE:
        values = values.transpose(1, 0, 2, 3)
    elif fields["cmd_special_function"] == DmaTensorOp.BROADCAST or values.ndim == 0:
        values = np.broadcast_to(values, place.dims)
    elif values.size != place.elements:
        raise unsupported(f"DMA_tensor of {values.size} elements to {place.elements}")
    memory.write(place, values.reshape(place.dims))


@executes("DMA_matrix")
def move_matrix(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one DMA_matrix: rows of a matrix spread over lanes, or back, optionally transposed."""
    transposed = fields["cmd_special_function"] == DmaMatrixOp.TRANSPOSE
    if "source" in operands and operands["source"].memory != "local":
        matrix = _source(fields, operands, memory)[0, 0]
        _spread(operands, memory, matrix.T if transposed else matrix)
        return
    _source_parts = [operands.reads[role] for role in ("source", "source_last") if role in operands.reads]
    parts = [_elements(memory, place) for place in _source_parts]
    matrix = np.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)
    place = operands["destination"]
    memory.write(place, (matrix.T if transposed else matrix).reshape(place.dims))


def _spread(operands: Operands, memory: Memories, matrix: Array) -> None:
    column = 0
    for role in ("destination", "destination_last"):
        if role in operands.writes:
            place = operands.writes[role]
            width = place.dims[1] * place.dims[3]
            memory.write(place, matrix[:, column : column + width].reshape(place.dims))
            column += width


@executes("DMA_general")
def move_bytes(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one DMA_general: consecutive elements, to one lane or the same to several."""
    place = operands["destination"]
    memory.write(place, np.broadcast_to(_source(fields, operands, memory), place.dims))


@executes("DMA_cw_transpose")
def transpose(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one DMA_cw_transpose: (n, c, h, w) to (n, w, h, c)."""
    memory.write(operands["destination"], _source(fields, operands, memory).transpose(0, 3, 2, 1))


@executes("DMA_gather")
def gather(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one DMA_gather: row i of the result is row index[i] of the source, for each channel."""
    source, index, place = _source(fields, operands, memory), _index(operands, memory), operands["destination"]
    if (index >= source.shape[2]).any():
        raise unsupported(f"DMA_gather with an index of {int(index.max())} into {source.shape[2]} rows")
    memory.write(place, np.take_along_axis(source, np.broadcast_to(index, place.dims), axis=2))


@executes("DMA_scatter")
def scatter(fields: Fields, operands: Operands, memory: Memories) -> None:
    """Executes one DMA_scatter: row index[i] of the result becomes row i of the source, for each channel."""
    source, index, place = _source(fields, operands, memory), _index(operands, memory), operands["destination"]
    if (index >= place.dims[2]).any():
        raise unsupported(f"DMA_scatter with an index of {int(index.max())} into {place.dims[2]} rows")
    result = np.array(_elements(memory, place))
    np.put_along_axis(result, np.broadcast_to(index, source.shape), source, axis=2)
    memory.write(place, result)


def _index(operands: Operands, memory: Memories) -> Array:
    return memory.read(operands["index"], np.uint32, np.intp)
