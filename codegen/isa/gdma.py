"""The instructions of the GDMA, the engine that moves data: their bit tables.

Rows read `name@bit:width`; bits no row names are reserved. Only the long forms (96 bytes) are here, because the
runtime relocates addresses in steps of 96 bytes; the commands to the queue itself have 16 bytes. An address is split
into `*_l32` and `*_h8` in every form. Source: the register tables of the vendor's public disassembler (whose matrix
form names the two halves of an address the wrong way round) and trials on its chip model.
"""

from enum import IntEnum

from tpu_deploy.codegen.isa import operations
from tpu_deploy.codegen.isa.instruction import Instruction, rows

_HEADER = """
    intr_en@0:1 stride_enable@1:1 nchw_copy@2:1 cmd_short@3:1 decompress_enable@4:1 cmd_id_en@5:4 cmd_id@9:20
    cmd_type@32:4 cmd_special_function@36:3 fill_constant_en@39:1 src_data_format@40:3 cmd_id_dep@64:20
    constant_value@96:32
"""

_STRIDED = """
    src_nstride@128:32 src_cstride@160:32 src_hstride@192:32 src_wstride@224:32 dst_nstride@256:32
    dst_cstride@288:32 dst_hstride@320:32 dst_wstride@352:32 src_nsize@384:16 src_csize@400:16 src_hsize@416:16
    src_wsize@432:16 dst_nsize@448:16 dst_csize@464:16 dst_hsize@480:16 dst_wsize@496:16 src_start_addr_l32@512:32
    src_start_addr_h8@544:8 dst_start_addr_l32@576:32 dst_start_addr_h8@608:8 localmem_mask_l32@704:32
    localmem_mask_h32@736:32
"""

_INDEXED = """
    src_cstride@128:32 src_hstride@160:32 dst_cstride@192:32 dst_hstride@224:32 index_cstride@256:32
    index_hstride@288:32 src_csize@336:16 src_hsize@352:32 src_wsize@384:16 dst_csize@400:16 dst_hsize@416:32
    dst_wsize@448:16 index_csize@464:16 index_hsize@480:32 src_start_addr_l32@512:32 src_start_addr_h8@544:8
    dst_start_addr_l32@576:32 dst_start_addr_h8@608:8 index_start_addr_l32@640:32 index_start_addr_h8@672:8
    localmem_mask_l32@704:32 localmem_mask_h32@736:32
"""

_MASKED = _STRIDED + "mask_data_format@43:3 mask_start_addr_l32@640:32 mask_start_addr_h8@672:32"

# Here dst_nstride is the number counting starts from.
_NONZERO = _STRIDED + "index_data_format@43:3"

# name: mnemonic, cmd_type, rows after the header, special functions. DMA_general counts its bytes in src_cstride.
_LONG: dict[str, tuple[str, int, str, type[IntEnum]]] = {
    "DMA_tensor": ("tensor", 0, _STRIDED, operations.DmaTensorOp),
    "DMA_matrix": ("matrix", 1, _STRIDED, operations.DmaMatrixOp),
    "DMA_masked_select": ("masked_select", 2, _MASKED, operations.DmaPlainOp),
    "DMA_general": ("general", 3, _STRIDED, operations.DmaGeneralOp),
    "DMA_cw_transpose": ("cw_transpose", 4, _STRIDED, operations.DmaPlainOp),
    "DMA_nonzero": ("nonzero", 5, _NONZERO, operations.DmaPlainOp),
    "DMA_gather": ("gather", 7, _INDEXED, operations.DmaPlainOp),
    "DMA_scatter": ("scatter", 8, _INDEXED, operations.DmaPlainOp),
}


def _instructions() -> tuple[Instruction, ...]:
    fixed = {"cmd_short": 1, "cmd_type": 6}
    found = [Instruction("sDMA_sys", "sys", "GDMA", 128, rows(_HEADER), fixed, operations.DmaSystemOp)]
    for name, (mnemonic, kind, body, ops) in _LONG.items():
        fixed = {"cmd_short": 0, "cmd_type": kind}
        found.append(Instruction(name, mnemonic, "GDMA", 768, rows(_HEADER + body), fixed, ops))
    return tuple(found)


GDMA_INSTRUCTIONS = _instructions()
