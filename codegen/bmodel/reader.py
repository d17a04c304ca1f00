"""From the bytes of a bmodel to plain data, refusing in one line whatever is not one."""

import mmap
import os
from typing import Any

from tpu_deploy.codegen.bmodel.flat_tables import MalformedTableError, read_tables
from tpu_deploy.codegen.bmodel.model import (
    DTYPES,
    Bmodel,
    Coefficients,
    CommandGroup,
    KernelModule,
    Location,
    Net,
    Stage,
    SubNet,
    TensorInfo,
    tensor_bytes,
)
from tpu_deploy.codegen.bmodel.writer import HEADER, MAGIC
from tpu_deploy.errors import BadInput

# Device addresses have 40 bits; no memory is larger.
_ADDRESS_SPACE = 1 << 40
_SUB_NET_KINDS = ("tpu", "cpu", "merge", "switch")


def read_bmodel(path: str | os.PathLike[str], verify: bool = False) -> Bmodel:
    """The model in the file, its coefficients and kernel module as views of the mapped file.

    Takes files of this package and of the vendor, for any chip. `verify` also compares the coefficients with their
    recorded SHA-256, which reads them all. Raises BadInput when the file cannot be read or is damaged.
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        reason = "is a folder" if os.path.isdir(path) else "is not there" if not os.path.exists(path) else "is no file"
        raise BadInput(f"{name}: {reason}; give the path of a .bmodel file")
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size < HEADER.size:
                raise BadInput(f"{name}: is too short to be a bmodel; build or copy it again")
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror or error})") from error
    model = parse_bmodel(data, name)
    if verify:
        verify_coefficients(model)
    return model


def parse_bmodel(data: bytes | memoryview, name: str = "bmodel") -> Bmodel:
    """The model whose file has these bytes; `name` stands for the file in messages. Raises BadInput."""
    try:
        return _Parsing(memoryview(data)).model(name)
    except MalformedTableError as error:
        raise BadInput(f"{name}: is not a usable bmodel ({error}); build or copy it again") from error


def verify_coefficients(model: Bmodel) -> None:
    """Raises BadInput naming the first net whose coefficients are not what their recorded SHA-256 says."""
    for net in model.nets:
        for index, stage in enumerate(net.stages):
            if stage.coefficients is not None and stage.coefficients.matches_checksum is False:
                place = f"{model.source}: the coefficients of net {net.name!r}, stage {index},"
                raise BadInput(f"{place} do not match their checksum; the file is damaged, build or copy it again")


class _Parsing:
    """One file being read: its tables and its binary section. Faults are MalformedTableError."""

    def __init__(self, data: memoryview) -> None:
        if len(data) < HEADER.size:
            raise MalformedTableError("too short")
        magic, header_size, tables_size, binary_size = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise MalformedTableError(f"it begins with {magic:#010x}, not {MAGIC:#010x}")
        if header_size != HEADER.size:
            raise MalformedTableError(f"its header claims {header_size} bytes, not {HEADER.size}")
        end = header_size + tables_size + binary_size
        if end > len(data):
            raise MalformedTableError(f"it is cut off: {len(data)} of {end} bytes")
        self.binaries = data[header_size + tables_size : end]
        self.tables = read_tables(bytes(data[header_size : header_size + tables_size]), "Model")

    def model(self, source: str) -> Bmodel:
        tables = self.tables
        return Bmodel(
            chip=tables["chip"] or "",
            nets=tuple(self.net(net) for net in tables["net"]),
            version=tables["version"] or "",
            time=(tables["time"] or "").strip(),
            kernel_module=self.kernel_module(tables["kernel_module"]),
            neuron_size=tables["neuron_size"],
            source=source,
        )

    def kernel_module(self, module: dict[str, Any] | None) -> KernelModule | None:
        """None too where the vendor's tool took the module out, which leaves an empty one."""
        data = self.binary(module["binary"], "kernel module") if module is not None else self.binaries[:0]
        return KernelModule(module["file_name"] or "", data) if module is not None and len(data) else None

    def binary(self, place: dict[str, int] | None, what: str) -> memoryview:
        if place is None:
            return self.binaries[:0]
        start, end = place["start"], place["start"] + place["size"]
        if end > len(self.binaries):
            raise MalformedTableError(f"its {what} reaches to byte {end} of {len(self.binaries)}")
        return self.binaries[start:end]

    def net(self, net: dict[str, Any]) -> Net:
        return Net(net["name"] or "", tuple(self.stage(stage) for stage in net["parameter"]), net["addr_mode"])

    def stage(self, stage: dict[str, Any]) -> Stage:
        if stage["ctx_addr"] + stage["ctx_size"] > _ADDRESS_SPACE:
            raise MalformedTableError(f"it wants {stage['ctx_size']} bytes of memory at {stage['ctx_addr']:#x}")
        inputs, outputs = self.tensors(stage["input_tensor"]), self.tensors(stage["output_tensor"])
        groups = self.groups(stage["cmd_group"])
        sub_nets = tuple(self.sub_net(sub_net) for sub_net in stage["sub_net"])
        if sub_nets == (SubNet("tpu", inputs, outputs, groups),):
            sub_nets = ()
        return Stage(
            inputs=inputs,
            outputs=outputs,
            ctx_addr=stage["ctx_addr"],
            ctx_size=stage["ctx_size"],
            coefficients=stage["coeff_mem"] and self.coefficients(stage["coeff_mem"]),
            groups=groups,
            sub_nets=sub_nets,
            core_count=max(stage["core_num"], 1),
            io_addr=stage["io_addr"],
            io_size=stage["io_size"],
            is_dynamic=bool(stage["is_dynamic"]),
        )

    def sub_net(self, sub_net: dict[str, Any]) -> SubNet:
        mode = sub_net["subnet_mode"]
        return SubNet(
            kind=_SUB_NET_KINDS[mode] if 0 <= mode < len(_SUB_NET_KINDS) else f"mode{mode}",
            inputs=self.tensors(sub_net["input_tensor"]),
            outputs=self.tensors(sub_net["output_tensor"]),
            groups=self.groups(sub_net["cmd_group"]),
            cores=tuple(self.groups(core["gdma_tiu_commands"]) for core in sub_net["core_commands"]),
            number=sub_net["id"],
            next_numbers=tuple(sub_net["next_subnet_ids"]),
        )

    def groups(self, groups: list[dict[str, Any]]) -> tuple[CommandGroup, ...]:
        return tuple(
            CommandGroup(
                tiu=self.queue(group["binary_bdc"], group["bdc_cmd_byte"], "TIU queue"),
                gdma=self.queue(group["binary_gdma"], group["gdma_cmd_byte"], "GDMA queue"),
                tiu_count=group["bdc_num"],
                gdma_count=group["gdma_num"],
            )
            for group in groups
        )

    def queue(self, place: dict[str, int] | None, size: int, what: str) -> bytes:
        data = self.binary(place, what)
        if size > len(data):
            raise MalformedTableError(f"its {what} claims {size} of {len(data)} bytes")
        return bytes(data[:size] if size else data)

    def coefficients(self, memory: dict[str, Any]) -> Coefficients:
        data = self.binary(memory["binary_coeff"], "coefficients")
        locations = tuple(Location(each["name"] or "", each["offset"], each["size"]) for each in memory["location"])
        for location in locations if not memory["encrypt_mode"] else ():
            if location.offset + location.size > len(data):
                raise MalformedTableError(f"coefficients of {location.name!r} reach beyond the {len(data)} there are")
        return Coefficients(memory["address"], data, memory["check_code"], locations)

    def tensors(self, tensors: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
        return tuple(self.tensor(tensor) for tensor in tensors)

    def tensor(self, tensor: dict[str, Any]) -> TensorInfo:
        code = tensor["data_type"]
        dtype = DTYPES[code] if code < len(DTYPES) else f"type{code}"
        shape = tuple(tensor["shape"][0]["dim"]) if tensor["shape"] else ()
        name = tensor["name"] or ""
        if tensor_bytes(dtype, shape) > tensor["size"]:
            raise MalformedTableError(f"tensor {name!r} has shape {list(shape)} of {dtype} in {tensor['size']} bytes")
        return TensorInfo(
            name=name,
            dtype=dtype,
            shape=shape,
            device_addr=tensor["device_addr"],
            scale=tensor["scale"],
            zero_point=tensor["zero_point"],
            size=tensor["size"],
        )
