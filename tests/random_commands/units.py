"""Random commands of the other units: requantization, matrices, lanes, tables, functions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from random_commands.case import (
    BANKED_WINDOW,
    BF16,
    F16,
    F32,
    I8,
    I16,
    I32,
    INTEGERS,
    LANE_WINDOW,
    Arena,
    Case,
    Rng,
    aligned_bytes,
    at,
    chance,
    family,
    fitting,
    float_bits,
    pick,
    plain_constant,
    random_bits,
    rows_of,
    shape,
    small_dims,
)
from tpu_deploy.codegen.isa import Precision
from tpu_deploy.codegen.isa.addresses import STATIC
from tpu_deploy.codegen.isa.operations import (
    CompareOp,
    LinearOp,
    Matrix2Op,
    MatrixOp,
    RequantOp,
    SearchGatherOp,
    SfuOp,
    TransposeOp,
)


def _scaling(
    rng: Rng,
    operation: RequantOp,
    x: Precision,
    y: Precision,
    columns: list[Any],
    packed: Callable[..., dict[str, int]],
) -> Case:
    """`columns` make 32-bit words of a table, `packed` the fields of a constant from one word each."""

    def attempt() -> tuple[Case, Arena]:
        dims, lane, arena = small_dims(rng), pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW)
        fields = shape("res0", dims) | {"tsk_eu_typ": operation, "opd0_prec": x, "res0_prec": y}
        fields |= {"opd0_addr": at(lane, arena.take(aligned_bytes(dims, x, lane)))}
        fields |= {"res0_addr": at(lane, arena.take(aligned_bytes(dims, y, lane)))}
        fields |= {"opd0_sign": 1 if x == I32 else chance(rng, 0.5), "opd2_sign": chance(rng, 0.5)}
        words = [np.ascontiguousarray(column(64)).view(np.uint32) for column in columns]
        if chance(rng, 0.4):
            return Case("sRQ_sDQ", fields | packed(*(int(word[0]) for word in words)) | {"opd1_const": 1}), arena
        offset = arena.take(64 * rows_of(dims[1], lane))
        slot = np.stack(words, axis=1).view(np.uint8)
        rows = [(offset + 64 * row, slot) for row in range(rows_of(dims[1], lane))]
        return Case("sRQ_sDQ", fields | {"opd1_addr": at(lane, offset)}, rows=rows), arena

    return fitting(attempt)


@family
def requantization(rng: Rng) -> Case:
    wide = rng.random() < 0.5
    limit = 2**31 if wide else 1000
    columns = [
        lambda count: rng.integers(-limit, limit, count).astype(np.int32),
        lambda count: -(rng.integers(20, 63, count) if wide else rng.integers(-3, 30, count)).astype(np.int32),
        lambda count: rng.integers(-40000, 40000, count).astype(np.int32),
    ]
    case = _scaling(
        rng,
        RequantOp.RQ_INT,
        Precision(pick(rng, I32, I32, I16)),
        Precision(pick(rng, I8, I16)),
        columns,
        lambda multiplier, shift, zero: {"opd1_addr": multiplier, "opd2_addr": shift & 0xFF | (zero & 0xFFFF) << 16},
    )
    case.fields["opd2_n_str"] = int(rng.integers(7))
    return case


@family
def requantization_by_floats(rng: Rng) -> Case:
    columns = [
        lambda count: (10.0 ** rng.uniform(-8, -2, count)).astype(np.float32),
        lambda count: (rng.integers(-4000, 4000, count) / 8).astype(np.float32),
    ]
    types = Precision(pick(rng, I32, I16)), Precision(pick(rng, I8, I16))
    case = _scaling(rng, RequantOp.RQ_FLOAT, *types, columns, lambda s, z: {"opd1_addr": s, "opd2_addr": z})
    case.fields["opd2_n_str"] = int(rng.integers(5)) << 3
    return case


@family
def dequantization(rng: Rng) -> Case:
    columns = [
        lambda count: rng.integers(-40000, 40000, count).astype(np.int32),
        lambda count: (10.0 ** rng.uniform(-6, 3, count)).astype(np.float32),
    ]
    x = Precision(pick(rng, I8, I16))
    return _scaling(rng, RequantOp.DQ_FLOAT, x, F32, columns, lambda z, s: {"opd1_addr": z, "opd2_addr": s})


def _matrix_of_rows(rng: Rng, precision: Precision, result: Precision) -> Case:
    def attempt() -> tuple[Case, Arena]:
        m, k, n = (pick(rng, 1, 3, 17, 64, 65, 100) for _ in range(3))
        operation, arena = Matrix2Op(pick(rng, *Matrix2Op)), Arena(LANE_WINDOW)
        shapes = {
            Matrix2Op.NN: ((m, k), (k, n), (m, n)),
            Matrix2Op.NT: ((m, k), (n, k), (m, n)),
            Matrix2Op.TT: ((k, m), (n, k), (n, m)),
        }
        left, right, product = shapes[operation]
        places = [
            arena.take(aligned_bytes((1, rows, 1, columns), elements, 0))
            for (rows, columns), elements in ((left, precision), (right, precision), (product, result))
        ]
        fields = dict(zip(("opd0_addr", "opd1_addr", "res0_addr"), places, strict=True))
        fields |= {"tsk_eu_typ": operation, "opd0_prec": precision, "res0_prec": result, "opd2_const": 1}
        fields |= {"res0_c": product[0], "res0_w": product[1], "opd1_c": right[0], "opd1_w": right[1]}
        fields |= {"opd0_sign": chance(rng, 0.5), "opd1_sign": chance(rng, 0.5)}
        fields |= {"opd2_addr": pick(rng, 0, 3, 200)} if precision == I8 else {}
        fields |= {"res_add": chance(rng, 0.3)} if result in (I32, F32) else {}
        return Case("sMM2", fields, noise=precision), arena

    return fitting(attempt)


@family
def matrix_of_rows(rng: Rng) -> Case:
    return _matrix_of_rows(rng, I8, I32)


@family
def float_matrix_of_rows(rng: Rng) -> Case:
    precision = Precision(pick(rng, F16, BF16))
    return _matrix_of_rows(rng, precision, Precision(pick(rng, precision, F32)))


def _matrix(rng: Rng, precision: Precision, result: Precision) -> Case:
    def attempt() -> tuple[Case, Arena]:
        m, k, n = int(rng.integers(1, 9)), pick(rng, 1, 7, 50, 128), pick(rng, 1, 9, 60, 130)
        transposed, lane, arena = chance(rng, 0.3), pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW)
        rows, columns = (k, m) if transposed else (m, k)
        width, result_width = pick(rng, 1, 4, 16, 64, 128), pick(rng, 1, 4, 16, 64, 128)
        lanes, result_lanes = -(-columns // width), -(-n // result_width)
        left = arena.take(aligned_bytes((rows, lanes, 1, width), precision, 0))
        right = arena.take(aligned_bytes((k, result_lanes, 1, result_width), precision, lane))
        y = arena.take(aligned_bytes((m, result_lanes, 1, result_width), result, lane))
        fields = {"tsk_eu_typ": MatrixOp.NORMAL, "opd0_prec": precision, "res0_prec": result, "left_tran": transposed}
        fields |= {"opd0_n": rows, "opd0_c": lanes, "opd0_w": width, "opd1_w": columns - (lanes - 1) * width}
        fields |= {"res0_c": result_lanes, "res0_w": result_width, "opd0_addr": left, "opd1_addr": at(lane, right)}
        fields |= {"res0_addr": at(lane, y), "opd0_sign": chance(rng, 0.5), "opd1_sign": chance(rng, 0.5)}
        if precision == F32:
            fields |= {"res_add": chance(rng, 0.3), "opd2_const": 1, "opd2_addr": plain_constant(rng, F32)}
        return Case("sMM", fields, noise=precision), arena

    return fitting(attempt)


@family
def matrix(rng: Rng) -> Case:
    return _matrix(rng, I8, I32)


@family
def float_matrix(rng: Rng) -> Case:
    return _matrix(rng, F32, F32)


@family
def lane_movement(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        n, h, precision = pick(rng, 1, 2), int(rng.integers(1, 4)), Precision(pick(rng, I8, I16, F32))
        c, w = (pick(rng, 1, 3, 20, 64, 65) for _ in range(2))
        operation, arena = TransposeOp(int(rng.integers(4))), Arena(LANE_WINDOW)
        start, end = pick(rng, 0, 0, 7), pick(rng, 0, 0, 5, 40)
        x, y = (n, c, h, w), (n, c, h, w)
        if operation in (TransposeOp.CW, TransposeOp.WC):
            y = (n, w, h, c)
            start, end = (0, end) if operation == TransposeOp.CW else (start, 0)
        elif operation == TransposeOp.LANE_BROADCAST:
            x, y = (n, 1, h, w), (n, min(c, 64 - end), h, w)
        source = arena.take(aligned_bytes(x, precision, start))
        lines = (n * h, *y[1:2], 1, y[3]) if operation == TransposeOp.CW else y
        result = arena.take(aligned_bytes(lines, precision, end))
        fields = shape("res0", y) | {"tsk_eu_typ": operation, "res0_prec": precision, "opd0_c": x[1], "opd0_w": x[3]}
        return Case("sTRANS_sBC", fields | {"res0_addr": at(end, result), "opd0_addr": at(start, source)}), arena

    return fitting(attempt)


@family
def static_memory(rng: Rng) -> Case:
    operation = pick(rng, TransposeOp.STATIC_BROADCAST, TransposeOp.STATIC_DISTRIBUTE)
    c, w = pick(rng, 1, 9, 64), int(rng.integers(1, 17)) if operation == TransposeOp.STATIC_BROADCAST else 1
    fields = shape("res0", (1, c, 1, w)) | {"tsk_eu_typ": operation, "res0_prec": I32, "opd0_c": c, "opd0_w": w}
    return Case("sTRANS_sBC", fields | {"res0_addr": 0x40, "opd0_addr": STATIC + 0x5C0})


@family
def table_look_up(rng: Rng) -> Case:
    """Table, indices and result in banks of their own."""
    while True:
        n, c, _, _ = small_dims(rng)
        w, entries, lane = int(rng.integers(1, 60)), pick(rng, 1, 5, 40, 256), pick(rng, 0, 0, 5)
        value, index, shared = Precision(pick(rng, I8, I16, F32)), Precision(pick(rng, I8, I16)), chance(rng, 0.5)
        if not (shared and lane and c > 64 - lane):
            break
    fields = shape("res0", (n, c, 1, w)) | {"tsk_eu_typ": SearchGatherOp.PE_GATHER, "opd0_str": 3 * shared}
    fields |= {"res0_prec": value, "opd0_prec": value, "opd1_prec": index, "opd0_h": 1, "opd0_w": entries}
    fields |= {"opd1_c": c, "opd1_w": w, "opd0_addr": at(lane, 0), "opd1_addr": at(lane, 0x4000)}
    length = aligned_bytes((n, c, 1, w), index, lane) // index.itemsize
    indices = rng.integers(0, entries, (64, length)).astype(f"u{index.itemsize}").view(np.uint8)
    return Case("sSG", fields | {"res0_addr": at(lane, 0x8000)}, rows=[(0x4000, indices)], window=BANKED_WINDOW)


@family
def scattering(rng: Rng) -> Case:
    c, w = pick(rng, 1, 3, 33, 64, 65), int(rng.integers(1, 40))
    value, index, given = Precision(pick(rng, I8, I16, F32)), Precision(pick(rng, I8, I16)), pick(rng, 1, min(5, w), w)
    arena = Arena(LANE_WINDOW)
    source, indices = (arena.take(aligned_bytes((1, c, 1, given), p, 0)) for p in (value, index))
    y = arena.take(aligned_bytes((1, c, 1, w), value, 0))
    fields = shape("res0", (1, c, 1, w)) | {"tsk_eu_typ": SearchGatherOp.PE_SCATTER_HZD, "opd0_h": 1, "opd0_w": given}
    fields |= {"res0_prec": value, "opd0_prec": value, "opd1_prec": index, "opd1_c": c, "opd1_w": given}
    length = aligned_bytes((1, c, 1, given), index, 0) // index.itemsize
    chosen = rng.integers(0, w, (64, length)).astype(f"u{index.itemsize}").view(np.uint8)
    fields |= {"res0_addr": y, "opd0_addr": source, "opd1_addr": indices}
    return Case("sSG", fields, rows=[(indices, chosen)])


@family
def comparison(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        operation, dims, lane = CompareOp(pick(rng, *CompareOp)), small_dims(rng), pick(rng, 0, 0, 5)
        compared, arena = Precision(pick(rng, *INTEGERS)), Arena(LANE_WINDOW)
        both = operation in (CompareOp.MAX_AND_SELECT, CompareOp.MIN_AND_SELECT)
        selected = compared if both else Precision(pick(rng, *INTEGERS))
        fields = shape("res0", dims) | {"tsk_eu_typ": operation, "opd0_prec": compared, "opd2_prec": selected}
        for index, precision in enumerate((compared, compared, selected, selected)):
            if chance(rng, 0.2):
                fields |= {f"opd{index}_const": 1, f"opd{index}_addr": random_bits(rng, precision)}
            else:
                fields |= {f"opd{index}_addr": at(lane, arena.take(aligned_bytes(dims, precision, lane)))}
        for result in ("res0", "res1"):
            fields |= {f"{result}_addr": at(lane, arena.take(aligned_bytes(dims, selected, lane)))}
        return Case("sCMP", fields | {"opd0_sign": chance(rng, 0.5)}), arena

    return fitting(attempt)


@family
def polynomials(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        dims, terms, arena = small_dims(rng), int(rng.integers(2, 12)), Arena(LANE_WINDOW)
        lane = pick(rng, 0, 5, 40)
        lane = lane if dims[1] <= 64 - lane else 0
        x, y = (arena.take(aligned_bytes(dims, F32, lane)) for _ in range(2))
        fields = shape("res0", dims) | {"tsk_eu_typ": pick(rng, SfuOp.TAYLOR, SfuOp.TAYLOR_4X), "opd1_n": terms}
        fields |= {"res0_prec": F32, "opd0_prec": F32, "opd1_addr": at(lane, arena.take(4 * terms))}
        return Case("sSFU", fields | {"res0_addr": at(lane, y), "opd0_addr": at(lane, x)}, noise=F32), arena

    return fitting(attempt)


@family
def roots(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        dims, lane, arena = small_dims(rng), pick(rng, 0, 5, 40), Arena(LANE_WINDOW)
        size = aligned_bytes(dims, F32, lane)
        x, y = arena.take(size), arena.take(size)
        fields = shape("res0", dims) | {"tsk_eu_typ": SfuOp.RSQRT, "opd2_n_str": int(rng.integers(4))}
        fields |= {"res0_prec": F32, "opd0_prec": F32, "res0_addr": at(lane, y), "opd0_addr": at(lane, x)}
        positive = (10.0 ** rng.uniform(-37, 38, (64, size // 4))).astype(np.float32).view(np.uint8)
        return Case("sSFU", fields, rows=[(x, positive)]), arena

    return fitting(attempt)


@family
def linear_steps(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena]:
        dims, lane, arena = small_dims(rng), pick(rng, 0, 0, 5, 40), Arena(LANE_WINDOW)
        x, y = (arena.take(aligned_bytes(dims, F32, lane)) for _ in range(2))
        fields = shape("res0", dims) | {"tsk_eu_typ": pick(rng, *LinearOp), "res0_prec": F32}
        for index in (1, 2):
            fields |= {f"opd{index}_addr": at(lane, arena.take(4 * rows_of(dims[1], lane), 4))}
            if chance(rng, 0.2):
                fields |= {f"opd{index}_const": 1, f"opd{index}_addr": float_bits(rng.standard_normal(), F32)}
        return Case("sLIN", fields | {"res0_addr": at(lane, y), "opd0_addr": at(lane, x)}, noise=F32), arena

    return fitting(attempt)
