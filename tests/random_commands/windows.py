"""Random convolutions and pools."""

from random_commands.case import (
    F32,
    FLOATS,
    I8,
    I16,
    I32,
    LANE_WINDOW,
    Arena,
    Case,
    Dims,
    Rng,
    aligned_bytes,
    at,
    chance,
    family,
    fitting,
    pick,
    plain_constant,
    random_bits,
    rows_of,
    shape,
    strides,
)
from tpu_deploy.codegen.isa import Precision
from tpu_deploy.codegen.isa.operations import (
    ConvolutionOp,
    PoolOp,
)


def window_fields(rng: Rng, insertions: tuple[int, ...] = (0, 0, 0, 1, 2)) -> tuple[dict[str, int], Dims] | None:
    """Geometry of a window with (h, w, oh, ow); None when it has no result."""
    fields, sizes = {}, []
    for axis, name, before, after in (("y", "h", "up", "dn"), ("x", "w", "lf", "rt")):
        kernel, size = pick(rng, 1, 1, 2, 3, 5), int(rng.integers(1, 12))
        stride, dilation, inserted = pick(rng, 1, 1, 2, 3), pick(rng, 0, 0, 1), pick(rng, *insertions)
        pads = [int(p) for p in rng.integers(0, 4, 2)]
        extent = (size - 1) * (inserted + 1) + 1 + sum(pads)
        sizes.append((size, (extent - (kernel - 1) * (dilation + 1) - 1) // stride + 1))
        fields |= {f"opd1_{name}": kernel, f"res_op_{axis}_str": stride, f"opd1_{axis}_ins0": dilation}
        fields |= {f"opd0_{axis}_ins0": inserted, f"opd0_{before}_pad": pads[0], f"opd0_{after}_pad": pads[1]}
    (h, oh), (w, ow) = sizes
    return (fields, (h, w, oh, ow)) if oh > 0 and ow > 0 else None


def _convolution(rng: Rng, requantizing: bool) -> Case:
    def attempt() -> tuple[Case, Arena] | None:
        geometry = window_fields(rng)
        if geometry is None:
            return None
        window, (h, w, oh, ow) = geometry
        n, ic, oc = pick(rng, 1, 2), pick(rng, 1, 2, 3, 17, 64, 65, 100, 130), pick(rng, 1, 5, 33, 64, 70, 130)
        lane, result = pick(rng, 0, 0, 5, 40), I8 if requantizing else Precision(pick(rng, I32, I32, I16, I8))
        arena, loose = Arena(LANE_WINDOW), chance(rng, 0.3)
        line = w + (pick(rng, 0, 1, 2) if loose else 0)
        channel = h * line + pick(rng, 0, 3) if loose else -(-h * w // 64) * 64
        image = rows_of(ic, 0) * channel
        x = arena.take(n * image + 64) + (pick(rng, 0, 17) if loose else 0)
        weight = arena.take(rows_of(oc, lane) * -(-ic // 64) * 64 * window["opd1_h"] * window["opd1_w"])
        y = arena.take(aligned_bytes((n, oc, oh, ow), result, lane))
        table = arena.take(2 * rows_of(oc, lane))
        fields = window | shape("res0", (n, oc, oh, ow)) | {"opd0_c": ic, "opd0_h": h, "opd0_w": w}
        fields |= {"res0_addr": at(lane, y), "opd0_addr": x, "res0_prec": result, "opd0_prec": I8}
        fields |= {f"opd{k}_sign": chance(rng, 0.5) for k in range(3)} | {"kernel_rotate": chance(rng, 0.3)}
        fields |= {"opd3_const": 1, "opd3_addr": random_bits(rng, I8)}
        fields |= {"opd1_const": 1, "opd1_addr": random_bits(rng, I8)} if chance(rng, 0.1) else {}
        fields |= {"opd1_addr": at(lane, weight)} if "opd1_const" not in fields else {}
        if chance(rng, 0.6):
            fields |= {"opd2_const": 1, "opd2_addr": random_bits(rng, I16 if requantizing else I8)}
        else:
            fields |= {"opd2_addr": at(lane, table)}
        if loose:
            fields |= {"opd0_str": 3} | strides("opd0", (image, channel, line, 1))
        if requantizing:
            fields |= {"tsk_eu_typ": pick(rng, ConvolutionOp.WRQ, ConvolutionOp.WRQ_RELU), "opd3_addr": pick(rng, 0, 9)}
            fields |= {f"opd0_{side}_pad": 0 for side in ("up", "dn", "lf", "rt")}
            fields["res0_h"], fields["res0_w"] = unpadded = [
                _outputs(fields, axis, name) for axis, name in ("yh", "xw")
            ]
            if min(unpadded) < 1:
                return None
        elif result == I32:
            fields["res_add"] = chance(rng, 0.3)
        return Case("sCONV", fields), arena

    return fitting(attempt)


def _outputs(fields: dict[str, int], axis: str, name: str) -> int:
    """How many windows the input has room for without padding."""
    extent = (fields[f"opd0_{name}"] - 1) * (fields[f"opd0_{axis}_ins0"] + 1) + 1
    reach = (fields[f"opd1_{name}"] - 1) * (fields[f"opd1_{axis}_ins0"] + 1) + 1
    return (extent - reach) // fields[f"res_op_{axis}_str"] + 1


@family
def convolution(rng: Rng) -> Case:
    return _convolution(rng, requantizing=False)


@family
def float_convolution(rng: Rng) -> Case:
    def attempt() -> tuple[Case, Arena] | None:
        geometry = window_fields(rng)
        if geometry is None:
            return None
        window, (h, w, oh, ow) = geometry
        n, ic, oc, lane = pick(rng, 1, 2), pick(rng, 1, 3, 32, 40, 70), pick(rng, 1, 33, 70), pick(rng, 0, 0, 5, 40)
        precision, arena = Precision(pick(rng, *FLOATS)), Arena(LANE_WINDOW)
        result = Precision(pick(rng, precision, F32))
        packed = ic if precision == F32 else -(-ic // 32) * 32
        taps = window["opd1_h"] * window["opd1_w"]
        x, y = (
            arena.take(aligned_bytes((n, ic, h, w), precision, 0)),
            arena.take(aligned_bytes((n, oc, oh, ow), result, lane)),
        )
        weight = arena.take(rows_of(oc, lane) * packed * taps * precision.itemsize)
        bias = arena.take(4 * rows_of(oc, lane))
        fields = window | shape("res0", (n, oc, oh, ow)) | {"opd0_c": ic, "opd0_h": h, "opd0_w": w}
        fields |= {"res0_addr": at(lane, y), "opd0_addr": x, "res0_prec": result, "opd0_prec": precision}
        fields |= {"opd1_addr": at(lane, weight), "opd2_addr": at(lane, bias), "kernel_rotate": chance(rng, 0.3)}
        fields |= {"opd3_const": 1, "opd3_addr": plain_constant(rng, precision)}
        fields |= {"opd1_const": 1, "opd1_addr": plain_constant(rng, precision)} if chance(rng, 0.1) else {}
        fields |= {"opd2_const": 1, "opd2_addr": plain_constant(rng, F32)} if chance(rng, 0.5) else {}
        fields |= {"res_add": chance(rng, 0.3)} if result == F32 else {}
        return Case("sCONV", fields, noise=precision), arena

    return fitting(attempt)


@family
def requantizing_convolution(rng: Rng) -> Case:
    return _convolution(rng, requantizing=True)


def _pool(rng: Rng, operation: PoolOp, precision: Precision) -> Case:
    def attempt() -> tuple[Case, Arena] | None:
        geometry = window_fields(rng, (0,) if operation == PoolOp.MAX else (0, 0, 0, 1, 2))
        if geometry is None:
            return None
        window, (h, w, oh, ow) = geometry
        n, c, lane = pick(rng, 1, 2), pick(rng, 1, 3, 33, 64, 65, 130), pick(rng, 0, 0, 5, 40)
        widens = precision == I8 and operation != PoolOp.MAX
        result = Precision(pick(rng, I32, I16, I8)) if widens else precision
        arena = Arena(LANE_WINDOW)
        taps = window["opd1_h"] * window["opd1_w"]
        x, y = (arena.take(aligned_bytes(d, p, lane)) for d, p in (((n, c, h, w), precision), ((n, c, oh, ow), result)))
        weight = arena.take(rows_of(c, lane) * taps * precision.itemsize, 4)
        bias = arena.take(rows_of(c, lane) * 4, 4)
        fields = window | shape("res0", (n, c, oh, ow)) | {"opd0_h": h, "opd0_w": w, "tsk_eu_typ": operation}
        fields |= {"res0_addr": at(lane, y), "opd0_addr": at(lane, x), "res0_prec": result, "opd0_prec": precision}
        fields |= {f"opd{k}_sign": chance(rng, 0.5) for k in range(3)} | {"opd2_n_str": int(rng.integers(7))}
        fields |= {"opd3_const": 1, "opd3_addr": plain_constant(rng, precision)}
        if operation == PoolOp.AVERAGE:
            fields |= {"opd1_const": 1, "opd1_addr": plain_constant(rng, precision)}
            fields |= {"opd2_const": 1, "opd2_addr": pick(rng, 0, 5, 12) if precision == I8 else 0}
        elif operation != PoolOp.MAX:
            fields |= {"opd1_addr": at(lane, weight), "opd2_addr": at(lane, bias), "kernel_rotate": chance(rng, 0.3)}
            fields |= {"opd1_const": 1, "opd1_addr": plain_constant(rng, precision)} if chance(rng, 0.15) else {}
            wide = I32 if precision == I8 else precision
            fields |= {"opd2_const": 1, "opd2_addr": plain_constant(rng, wide)} if chance(rng, 0.4) else {}
            fields |= {"res1_addr": int(rng.integers(24)) << 8} if widens and chance(rng, 0.6) else {}
        return Case("sPorD", fields, noise=precision), arena

    return fitting(attempt)


@family
def depthwise_convolution(rng: Rng) -> Case:
    return _pool(rng, PoolOp(pick(rng, PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU)), I8)


@family
def pooling(rng: Rng) -> Case:
    return _pool(rng, PoolOp(pick(rng, PoolOp.MAX, PoolOp.AVERAGE)), I8)


@family
def float_pooling(rng: Rng) -> Case:
    operations = (PoolOp.MAX, PoolOp.AVERAGE, PoolOp.DEPTHWISE, PoolOp.DEPTHWISE_RELU)
    return _pool(rng, PoolOp(pick(rng, *operations)), Precision(pick(rng, *FLOATS)))
