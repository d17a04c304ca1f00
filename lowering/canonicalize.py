"""TOP as written by the frontend to canonical TOP: the list of passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.constants_to_scale import constants_to_scale
from tpu_deploy.lowering.fold_pad import fold_pad
from tpu_deploy.lowering.fold_relu import fold_relu
from tpu_deploy.lowering.fold_scale_into_reader import fold_scale_into_reader
from tpu_deploy.lowering.fold_scale_into_weights import fold_scale_into_weights
from tpu_deploy.lowering.fuse_activations import fuse_activations
from tpu_deploy.lowering.hoist_over_reshape import hoist_over_reshape
from tpu_deploy.lowering.merge_clips import merge_clips
from tpu_deploy.lowering.merge_reshapes import merge_reshapes
from tpu_deploy.lowering.merge_scales import merge_scales
from tpu_deploy.lowering.remove_no_ops import remove_no_ops

Pass = Callable[[Network], int]
"""Rewrites a network in place and says how many times it did."""

PASSES: tuple[Pass, ...] = (
    remove_no_ops,
    merge_reshapes,
    merge_clips,
    fuse_activations,
    fold_scale_into_weights,
    constants_to_scale,
    hoist_over_reshape,
    merge_scales,
    fold_scale_into_reader,
    fold_pad,
    fold_relu,
)
"""In this order, again until none finds anything to do."""


def canonicalize(network: Network) -> None:
    """Makes the network canonical in place; it computes the same up to float32 rounding.

    No BatchNorm is left, a product is followed by no Scale of its own and an operation that can carry a ReLU by none.
    A value that survives keeps its name: Conv, BatchNorm and Relu become one Conv named after the Relu's result.
    Raises BadInput naming a weight that float32 cannot hold once constants are folded into it.
    """
    with np.errstate(all="ignore"):  # what is no finite number is refused where it would become a weight
        while sum(rewrite(network) for rewrite in PASSES):
            continue
    network.remove_unused()
    network.update_signature()
    network.verify()
