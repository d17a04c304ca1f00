"""An explicit Pad of height and width becomes the padding of the convolution or pool behind it."""

from __future__ import annotations

from typing import Any

from xdsl.ir import Operation, SSAValue

from tpu_deploy.ir.dialect import attributes_of
from tpu_deploy.ir.network import Network, is_absent
from tpu_deploy.ir.top import UNBOUNDED
from tpu_deploy.lowering.clamp import read_clamp, read_relu
from tpu_deploy.lowering.rewriting import private_producer, producer, rebuild

NEVER_NEGATIVE = frozenset({"top.Sigmoid", "top.HardSigmoid", "top.Softmax", "top.Softplus"})
KEEP_SIGN = frozenset(
    {"top.MaxPool", "top.AvgPool", "top.Reshape", "top.Permute", "top.Concat", "top.Slice", "top.Split"}
)


def fold_pad(network: Network) -> int:
    """The number of Pads folded.

    Conv takes zeros. AvgPool takes zeros where it counts its own padding or has none. MaxPool takes what never wins:
    minus infinity, or zeros around a tensor that is never negative, in pads smaller than the window.
    """
    changed = 0
    for op in network.operations:
        rule = RULES.get(op.name)
        pad = private_producer(op.operands[0]) if rule else None
        if rule is None or pad is None or pad.name != "top.Pad" or attributes_of(pad)["mode"] != "constant":
            continue
        before, after = _spatial(attributes_of(pad)["paddings"])
        extra = rule(op, pad) if before is not None and after is not None else None
        if extra is None or before is None or after is None:
            continue
        apart = [k + 1 for k in attributes_of(op).get("inserts", (0, 0))] * 2
        added = [count * step for count, step in zip([*before, *after], apart, strict=True)]
        pads = [a + b for a, b in zip(attributes_of(op)["pads"], added, strict=True)]
        if op.name != "top.Conv" and not _smaller_than_window(pads, attributes_of(op)["kernel_shape"]):
            continue
        operands = [pad.operands[0], *op.operands[1:]]
        rebuild(network, op, op.name, operands, attributes_of(op) | {"pads": pads} | extra)
        changed += 1
    return changed


def _spatial(paddings: list[int]) -> tuple[list[int] | None, list[int] | None]:
    rank = len(paddings) // 2
    begin, end = paddings[:rank], paddings[rank:]
    if rank != 4 or any(begin[:2]) or any(end[:2]):
        return None, None
    return begin[2:], end[2:]


def _smaller_than_window(pads: list[int], kernel: list[int]) -> bool:
    return all(p < k for p, k in zip(pads, [*kernel, *kernel], strict=True))


def _into_conv(op: Operation, pad: Operation) -> dict[str, Any] | None:
    return {} if attributes_of(pad)["val"] == 0 else None


def _into_average(op: Operation, pad: Operation) -> dict[str, Any] | None:
    attributes = attributes_of(op)
    counts_all = attributes["count_include_pad"] or not any(attributes["pads"])
    return {"count_include_pad": True} if counts_all and attributes_of(pad)["val"] == 0 else None


def _into_maximum(op: Operation, pad: Operation) -> dict[str, Any] | None:
    value = attributes_of(pad)["val"]
    never_wins = value <= -UNBOUNDED or (value == 0 and _is_never_negative(pad.operands[0]))
    return {} if never_wins else None


RULES = {"top.Conv": _into_conv, "top.AvgPool": _into_average, "top.MaxPool": _into_maximum}
"""For each operation: the attributes that change besides the pads, None where folding would be wrong."""


def _is_never_negative(value: SSAValue) -> bool:
    op = producer(value)
    if op is None:
        return False
    interval = read_relu(op) or read_clamp(op)
    if interval is not None:
        return interval.low >= 0
    if op.name in KEEP_SIGN:
        return all(_is_never_negative(v) for v in op.operands if not is_absent(v))
    return op.name in NEVER_NEGATIVE
