"""The bmodel file: plain data to bytes and back, for files of this package and of the vendor."""

from tpu_deploy.codegen.bmodel.description import DECODED_CHIP, decode_group, describe, disassembly
from tpu_deploy.codegen.bmodel.model import (
    DTYPES,
    PINNED_TIME,
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
from tpu_deploy.codegen.bmodel.reader import parse_bmodel, read_bmodel, verify_coefficients
from tpu_deploy.codegen.bmodel.writer import serialize, write_bmodel

__all__ = [
    "DECODED_CHIP",
    "DTYPES",
    "PINNED_TIME",
    "Bmodel",
    "Coefficients",
    "CommandGroup",
    "KernelModule",
    "Location",
    "Net",
    "Stage",
    "SubNet",
    "TensorInfo",
    "decode_group",
    "describe",
    "disassembly",
    "parse_bmodel",
    "read_bmodel",
    "serialize",
    "tensor_bytes",
    "verify_coefficients",
    "write_bmodel",
]
