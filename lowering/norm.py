"""Per-channel scaling left over from normalization."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from tpu_deploy.ir.network import shape_of
from tpu_deploy.ir.weights import Array
from tpu_deploy.lowering.activation import affine_kernel
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.conv import has_computed_weights, per_channel
from tpu_deploy.lowering.registry import lowers
from tpu_deploy.quant.plan import FLOATS


def _factors(builder: Builder, op: Operation) -> tuple[Array, Array]:
    """Scale and bias (C)."""
    channels = (shape_of(op.operands[0])[1],)
    scale, bias = builder.constant(op.operands[1]), builder.constant(op.operands[2])
    assert scale is not None
    offsets = np.zeros(channels, np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), channels)
    return np.broadcast_to(scale.reshape(-1), channels), offsets


@lowers("Scale", refuse=(has_computed_weights,))
def scale(builder: Builder, op: Operation) -> None:
    """A depthwise 1x1 convolution."""
    per_channel(builder, op, 0, *_factors(builder, op))


@lowers("Scale", *FLOATS, refuse=(has_computed_weights,))
def float_scale(builder: Builder, op: Operation) -> None:
    """A `tpu.Affine`."""
    affine_kernel(builder, op, builder.operand(op), *_factors(builder, op))
