"""Small bmodels: y = x + constant in float32, for any number of stages."""

from collections.abc import Callable

import numpy as np
import pytest

from tpu_deploy.codegen.bmodel import Bmodel, Coefficients, CommandGroup, Net, Stage, TensorInfo
from tpu_deploy.codegen.isa import ArithmeticOp, Precision, encode

DDR, LOCAL = 0x1_0000_0000, 0x0800_0000
AddStage = Callable[..., Stage]


def up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def transfer(number: int, after: int, shape: tuple[int, ...], source: tuple, target: tuple) -> bytes:
    fields = {"cmd_id": number, "cmd_id_dep": after, "cmd_id_en": 1, "stride_enable": 1, "nchw_copy": 1}
    fields |= {"src_data_format": Precision.F32, "localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
    for side, (address, strides) in (("src", source), ("dst", target)):
        fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields |= {f"{side}_{axis}stride": stride for axis, stride in zip("nchw", strides, strict=True)}
    fields |= {f"src_{axis}size": size for axis, size in zip("nchw", shape, strict=True)}
    return encode("DMA_tensor", fields)


def add_stage(constant: np.ndarray, ctx_size: int = 0, long_form: bool = False) -> Stage:
    """A stage that adds the constant, in the short or the long form of the instruction."""
    shape = constant.shape
    _, c, h, w = shape
    room = up(constant.nbytes, 4096)
    ctx = DDR + room
    dense = (c * h * w, h * w, w, 1)
    lane = (up(c, 64) // 64 * up(h * w, 16), up(h * w, 16), w, 1)
    gdma = transfer(1, 0, shape, (ctx, dense), (LOCAL, lane))
    gdma += transfer(2, 0, shape, (DDR, dense), (LOCAL + 0x8000, lane))
    gdma += transfer(3, 1, shape, (LOCAL + 0x10000, lane), (ctx + room, dense))
    gdma += encode("sDMA_sys", {"cmd_id": 4, "cmd_id_en": 1})
    fields = {"cmd_id": 1, "cmd_id_dep": 2, "cmd_id_en": 1, "tsk_eu_typ": ArithmeticOp.ADD, "tsk_opd_num": 2}
    fields |= {f"{operand}_prec": Precision.F32 for operand in ("res0", "opd0", "opd1")}
    fields |= {"opd0_sign": 1, "opd1_sign": 1, "res0_addr": 0x10000, "opd1_addr": 0x8000}
    fields |= {f"res0_{axis}": size for axis, size in zip("nchw", shape, strict=True)}
    add = encode("AR", fields | {"tsk_lane_num": (1 << 64) - 1}) if long_form else encode("sAR", fields)
    tiu = add + encode("SYSID", {"cmd_id": 2, "tsk_eu_typ": 31})
    return Stage(
        inputs=(TensorInfo("x", "float32", shape, ctx),),
        outputs=(TensorInfo("y", "float32", shape, ctx + room),),
        ctx_addr=ctx,
        ctx_size=max(ctx_size, 2 * room),
        coefficients=Coefficients(DDR, constant.tobytes()),
        groups=(CommandGroup(tiu, gdma, 2, 4),),
    )


@pytest.fixture
def constants() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 70, 9, 13), (1, 70, 9, 13), (1, 5, 4, 4))]


@pytest.fixture
def add_model(constants: list[np.ndarray]) -> Bmodel:
    """Two nets: `add` with two stages, `add_long` with the long form of the instruction."""
    stages = (add_stage(constants[0]), add_stage(constants[1]))
    return Bmodel("BM1684X", (Net("add", stages), Net("add_long", (add_stage(constants[2], long_form=True),))))
