"""Arrays of ONNX tensors, without a copy where the file's bytes can serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tpu_deploy.errors import BadInput

Array = npt.NDArray[Any]


def external_location(tensor: TensorProto) -> str:
    """The file, relative to the model's folder, that holds a tensor's bytes."""
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def is_inside(location: str) -> bool:
    """Whether the place of external data lies below the model's folder."""
    path = Path(location)
    return not path.is_absolute() and ".." not in path.parts


def array_of(tensor: TensorProto, folder: Path | None, label: str) -> Array:
    """The read-only array of a tensor; external data is memory-mapped. BadInput when the bytes do not fit its shape."""
    try:
        if tensor.data_location == TensorProto.EXTERNAL:
            return _external(tensor, folder)
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise BadInput(
            f"{label}: weight {tensor.name} cannot be read ({error}); the model or its external data is damaged"
        ) from error
    return array


def _external(tensor: TensorProto, folder: Path | None) -> Array:
    """Bytes of a file beside the model. Source: ONNX docs/ExternalData.md."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries["location"]
    if folder is None or not is_inside(location):
        raise ValueError(f"its external data is not below the model's folder: {location}")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    count = int(np.prod(shape, dtype=np.int64))
    offset, size = int(entries.get("offset", 0)), (folder / location).stat().st_size
    if offset + count * dtype.itemsize > size:
        raise ValueError(f"{location} has {size} bytes, {offset + count * dtype.itemsize} are needed")
    if count == 0:
        return np.zeros(shape, dtype)
    return np.memmap(folder / location, dtype, "r", offset, shape or (1,)).reshape(shape)


def is_finite(array: Array) -> bool:
    """Whether a float array holds neither NaN nor infinity."""
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=array.dtype)):  # fails for every bad element, and for few good arrays
            return True
    return bool(np.isfinite(array).all())


def decoded(attribute: onnx.AttributeProto) -> Any:
    """The Python value of a node's attribute; text as str."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [v.decode("utf-8", "replace") for v in value]
    return value
