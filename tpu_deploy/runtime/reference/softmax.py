"""tpu.Softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tpu_deploy.runtime.reference.registry import Array, Kernel, Site, kernel

Float32Array = npt.NDArray[np.float32]


def softmax_chip(x: Float32Array, axis: int) -> Float32Array:
    """Softmax over `axis` in float32."""
    shifted = x - x.max(axis, keepdims=True)
    exponential = np.exp(shifted)
    result: Float32Array = exponential / exponential.sum(axis, keepdims=True, dtype=np.float32)
    return result


@kernel("tpu.Softmax")
def build_softmax(site: Site) -> Kernel:
    """The float sequence of the chip."""

    def run(operands: Sequence[Array]) -> Array:
        return np.ascontiguousarray(softmax_chip(operands[0], site.attributes["axis"]))

    return run
