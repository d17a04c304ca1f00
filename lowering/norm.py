"""Per-channel scaling left over from normalization."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from tpu_deploy.ir.network import shape_of
from tpu_deploy.lowering.builder import Builder
from tpu_deploy.lowering.conv import has_computed_weights, per_channel
from tpu_deploy.lowering.registry import lowers


@lowers("Scale", refuse=(has_computed_weights,))
def scale(builder: Builder, op: Operation) -> None:
    """A depthwise 1x1 convolution."""
    channels = (shape_of(op.operands[0])[1],)
    factors, offsets = builder.constant(op.operands[1]), builder.constant(op.operands[2])
    assert factors is not None
    bias = None if offsets is None else np.broadcast_to(offsets.reshape(-1), channels)
    per_channel(builder, op, 0, np.broadcast_to(factors.reshape(-1), channels), bias)
