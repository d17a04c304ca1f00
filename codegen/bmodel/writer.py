"""From a Bmodel to the bytes of the file, the same bytes for the same model."""

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from tpu_deploy.codegen.bmodel.flat_tables import build_tables
from tpu_deploy.codegen.bmodel.model import (
    DTYPES,
    Bmodel,
    Coefficients,
    CommandGroup,
    Net,
    Stage,
    SubNet,
    TensorInfo,
)
from tpu_deploy.files import replacing

MAGIC = 0xFF55AAEE
HEADER = struct.Struct("<IIIQ44x")
"""Magic, header size, flatbuffer size, size of the binary section; padded to 64 bytes."""

SECTION_ALIGNMENT = 4096
"""Boundary of the binary section in the file and of each binary in it: a page, so that devices can map the file."""

QUEUE_ALIGNMENT = 128
"""Bytes a command queue is padded to; the queue's reader fetches in such steps."""

_INPUT, _OUTPUT = 1, 2


def serialize(model: Bmodel) -> bytes:
    """The bytes of the file; they depend on the model alone.

    Raises ValueError for what cannot be written: dynamic stages, sub nets off the TPU, and nets whose first stage does
    not have the largest `ctx_size`.
    """
    return b"".join(_chunks(model))


def write_bmodel(model: Bmodel, path: str | os.PathLike[str]) -> None:
    """Writes the file whole or not at all, large data uncopied.

    Raises BadInput when the place cannot be written, and ValueError as `serialize`.
    """
    with replacing(path) as stream:
        for chunk in _chunks(model):
            stream.write(chunk)


def padded(size: int, alignment: int) -> int:
    """The smallest multiple of the alignment that is not below the size."""
    return -(-size // alignment) * alignment


def _chunks(model: Bmodel) -> Iterator[bytes | memoryview]:
    """The file in order, large data uncopied."""
    binaries = _Binaries()
    tables = build_tables("Model", _model_values(model, binaries))
    tables_size = padded(HEADER.size + len(tables), SECTION_ALIGNMENT) - HEADER.size
    yield HEADER.pack(MAGIC, HEADER.size, tables_size, binaries.size)
    yield tables
    yield bytes(tables_size - len(tables))
    for data in binaries.parts:
        yield data
        yield bytes(padded(len(data), SECTION_ALIGNMENT) - len(data))


class _Binaries:
    """The binary section: where each binary starts; equal binaries are stored once."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.size = 0
        self._starts: dict[tuple[int, bytes], int] = {}

    def add(self, data: bytes | memoryview, digest: bytes | None = None) -> dict[str, int]:
        key = len(data), digest or hashlib.sha256(data).digest()
        if key not in self._starts:
            self._starts[key] = self.size
            self.parts.append(data)
            self.size += padded(len(data), SECTION_ALIGNMENT)
        return {"start": self._starts[key], "size": len(data)}


def _model_values(model: Bmodel, binaries: _Binaries) -> dict[str, Any]:
    module = model.kernel_module
    return {
        "type": "B",
        "version": model.version,
        "time": model.time,
        "chip": model.chip,
        "net": [_net_values(net, binaries) for net in model.nets],
        "neuron_size": model.neuron_size,
        "kernel_module": module and {"file_name": module.file_name, "binary": binaries.add(module.data)},
        "device_num": 1,
    }


def _net_values(net: Net, binaries: _Binaries) -> dict[str, Any]:
    """The runtime reserves memory by the first stage: with a larger one behind it, outputs came back as zeros."""
    sizes = [stage.ctx_size for stage in net.stages]
    if sizes and sizes[0] < max(sizes):
        raise ValueError(f"the first stage of net {net.name} must have the largest ctx_size, {max(sizes)} bytes")
    return {
        "name": net.name,
        "parameter": [_stage_values(stage, binaries) for stage in net.stages],
        "addr_mode": net.addr_mode,
    }


def _stage_values(stage: Stage, binaries: _Binaries) -> dict[str, Any]:
    """The runtime reads tensors and groups from the stage or from its sub net, so both hold them."""
    if stage.is_dynamic:
        raise ValueError("a stage for dynamic shapes can be read, not written")
    sub_nets = stage.sub_nets or (SubNet("tpu", stage.inputs, stage.outputs, stage.groups),)
    coefficients = stage.coefficients
    return {
        "input_tensor": _tensor_values(stage.inputs, _INPUT),
        "output_tensor": _tensor_values(stage.outputs, _OUTPUT),
        "ctx_addr": stage.ctx_addr,
        "ctx_size": stage.ctx_size,
        "coeff_mem": coefficients and _coefficient_values(coefficients, binaries),
        "cmd_group": [_group_values(group, binaries) for group in stage.groups],
        "sub_net": [_sub_net_values(sub_net, binaries) for sub_net in sub_nets],
        "ctx_sizes": [stage.ctx_size],
        "core_num": stage.core_count,
        "io_addr": stage.io_addr,
        "io_size": stage.io_size,
    }


def _sub_net_values(sub_net: SubNet, binaries: _Binaries) -> dict[str, Any]:
    if sub_net.kind != "tpu":
        raise ValueError(f"a sub net of kind {sub_net.kind} can be read, not written")
    cores = [{"gdma_tiu_commands": [_group_values(group, binaries) for group in core]} for core in sub_net.cores]
    return {
        "subnet_mode": 0,
        "cmd_group": [_group_values(group, binaries) for group in sub_net.groups],
        "input_tensor": _tensor_values(sub_net.inputs, _INPUT),
        "output_tensor": _tensor_values(sub_net.outputs, _OUTPUT),
        "id": sub_net.number,
        "next_subnet_ids": sub_net.next_numbers,
        "core_commands": cores or None,
        "run_core": max(len(cores), 1),
    }


def _coefficient_values(coefficients: Coefficients, binaries: _Binaries) -> dict[str, Any]:
    """The runtime crashes on coefficients without digest or location."""
    digest = coefficients.digest()
    locations = [vars(location) for location in coefficients.locations]
    return {
        "address": coefficients.address,
        "check_code": digest,
        "binary_coeff": binaries.add(coefficients.data, digest),
        "location": locations or [{"name": "coefficients", "offset": 0, "size": len(coefficients.data)}],
    }


def _group_values(group: CommandGroup, binaries: _Binaries) -> dict[str, Any]:
    tiu, gdma = (queue.ljust(padded(len(queue), QUEUE_ALIGNMENT), b"\0") for queue in (group.tiu, group.gdma))
    return {
        "bdc_num": group.tiu_count,
        "gdma_num": group.gdma_count,
        "binary_bdc": binaries.add(tiu),
        "binary_gdma": binaries.add(gdma),
        "bdc_cmd_byte": len(tiu),
        "gdma_cmd_byte": len(gdma),
    }


def _tensor_values(tensors: Sequence[TensorInfo], direction: int) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "data_type": DTYPES.index(tensor.dtype),
            "device_addr": tensor.device_addr,
            "size": tensor.size,
            "shape": [{"dim": tensor.shape}],
            "mem_type": 1,
            "scale": tensor.scale,
            "zero_point": tensor.zero_point,
            "hidden": direction,
            "index": index,
        }
        for index, tensor in enumerate(tensors)
    ]
