"""Bmodels whose commands a test writes down one by one."""

from __future__ import annotations

from collections.abc import Sequence

from tpu_deploy.codegen.bmodel import Bmodel, Coefficients, CommandGroup, Net, Stage, TensorInfo
from tpu_deploy.codegen.isa import ArithmeticOp, Precision, encode

DDR, LOCAL = 0x1_0000_0000, 0x0800_0000

LANES = 64


class Queues:
    """The two queues of a command group; bytes are those of a lane, and all 64 lanes take part."""

    def __init__(self) -> None:
        self._tiu: list[bytes] = []
        self._gdma: list[bytes] = []

    def load(self, source: int, target: int, size: int, after: int = 0) -> int:
        """Rows of `size` bytes, from global memory to each lane; the command's identifier."""
        return self._move(DDR + source, LOCAL + target, size, after)

    def store(self, source: int, target: int, size: int, after: int = 0) -> int:
        """Rows of `size` bytes, from each lane to global memory."""
        return self._move(LOCAL + source, DDR + target, size, after)

    def _move(self, source: int, target: int, size: int, after: int) -> int:
        number = len(self._gdma) + 1
        fields = {"cmd_id": number, "cmd_id_dep": after, "cmd_id_en": 1, "stride_enable": 1, "nchw_copy": 1}
        fields |= {"src_data_format": Precision.I8, "localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
        for side, address in (("src", source), ("dst", target)):
            fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
            row = -(-size // LANES) * LANES if address < DDR else size
            strides = (row * LANES if address >= DDR else row, row, size, 1)
            fields |= {f"{side}_{axis}stride": stride for axis, stride in zip("nchw", strides, strict=True)}
        fields |= {f"src_{axis}size": count for axis, count in zip("nchw", (1, LANES, 1, size), strict=True)}
        self._gdma.append(encode("DMA_tensor", fields))
        return number

    def add(self, left: int, right: int, result: int, size: int, after: int = 0) -> int:
        """The saturating sum of 8-bit rows of `size`; the command's identifier."""
        fields = {"tsk_eu_typ": ArithmeticOp.ADDS, "tsk_opd_num": 2, "opd1_addr": right}
        fields |= dict.fromkeys(("res0_prec", "opd0_prec", "opd1_prec"), int(Precision.I8))
        return self._compute("sAR", (1, LANES, 1, size), left, result, after, fields)

    def multiply(self, pixels: int, x: int, weight: int, result: int, after: int = 0) -> int:
        """A 1x1 convolution of 64 into 64 channels of 8 bits."""
        fields = {"opd1_addr": weight, "opd0_c": LANES, "opd0_h": 1, "opd0_w": pixels, "opd1_h": 1, "opd1_w": 1}
        fields |= {"opd2_const": 1, "opd3_const": 1, "res_op_y_str": 1, "res_op_x_str": 1}
        return self._compute("sCONV", (1, LANES, 1, pixels), x, result, after, fields)

    def _compute(
        self, name: str, shape: Sequence[int], left: int, result: int, after: int, fields: dict[str, int]
    ) -> int:
        number = len(self._tiu) + 1
        fields = {
            "cmd_id": number,
            "cmd_id_dep": after,
            "cmd_id_en": 1,
            "opd0_addr": left,
            "res0_addr": result,
        } | fields
        fields |= {f"res0_{axis}": count for axis, count in zip("nchw", shape, strict=True)}
        self._tiu.append(encode(name, fields))
        return number

    def group(self) -> CommandGroup:
        """The queues, each with its end."""
        tiu = [*self._tiu, encode("SYSID", {"cmd_id": len(self._tiu) + 1, "tsk_eu_typ": 31})]
        gdma = [*self._gdma, encode("sDMA_sys", {"cmd_id": len(self._gdma) + 1, "cmd_id_en": 1})]
        return CommandGroup(b"".join(tiu), b"".join(gdma), len(tiu), len(gdma))


def tensor(name: str, offset: int, size: int) -> TensorInfo:
    """Bytes of global memory as an input or output."""
    return TensorInfo(name, "int8", (size,), DDR + offset)


def bmodel(
    *queues: Queues,
    coefficients: int = 0,
    inputs: Sequence[TensorInfo] = (),
    outputs: Sequence[TensorInfo] = (),
    context: int = 1 << 20,
) -> Bmodel:
    """One stage; coefficients lie first in global memory, everything else after them."""
    held = Coefficients(DDR, bytes(coefficients)) if coefficients else None
    groups = tuple(each.group() for each in queues)
    stage = Stage(tuple(inputs), tuple(outputs), DDR + coefficients, context, held, groups)
    return Bmodel("BM1684X", (Net("made", (stage,)),))
