"""A bmodel as plain frozen data: what the writer takes and the reader gives."""

import hashlib
import math
from dataclasses import dataclass, field

PINNED_TIME = "Thu Jan  1 00:00:00 1970"
"""What stands in the time field of every bmodel written here, so that equal inputs give equal bytes."""

DTYPES: tuple[str, ...] = (
    "float32",
    "float16",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "bfloat16",
    "int4",
    "uint4",
)
"""Element types in the order of their numbers in the file."""

_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int4": 4, "uint4": 4}
_BITS |= {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32)}


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a dense tensor; 0 for an element type this package does not know."""
    return -(-math.prod(shape) * _BITS.get(dtype, 0) // 8)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a net in device memory.

    `scale` follows the direction of use: an input's float is multiplied by it to give the integer, an output's integer
    is multiplied by it to give the float. `size` is in bytes; the default is that of the dense tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    device_addr: int
    scale: float = 1.0
    zero_point: int = 0
    size: int = -1

    def __post_init__(self) -> None:
        if self.size < 0:
            object.__setattr__(self, "size", tensor_bytes(self.dtype, self.shape))


@dataclass(frozen=True)
class CommandGroup:
    """The two queues that run together; the counts include the end commands.

    Queues read from a file keep their padding, the writer adds what is missing.
    """

    tiu: bytes
    gdma: bytes
    tiu_count: int
    gdma_count: int


@dataclass(frozen=True)
class Location:
    """Where the coefficients of one operation lie, in bytes from the start of all coefficients."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Coefficients:
    """All constant data of a stage, loaded to `address` before the first run.

    `sha256` is the digest the file records; the writer computes it, and a `location` of everything, where missing.
    """

    address: int
    data: bytes | memoryview
    sha256: bytes = b""
    locations: tuple[Location, ...] = ()

    def digest(self) -> bytes:
        """The SHA-256 of the data, computed anew: reads all of it."""
        return hashlib.sha256(self.data).digest()

    @property
    def matches_checksum(self) -> bool | None:
        """Whether the data are what the recorded digest says; None when none is recorded. Reads all of the data."""
        return self.digest() == self.sha256 if self.sha256 else None


@dataclass(frozen=True)
class SubNet:
    """A part of a stage on one processor; `cores` holds the command groups of each core where there are several."""

    kind: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    groups: tuple[CommandGroup, ...] = ()
    cores: tuple[tuple[CommandGroup, ...], ...] = ()
    number: int = 0
    next_numbers: tuple[int, ...] = (-1,)


@dataclass(frozen=True)
class Stage:
    """A net compiled for one set of input shapes.

    Inputs, outputs and intermediate tensors live in `ctx_size` bytes from `ctx_addr`. `sub_nets` is empty when the
    stage is one part on the TPU with one core, as all that are written here for the BM1684X.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ctx_addr: int
    ctx_size: int
    coefficients: Coefficients | None
    groups: tuple[CommandGroup, ...]
    sub_nets: tuple[SubNet, ...] = ()
    core_count: int = 1
    io_addr: int = 0
    io_size: int = 0
    is_dynamic: bool = False

    def command_groups(self) -> list[tuple[str, CommandGroup]]:
        """Every command group with its place in the stage ("group 0", "sub net 1 core 0 group 0"), in running order."""
        named = [(f"group {index}", group) for index, group in enumerate(self.groups)]
        parts = []
        for sub_net in self.sub_nets:
            for core, groups in enumerate((sub_net.groups, *sub_net.cores)):
                where = f"sub net {sub_net.number}" + (f" core {core - 1}" if core else "")
                parts += [(f"{where} group {index}", group) for index, group in enumerate(groups)]
        return parts or named


@dataclass(frozen=True)
class Net:
    """A network under one name, with a stage for each set of input shapes."""

    name: str
    stages: tuple[Stage, ...]
    addr_mode: int = 0


@dataclass(frozen=True)
class KernelModule:
    """The vendor's firmware module, which real devices load and the chip model ignores."""

    file_name: str
    data: bytes | memoryview


@dataclass(frozen=True)
class Bmodel:
    """A whole file. `neuron_size` below zero means: the largest `ctx_size` of any stage.

    `source` is what messages call the model: the path it was read from.
    """

    chip: str
    nets: tuple[Net, ...]
    version: str = "2.2"
    time: str = PINNED_TIME
    kernel_module: KernelModule | None = None
    neuron_size: int = -1
    source: str = field(default="bmodel", compare=False)

    def __post_init__(self) -> None:
        if self.neuron_size < 0:
            sizes = [stage.ctx_size for net in self.nets for stage in net.stages]
            object.__setattr__(self, "neuron_size", max(sizes, default=0))
