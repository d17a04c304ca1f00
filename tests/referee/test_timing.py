"""The cost of single commands against the vendor's own cost functions, which its chip model exports."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from tpu_deploy.codegen.timing import command_cycles
from tpu_deploy.runtime import chip_model_install

pytestmark = [
    pytest.mark.referee,
    pytest.mark.skipif(not chip_model_install.available(), reason="the vendor's chip model is not installed"),
]

CASES = 3000
"""Commands drawn of each instruction."""

# Reads [[function, argument, ...], ...] and answers [[cycles, bytes], ...]; registers and stack hold 27 arguments.
CHILD = """
import ctypes, json, sys
class Profile(ctypes.Structure):
    _fields_ = [("cycles", ctypes.c_int64), ("bytes", ctypes.c_int64), ("rest", ctypes.c_int64 * 6)]
library = ctypes.CDLL(sys.argv[1])
answers = []
for name, *arguments in json.load(sys.stdin):
    function = getattr(library, f"atomic_{name}_get_profile")
    function.restype = Profile
    filled = [*arguments, *[0] * (27 - len(arguments))]
    profile = function(*(ctypes.c_int64(value) for value in filled))
    answers.append([profile.cycles, profile.bytes])
json.dump(answers, sys.stdout)
"""

INTEGERS, FLOATS = (0, 3, 4), (1, 2, 5)
ANY = (*INTEGERS, *FLOATS)
ITEMSIZE = {0: 1, 1: 2, 2: 4, 3: 2, 4: 4, 5: 2}
DDR, LOCAL, LANE, BANK = 0x1_0000_0000, 0x0800_0000, 1 << 18, 1 << 14

Case = tuple[str, dict[str, int], list[int | str]]
Draw = Callable[[random.Random], Case]
DRAWS: dict[str, Draw] = {}


def draws(draw: Draw) -> Draw:
    DRAWS[draw.__name__] = draw
    return draw


def size(r: random.Random, most: int = 300) -> int:
    """Small numbers, powers of two and their neighbours, and anything up to `most`."""
    kind = r.randrange(4)
    if kind == 0:
        return r.randint(1, 8)
    if kind == 1:
        return min(most, max(1, (1 << r.randrange(10)) + r.randint(-1, 1)))
    return r.randint(1, most)


def address(r: random.Random, lane: bool = True) -> int:
    """A place in local memory, often one of few."""
    start = r.randrange(64) * LANE if lane and not r.randrange(3) else 0
    return start + r.choice((0, 64, BANK, BANK + 64, r.randrange(LANE // 64) * 64))


def result(r: random.Random) -> dict[str, int]:
    shape = {"res0_n": r.randint(1, 4), "res0_c": size(r), "res0_h": size(r, 120), "res0_w": size(r, 120)}
    return shape | {"res0_addr": address(r)}


def read(fields: dict[str, int], names: str) -> list[int]:
    return [fields[name] for name in names.split()]


@draws
def conv(r):
    fields = result(r) | {"opd0_c": size(r), "opd1_h": r.randint(1, 15), "opd1_w": r.randint(1, 15)}
    fields["opd0_prec"] = r.choice(ANY)
    names = "res0_n res0_c res0_h res0_w opd0_c opd1_h opd1_w opd0_prec"
    return r.choice(("sCONV", "CONV")), fields, ["conv", *read(fields, names)]


@draws
def pool_or_depthwise(r):
    fields = result(r) | {"opd1_h": r.randint(1, 9), "opd1_w": r.randint(1, 9), "res0_prec": r.choice(ANY)}
    fields |= {"res_op_y_str": r.randint(1, 3), "res_op_x_str": r.randint(1, 3), "tsk_eu_typ": r.choice((0, 1, 2, 4))}
    names = "res0_n res0_c res0_h res0_w opd1_h opd1_w res_op_y_str res_op_x_str tsk_eu_typ res0_addr res0_prec"
    return "sPorD", fields, ["pool_depthwise", *read(fields, names)]


@draws
def matrix_product(r):
    fields = {"opd0_n": size(r), "opd0_c": size(r, 64), "opd0_w": size(r, 128), "opd1_w": size(r, 128)}
    fields |= {"res0_c": size(r), "res0_w": size(r), "res0_addr": address(r), "opd0_prec": r.choice((0, 2, 3, 4))}
    fields |= {"opd2_const": r.randrange(2), "opd2_addr": r.choice((0, 64)), "res_add": r.randrange(2)}
    integer = fields["opd0_prec"] in INTEGERS
    bias = int(not fields["opd2_const"] and (not integer or fields["opd2_addr"] != 0))
    sizes = read(fields, "opd0_n res0_c res0_w opd1_w opd0_c opd0_w opd0_n opd0_prec res0_addr")
    return "sMM", fields, ["mm", *sizes, bias, 0, fields["res_add"]]


@draws
def matrix_product_on_lanes(r):
    fields = {"res0_c": size(r), "res0_w": size(r), "opd1_c": size(r, 3000), "opd1_w": size(r, 3000)}
    fields |= {"tsk_eu_typ": r.choice((4, 5, 6)), "opd0_prec": r.choice((0, 1, 5))}
    return "sMM2", fields, ["mm2", *read(fields, "res0_c res0_w opd1_c opd1_w tsk_eu_typ opd0_prec"), 0]


def strides(r: random.Random, operand: str, h: int, w: int) -> dict[str, int]:
    layout = r.choice((0, 0, 1, 3, 3, 3))
    h_stride = r.choice((0, 1, w, w + r.randint(1, 70), max(1, w - r.randint(1, 20)), r.randint(1, 4) * 16, w * 2))
    w_stride = r.choice((0, 1, 1, 1, 2, 3, h, r.randint(2, 100)))
    return {f"{operand}_str": layout, f"{operand}_h_str": h_stride, f"{operand}_w_str": w_stride}


@draws
def arithmetic(r):
    fields = result(r)
    for operand in ("res0", "opd0", "opd1"):
        fields |= strides(r, operand, fields["res0_h"], fields["res0_w"])
        fields[f"{operand}_prec"] = r.choice(ANY)
    fields |= {"opd0_const": int(r.random() < 0.2), "opd1_const": int(r.random() < 0.3), "tsk_eu_typ": r.randint(0, 30)}
    for operand in ("opd0", "opd1"):
        fields[f"{operand}_addr"] = r.choice((fields["res0_addr"], fields["res0_addr"] + 64, address(r)))
    if fields["tsk_eu_typ"] == 17:
        fields["tsk_eu_typ"] = 12
    iterations = 0
    if fields["tsk_eu_typ"] == 12:
        fields["opd2_n_str"] = r.randrange(4)
        iterations = fields["opd2_n_str"] + 1
    places = [-1 if fields[f"{operand}_const"] else fields[f"{operand}_addr"] for operand in ("opd0", "opd1")]
    steps = "res0_h_str res0_w_str res0_str opd0_h_str opd0_w_str opd0_str opd1_h_str opd1_w_str opd1_str"
    arguments = read(fields, f"res0_n res0_c res0_h res0_w {steps}")
    arguments += [*places, *read(fields, "res0_addr opd0_prec opd1_prec res0_prec"), iterations, fields["tsk_eu_typ"]]
    return r.choice(("sAR", "AR")), fields, ["ar", *arguments]


@draws
def requantize(r):
    fields = result(r) | {"opd0_addr": address(r), "opd1_addr": address(r)}
    names = "opd0_addr opd1_addr res0_addr res0_n res0_c res0_h res0_w"
    return "sRQ_sDQ", fields, ["rqdq", *read(fields, names)]


@draws
def compare(r):
    fields = result(r) | {"opd0_prec": r.choice(ANY)}
    return "sCMP", fields, ["fused_cmp", *read(fields, "res0_n res0_c res0_h res0_w opd0_prec res0_addr")]


@draws
def special_function(r):
    fields = result(r) | {"opd0_prec": r.choice((1, 2, 5)), "opd1_n": r.randint(1, 20)}
    fields["tsk_eu_typ"] = r.choice((12, 13, 15, 17))
    names = "res0_n res0_c res0_h res0_w tsk_eu_typ opd0_prec opd1_n res0_addr"
    return "sSFU", fields, ["sfu", *read(fields, names)]


@draws
def linear(r):
    fields = result(r) | {"res0_prec": r.choice(FLOATS)}
    return "sLIN", fields, ["fused_linear", *read(fields, "res0_n res0_c res0_h res0_w res0_prec res0_addr")]


@draws
def every_pair(r):
    fields = {"res0_c": size(r), "res0_w": size(r), "opd0_c": size(r, 9), "opd0_w": size(r, 64)}
    fields |= {"res0_addr": address(r), "opd1_w": r.randint(1, fields["opd0_w"])}
    fields |= {f"{operand}_prec": r.choice(ANY) for operand in ("opd0", "opd1", "res0")}
    rows = (fields["opd0_c"] - 1) * fields["opd0_w"] + fields["opd1_w"]
    arguments = [rows, fields["res0_c"], 1, *read(fields, "res0_w res0_addr opd0_prec opd1_prec res0_prec")]
    return "sVC", fields, ["vec_corr", *arguments]


@draws
def transpose_or_broadcast(r):
    fields = result(r) | {"opd0_c": size(r), "opd0_w": size(r), "opd0_addr": address(r), "res0_prec": r.choice(ANY)}
    operation = fields["tsk_eu_typ"] = r.randrange(6)
    if operation < 2:
        arguments = ["cw_trans", *read(fields, "res0_n opd0_c res0_h opd0_w res0_prec tsk_eu_typ")]
    elif operation < 4:
        names = "res0_n opd0_c res0_c res0_h res0_w res0_prec opd0_addr res0_addr"
        arguments = ["lane_bc", *read(fields, names)]
    elif operation == 4:
        arguments = ["static_bc", *read(fields, "res0_c res0_w res0_prec")]
    else:
        arguments = ["dis_bc", *read(fields, "res0_c res0_prec")]
    return "sTRANS_sBC", fields, arguments


@draws
def search(r):
    fields = result(r) | {"opd1_c": size(r, 3000), "opd1_w": size(r, 3000), "res0_prec": r.choice(ANY)}
    operation = fields["tsk_eu_typ"] = r.choice((*range(11), 13, 14, 15, 16))
    elements = fields["opd1_c" if operation in (0, 1, 2, 3, 4, 9, 10) else "opd1_w"]
    arguments = [*read(fields, "res0_n res0_c"), elements, 0, *read(fields, "tsk_eu_typ res0_prec res0_addr")]
    return "sSG", fields, ["sg", *arguments]


@draws
def search_lines(r):
    fields = result(r) | {"opd0_h": size(r), "res0_prec": r.choice(ANY), "tsk_eu_typ": r.choice((17, 18))}
    lines = fields["res0_h" if fields["tsk_eu_typ"] == 17 else "opd0_h"]
    arguments = [*read(fields, "res0_n res0_c res0_w"), lines, *read(fields, "tsk_eu_typ res0_prec res0_addr")]
    return "sSGL", fields, ["sgl", *arguments]


def place(r: random.Random) -> tuple[int, bool]:
    """An address as the GDMA sees it, and whether it lies in local memory."""
    if r.randrange(2):
        return LOCAL + address(r), True
    return r.choice((DDR, 0x1000_0000)) + r.randrange(1 << 20) * 64, False


def transfer(r: random.Random) -> tuple[dict[str, int], list[int], int]:
    """Addresses and format as fields and as the vendor counts them: source, target, format; and the direction."""
    source, from_local = place(r)
    target, to_local = place(r)
    code = r.choice(ANY)
    fields = {"src_start_addr_l32": source & 0xFFFFFFFF, "src_start_addr_h8": source >> 32, "src_data_format": code}
    fields |= {"dst_start_addr_l32": target & 0xFFFFFFFF, "dst_start_addr_h8": target >> 32}
    direction = {(False, True): 0, (True, False): 1, (False, False): 2, (True, True): 3}[from_local, to_local]
    return fields, [source, target, code], direction


def sizes(r: random.Random, side: str = "src") -> dict[str, int]:
    """A shape of less than 2^31 bytes, beyond which the vendor's functions overflow."""
    most = r.choice((4, 70, 300))
    shape = r.randint(1, 4), size(r, most), size(r, most), r.choice((size(r, most), size(r, 5000)))
    if math.prod(shape) >= 1 << 29:
        return sizes(r, side)
    return {f"{side}_{axis}size": value for axis, value in zip("nchw", shape, strict=True)}


def steps(r: random.Random, side: str, shape: list[int]) -> dict[str, int]:
    """Dense strides, padded ones, those of another order of the axes, pages, or anything."""
    n, c, h, w = shape
    pad = -(-h * w // 64) * 64
    kinds = [(c * h * w, h * w, w, 1), (-(-c // 64) * pad, pad, w, 1), (h * w * c, 1, w * c, c)]
    kinds += [(1, n * h * w, n * w, n), (4096 * r.randint(0, 4), 1024 * r.randint(0, 9), w, 1)]
    kinds += [(r.randrange(20000), r.randrange(6000), r.randint(1, 2 * w + 2), r.choice((1, 1, 1, 2, 5)))]
    kinds += [(c * h * (w + 9), h * (w + 9), w + 9, 1)]
    return dict(zip((f"{side}_{axis}stride" for axis in "nchw"), r.choice(kinds), strict=True))


@draws
def move(r):
    fields, ends, direction = transfer(r)
    fields |= sizes(r) | {"stride_enable": int(r.random() < 0.9), "cmd_special_function": r.choice((0, 0, 0, 1, 2, 4))}
    shape = read(fields, "src_nsize src_csize src_hsize src_wsize")
    fields |= steps(r, "src", shape) | steps(r, "dst", shape)
    both = [f"{side}_{axis}stride" for axis in "whcn" for side in ("src", "dst")]
    arguments = [*shape, *ends, direction, fields["cmd_special_function"], 3, *read(fields, " ".join(both))]
    return "DMA_tensor", fields, ["gdma_tensor", *arguments, fields["stride_enable"]]


@draws
def fill(r):
    fields, ends, _ = transfer(r)
    fields |= sizes(r, "dst") | {"fill_constant_en": 1, "stride_enable": r.randrange(2)}
    shape = read(fields, "dst_nsize dst_csize dst_hsize dst_wsize")
    fields |= steps(r, "dst", shape)
    strides = read(fields, "dst_wstride dst_hstride dst_cstride dst_nstride")
    return "DMA_tensor", fields, ["gdma_constant", *shape, 0, *ends[1:], 0, fields["stride_enable"], *strides, 1]


@draws
def broadcast(r):
    fields, ends, direction = transfer(r)
    while direction not in (0, 3):
        fields, ends, direction = transfer(r)
    fields |= sizes(r) | {"cmd_special_function": 3, "stride_enable": 1, "dst_csize": r.randint(1, 64)}
    fields |= {f"{side}_hstride": r.choice((fields["src_wsize"], size(r))) for side in ("src", "dst")}
    shape = read(fields, "src_nsize src_hsize src_wsize dst_csize")
    arguments = [*shape, *ends, direction, 1, 1, *read(fields, "src_hstride dst_hstride")]
    return "DMA_tensor", fields, ["gdma_broadcast", *arguments]


@draws
def matrix(r):
    fields, ends, direction = transfer(r)
    rows, columns, in_lane = size(r, 5000), size(r, 5000), size(r, 600)
    special = fields["cmd_special_function"] = r.randrange(2)
    into = direction in (0, 3)
    outside, inside = ("src", "dst") if into else ("dst", "src")
    fields |= {f"{outside}_hsize": rows, f"{outside}_wsize": columns, f"{inside}_wsize": in_lane}
    return "DMA_matrix", fields, ["gdma_matrix", rows, columns, in_lane, *ends, int(not into), special]


@draws
def cw_transpose(r):
    fields, ends, direction = transfer(r)
    fields |= sizes(r)
    shape = read(fields, "src_nsize src_csize src_hsize src_wsize")
    return "DMA_cw_transpose", fields, ["gdma_cw_trans", *shape, *ends, direction]


@draws
def masked_select(r):
    _, fields, (_, *arguments) = cw_transpose(r)
    return "DMA_masked_select", fields, ["gdma_masked_sel", *arguments]


@draws
def nonzero(r):
    fields, (source, target, code), direction = transfer(r)
    fields |= sizes(r) | {"index_data_format": r.choice(ANY)}
    shape = read(fields, "src_nsize src_csize src_hsize src_wsize")
    arguments = [*shape, source, target, code, fields["index_data_format"], direction]
    return "DMA_nonzero", fields, ["gdma_nonzero", *arguments]


@draws
def gather(r):
    fields, ends, direction = transfer(r)
    fields |= {"src_csize": size(r), "src_hsize": size(r), "src_wsize": size(r), "index_hsize": size(r, 5000)}
    arguments = [*read(fields, "src_csize src_hsize src_wsize index_hsize"), *ends, direction]
    return "DMA_gather", fields, ["gdma_gather", *arguments]


@draws
def scatter(r):
    fields, ends, direction = transfer(r)
    fields |= {"src_csize": size(r), "src_hsize": size(r, 5000), "src_wsize": size(r), "dst_hsize": size(r)}
    arguments = [*read(fields, "src_csize src_hsize src_wsize dst_hsize"), *ends, direction]
    return "DMA_scatter", fields, ["gdma_scatter", *arguments]


@draws
def general(r):
    fields, (source, target, code), _ = transfer(r)
    fields["src_cstride"] = r.choice((size(r), r.randrange(1, 1 << 28)))
    return "DMA_general", fields, ["gdma_general", fields["src_cstride"], source, target, code]


def judged(requests: list[list[int | str]]) -> list[list[int]]:
    """Cycles and bytes of each request by the vendor's functions, in a process of their own."""
    folder = chip_model_install.libraries()
    assert folder is not None
    command = [sys.executable, "-c", CHILD, str(folder / chip_model_install.CHIP_MODEL_LINK)]
    answered = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=False)
    assert answered.returncode == 0, (answered.stdout + answered.stderr)[-500:]
    return json.loads(answered.stdout)


@pytest.mark.parametrize("kind", DRAWS)
def test_every_command_costs_exactly_what_the_vendor_counts(kind):
    r = random.Random(kind)
    cases = [DRAWS[kind](r) for _ in range(CASES)]
    expected = judged([request for _, _, request in cases])
    for (name, fields, request), (cycles, moved) in zip(cases, expected, strict=True):
        cost = command_cycles(name, fields)
        assert cost.cycles == cycles, (name, fields, request)
        assert not name.startswith("DMA") or cost.bytes == moved, (name, fields, request)


def test_the_vendor_counts_nothing_for_a_row_stride_of_zero_which_is_why_we_do_not_follow():
    shape, strides = [1, 64, 1, 309], [1, 1, 0, 309, 2352, 320, 0, 320]
    ((cycles, _),) = judged([["gdma_tensor", *shape, DDR, LOCAL, 0, 0, 0, 3, *strides, 1]])
    assert cycles == 0
    names = [f"{side}_{axis}stride" for axis in "whcn" for side in ("src", "dst")]
    fields = dict(zip(names, strides, strict=True)) | {"stride_enable": 1, "src_start_addr_h8": 1}
    fields |= {f"src_{axis}size": value for axis, value in zip("nchw", shape, strict=True)}
    cost = command_cycles("DMA_tensor", fields | {"dst_start_addr_l32": LOCAL})
    assert cost.cycles > 64 * 309 / 58 and cost.estimated
