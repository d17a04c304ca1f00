"""Single instructions on the simulator, against their meaning spelled out element by element."""

from typing import Any

import numpy as np
import pytest

from tpu_deploy.codegen.isa import encode
from tpu_deploy.codegen.isa.encoding import _commands
from tpu_deploy.runtime.simulator.machine import execute, prepare
from tpu_deploy.runtime.simulator.memory import Memories

Array = np.ndarray[Any, Any]
I8, F32, I16, I32 = 0, 2, 3, 4


class Machine:
    """Local memory with tensors put and taken channel by channel."""

    def __init__(self) -> None:
        self.memory = Memories()
        self.lanes = self.memory.local.reshape(64, -1)

    def places(self, shape: tuple[int, ...], offset: int, itemsize: int, step: int) -> Any:
        n, c, h, w = shape
        for i in range(n):
            for j in range(c):
                yield i, j, j % 64, offset + (i * -(-c // 64) + j // 64) * step, h * w * itemsize

    def put(self, array: Array, offset: int, compact: bool = False) -> None:
        size = array.shape[2] * array.shape[3] * array.itemsize
        step = size if compact else -(-size // 64) * 64
        for i, j, lane, start, length in self.places(array.shape, offset, array.itemsize, step):
            self.lanes[lane, start : start + length] = np.ascontiguousarray(array[i, j]).view(np.uint8).reshape(-1)

    def take(self, shape: tuple[int, ...], dtype: Any, offset: int) -> Array:
        found = np.zeros(shape, dtype)
        step = -(-shape[2] * shape[3] * found.itemsize // 64) * 64
        for i, j, lane, start, length in self.places(shape, offset, found.itemsize, step):
            found[i, j] = self.lanes[lane, start : start + length].view(dtype).reshape(shape[2:])
        return found

    def run(self, name: str, shape: tuple[int, ...], **fields: int) -> None:
        dims = {f"res0_{axis}": size for axis, size in zip("nchw", shape, strict=True)} if len(shape) == 4 else {}
        encoded = encode(name, {"cmd_id": 1, "cmd_id_en": 1} | dims | fields)
        execute(prepare(next(iter(_commands(memoryview(encoded), "TIU")))), self.memory)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def packed(weights: Array) -> Array:
    """(1, oc, 1, bytes): input channels in blocks of 64 around the taps; the rest of the last block is noise."""
    oc, ic, kh, kw = weights.shape
    blocks = -(-ic // 64)
    filled = np.full((oc, blocks * 64, kh * kw), 77, weights.dtype)
    filled[:, :ic] = weights.reshape(oc, ic, -1)
    return filled.reshape(oc, blocks, 64, -1).transpose(0, 1, 3, 2).reshape(1, oc, 1, -1)


@pytest.mark.parametrize("ic, oc, zero_point", [(3, 5, 0), (70, 66, -7), (64, 64, 0)])
def test_convolution_is_the_sum_over_taps_and_channels(machine, rng, ic, oc, zero_point):
    x = rng.integers(0, 256, (2, ic, 6, 7)).astype(np.uint8)
    w = rng.integers(-128, 128, (oc, ic, 3, 2)).astype(np.int8)
    machine.put(x, 0)
    machine.put(packed(w), 0x4000, compact=True)
    window = {"opd1_h": 3, "opd1_w": 2, "res_op_y_str": 2, "res_op_x_str": 3, "opd1_y_ins0": 1}
    window |= {"opd0_up_pad": 2, "opd0_dn_pad": 1, "opd0_lf_pad": 1}
    shape = (2, oc, (6 + 3 - 5) // 2 + 1, (7 + 1 - 2) // 3 + 1)
    constants = {"opd2_const": 1, "opd2_addr": zero_point & 0xFF, "opd2_sign": 1, "opd3_const": 1, "opd3_addr": 200}
    types = {"opd1_sign": 1, "res0_prec": I32, "opd0_c": ic, "opd0_h": 6, "opd0_w": 7}
    machine.run("sCONV", shape, **window, **constants, **types, opd1_addr=0x4000, res0_addr=0x20000)
    padded = np.full((2, ic, 9, 8), 200, np.int64)
    padded[:, :, 2:8, 1:] = x
    expected = np.zeros(shape, np.int64)
    for i in range(3):
        for j in range(2):
            met = padded[:, :, 2 * i : 2 * i + 2 * shape[2] - 1 : 2, j : j + 3 * shape[3] - 2 : 3]
            expected += np.einsum("nchw,oc->nohw", met, w[:, :, i, j].astype(np.int64) - zero_point)
    assert np.array_equal(machine.take(shape, np.int32, 0x20000), expected)


def test_convolution_can_add_to_its_result(machine, rng):
    x, w = rng.integers(-128, 128, (1, 64, 3, 3)).astype(np.int8), np.full((64, 64, 1, 1), 2, np.int8)
    before = rng.integers(-1000, 1000, (1, 64, 3, 3)).astype(np.int32)
    machine.put(x, 0)
    machine.put(packed(w), 0x1000, compact=True)
    machine.put(before, 0x2000)
    fields = {"opd0_c": 64, "opd0_h": 3, "opd0_w": 3, "opd1_h": 1, "opd1_w": 1, "res_op_y_str": 1, "res_op_x_str": 1}
    fields |= {"opd0_sign": 1, "opd1_sign": 1, "opd2_const": 1, "opd3_const": 1, "res0_prec": I32, "res_add": 1}
    machine.run("sCONV", (1, 64, 3, 3), **fields, opd1_addr=0x1000, res0_addr=0x2000)
    expected = before + 2 * x.astype(np.int32).sum(axis=1, keepdims=True)
    assert np.array_equal(machine.take((1, 64, 3, 3), np.int32, 0x2000), expected)


@pytest.mark.parametrize("operation, combine", [(4, np.max), (1, np.sum)])
def test_pools_combine_their_windows(machine, rng, operation, combine):
    x = rng.integers(-128, 128, (1, 70, 5, 6)).astype(np.int8)
    machine.put(x, 0)
    result = I32 if operation == 1 else I8
    fields = {"tsk_eu_typ": operation, "res0_prec": result, "opd0_sign": 1, "opd0_h": 5, "opd0_w": 6}
    fields |= {"opd1_h": 2, "opd1_w": 3, "res_op_y_str": 1, "res_op_x_str": 3, "opd1_const": 1, "opd1_addr": 1}
    machine.run("sPorD", (1, 70, 4, 2), **fields, opd2_const=1, opd3_const=1, res0_addr=0x2000)
    expected = np.array([[combine(x[:, :, i : i + 2, j : j + 3], axis=(2, 3)) for j in (0, 3)] for i in range(4)])
    found = machine.take((1, 70, 4, 2), np.int32 if operation == 1 else np.int8, 0x2000)
    assert np.array_equal(found, expected.transpose(2, 3, 0, 1))


def test_requantization_multiplies_shifts_adds_and_saturates(machine, rng):
    x = rng.integers(-(2**31), 2**31, (1, 70, 2, 3)).astype(np.int32)
    table = np.zeros((1, 70, 1, 16), np.int32)
    table[0, :, 0, 0] = rng.integers(-(2**31), 2**31, 70)
    table[0, :, 0, 1] = -rng.integers(40, 60, 70)
    table[0, :, 0, 2] = rng.integers(-20, 20, 70)
    machine.put(x, 0)
    machine.put(table, 0x1000)
    fields = {"tsk_eu_typ": 1, "opd0_prec": I32, "opd0_sign": 1, "opd2_sign": 1, "opd2_n_str": 5}
    machine.run("sRQ_sDQ", (1, 70, 2, 3), **fields, opd1_addr=0x1000, res0_addr=0x2000)
    multiplier, shift, zero = (table[0, :, 0, k].reshape(1, 70, 1, 1).astype(object) for k in range(3))
    scaled = (x.astype(object) * multiplier + 2 ** (-shift - 1)) // 2**-shift + zero
    assert np.array_equal(machine.take((1, 70, 2, 3), np.int8, 0x2000), np.clip(scaled, -128, 127).astype(int))


def test_saturating_products_take_a_rounding_shift(machine, rng):
    a, b = (rng.integers(-128, 128, (1, 64, 2, 5)).astype(np.int8) for _ in range(2))
    machine.put(a, 0)
    machine.put(b, 0x1000)
    fields = {"tsk_eu_typ": 20, "tsk_opd_num": 3, "opd0_sign": 1, "opd1_sign": 1, "opd2_sign": 1, "opd2_n_str": 5}
    fields |= {"opd2_const": 1, "opd2_addr": -3 & 0xFF}
    machine.run("sAR", (1, 64, 2, 5), **fields, opd1_addr=0x1000, res0_addr=0x2000)
    expected = np.clip((a.astype(int) * b + 4) >> 3, -128, 127)
    assert np.array_equal(machine.take((1, 64, 2, 5), np.int8, 0x2000), expected)


def test_tables_are_looked_up_by_the_raw_byte(machine, rng):
    x = rng.integers(-128, 128, (1, 70, 1, 30)).astype(np.int8)
    table = rng.integers(-128, 128, 256).astype(np.int8)
    machine.put(x, 0x4000)
    machine.lanes[:, :256] = table.view(np.uint8)
    fields = {"tsk_eu_typ": 5, "opd0_str": 3, "opd0_h": 1, "opd0_w": 256, "opd1_c": 70, "opd1_w": 30}
    machine.run("sSG", (1, 70, 1, 30), **fields, opd1_addr=0x4000, res0_addr=0x8000)
    assert np.array_equal(machine.take((1, 70, 1, 30), np.int8, 0x8000), table[x.view(np.uint8)])


def test_matrices_of_rows_multiply_in_all_three_arrangements(machine, rng):
    left, right = rng.integers(-128, 128, (70, 33)), rng.integers(-128, 128, (33, 20))
    stored = {4: (left, right), 5: (left, right.T), 6: (left.T, right.T)}
    for operation, (first, second) in stored.items():
        machine.put(first.astype(np.int8)[None, :, None], 0)
        machine.put(second.astype(np.int8)[None, :, None], 0x1000)
        product = (left @ right).T if operation == 6 else left @ right
        fields = {"tsk_eu_typ": operation, "res0_prec": I32, "opd0_sign": 1, "opd1_sign": 1, "opd2_const": 1}
        fields |= {
            "res0_c": product.shape[0],
            "res0_w": product.shape[1],
            "opd1_c": second.shape[0],
            "opd1_w": second.shape[1],
        }
        machine.run("sMM2", (), **fields, opd1_addr=0x1000, res0_addr=0x2000)
        found = machine.take((1, product.shape[0], 1, product.shape[1]), np.int32, 0x2000)
        assert np.array_equal(found[0, :, 0], product), operation


def test_dequantization_subtracts_the_zero_point_and_scales_once(machine, rng):
    x = rng.integers(0, 256, (1, 64, 1, 9)).astype(np.uint8)
    machine.put(x, 0)
    scale = np.float32(0.0371)
    fields = {
        "tsk_eu_typ": 3,
        "res0_prec": F32,
        "opd1_const": 1,
        "opd1_addr": 131,
        "opd2_addr": int(scale.view(np.uint32)),
    }
    machine.run("sRQ_sDQ", (1, 64, 1, 9), **fields, res0_addr=0x1000)
    expected = (x.astype(np.int32) - 131).astype(np.float32) * scale
    assert np.array_equal(machine.take((1, 64, 1, 9), np.float32, 0x1000), expected)
