"""What is given to a network, held against what it wants: names, raw element types and shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_deploy.errors import BadInput


@dataclass(frozen=True)
class RawTensor:
    """An input or output as the file stores it: bfloat16 elements are uint16, their bits."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def matched(wanted: Sequence[RawTensor], feeds: Mapping[str, npt.ArrayLike], subject: str) -> list[npt.NDArray[Any]]:
    """The feeds in the order wanted, contiguous, each with exactly the dtype and shape wanted.

    Raises BadInput naming the tensor that is missing, unknown, or of another dtype or shape; nothing is converted but a
    bfloat16 array, which is taken as its bits.
    """
    names = [tensor.name for tensor in wanted]
    for name in feeds:
        if name not in names:
            raise BadInput(f"{subject}: has no input {name!r}; it takes {', '.join(names)}")
    return [_matched(tensor, feeds, subject) for tensor in wanted]


def _matched(tensor: RawTensor, feeds: Mapping[str, npt.ArrayLike], subject: str) -> npt.NDArray[Any]:
    if tensor.name not in feeds:
        raise BadInput(f"{subject}: input {tensor.name!r} is not given")
    array = np.asarray(feeds[tensor.name])
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    if array.dtype != tensor.dtype or array.shape != tensor.shape:
        raise BadInput(
            f"{subject}: input {tensor.name!r} is {array.dtype}{list(array.shape)}, "
            f"not {tensor.dtype}{list(tensor.shape)}; the raw form takes no conversion"
        )
    return np.ascontiguousarray(array)
