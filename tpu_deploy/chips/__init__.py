"""The chips we compile for: one data file each."""

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from tpu_deploy.errors import BadInput


@dataclass(frozen=True)
class Chip:
    """Constants of one chip; the fields are documented in its data file."""

    name: str
    bmodel_name: str
    lanes: int
    lane_bytes: int
    banks: int
    vector_bytes: int
    conv_block_i8: int
    conv_block_f16: int
    conv_block_f32: int
    frequency_hz: float
    global_base: int
    local_base: int
    lane_stride: int
    max_pad: int
    max_stride: int
    max_dilation: int
    max_inserts: int
    max_pool_inserts: int
    max_size: int
    max_commands: int
    macs_per_cycle_i8: int
    dma_bytes_per_cycle: float

    def conv_block(self, itemsize: int) -> int:
        """Input channels of a convolution block of elements of so many bytes."""
        return {1: self.conv_block_i8, 2: self.conv_block_f16, 4: self.conv_block_f32}[itemsize]

    @property
    def bank_bytes(self) -> int:
        """Bytes of one bank of a lane's local memory."""
        return self.lane_bytes // self.banks


def names() -> list[str]:
    """The names of all known chips."""
    files = resources.files(__package__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


@cache
def chip(name: str) -> Chip:
    """The chip of that name, case ignored. BadInput for an unknown one."""
    wanted = name.lower()
    known = names()
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadInput(f"--chip {name}: unknown chip; {hint}known: {', '.join(known)}")
    text = resources.files(__package__).joinpath(f"{wanted}.toml").read_text()
    return Chip(**tomllib.loads(text))
