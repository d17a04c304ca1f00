"""The memories of the BM1684X as addresses in commands name them."""

from tpu_deploy.codegen.isa.instruction import Engine

LANES = 64
LANE_BYTES = 0x4_0000
STATIC_BYTES = 0x4000
L2_BYTES = 0x20_0000

TIU_LOCAL = 0
GDMA_LOCAL = 0x0800_0000
STATIC = 0x0900_0000
L2 = 0x1000_0000
DDR = 0x1_0000_0000


def place_name(engine: Engine, address: int) -> str:
    """The address as memory and offset: "lane3+0x1000", "DDR+0x0", "L2+0x40", "static+0x5c0", else the bare number."""
    local = TIU_LOCAL if engine == "TIU" else GDMA_LOCAL
    if local <= address < local + LANES * LANE_BYTES:
        lane, offset = divmod(address - local, LANE_BYTES)
        return f"lane{lane}+{offset:#x}"
    for name, base, size in (("static", STATIC, STATIC_BYTES), ("L2", L2, L2_BYTES), ("DDR", DDR, 1 << 40)):
        if base <= address < base + size:
            return f"{name}+{address - base:#x}"
    return f"{address:#x}"
