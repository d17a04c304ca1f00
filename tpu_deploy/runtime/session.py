"""`tpu_deploy.load`: a bmodel to be run, with floats converted as its scales and zero points say."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from tpu_deploy import numbers
from tpu_deploy.codegen.bmodel import Bmodel, Stage, TensorInfo, read_bmodel
from tpu_deploy.errors import BadInput

if TYPE_CHECKING:
    from tpu_deploy.runtime.chip_model import ChipModel
    from tpu_deploy.runtime.simulator.simulator import Simulator

Array = npt.NDArray[Any]

PLACES = ("simulator", "chip-model")
"""Where a bmodel can run: our simulator of its encoded commands, or the vendor's chip model."""

MAX_RANK = 8
"""Dimensions of a tensor at most. Source: bm_shape_t of the vendor's runtime."""

QUANTIZED = frozenset({"int8", "uint8", "int16", "uint16"})
"""Element types whose integers stand for real numbers."""


def load(path: str | os.PathLike[str], on: str = "simulator", *, net: str | None = None, stage: int = 0) -> Session:
    """The bmodel at `path`, ready to run on one of `PLACES`; `net` defaults to the only one in the file.

    Raises BadInput for an unknown place, for a file that is no sound bmodel (its checksum is verified), for a net or
    stage that is not there, and when the chip model is not installed.
    """
    if on not in PLACES:
        near = difflib.get_close_matches(on, PLACES, 1, 0.0)[0]
        raise BadInput(f"--on {on}: is unknown; did you mean {near}? known: {', '.join(PLACES)}")
    bmodel = read_bmodel(path, verify=True)
    chosen = _stage(bmodel, net, stage)
    _check_tensors(chosen, bmodel.source)
    if on == "simulator":
        from tpu_deploy.runtime.simulator.simulator import Simulator

        return Session(chosen, Simulator(bmodel, net, stage), bmodel.source)
    from tpu_deploy.runtime.chip_model import ChipModel

    return Session(chosen, ChipModel(path, net, stage), bmodel.source)


def _stage(bmodel: Bmodel, net: str | None, stage: int) -> Stage:
    names = [each.name for each in bmodel.nets]
    if net is None and len(names) != 1:
        raise BadInput(f"{bmodel.source}: has several nets; choose one with --net: {', '.join(names) or 'none'}")
    if net is not None and net not in names:
        raise BadInput(f"{bmodel.source}: has no net {net!r}; there is {', '.join(names) or 'none'}")
    stages = bmodel.nets[names.index(net) if net is not None else 0].stages
    if not 0 <= stage < len(stages):
        raise BadInput(f"{bmodel.source}: has {len(stages)} stages; there is no stage {stage}")
    return stages[stage]


def _check_tensors(stage: Stage, source: str) -> None:
    """Raises BadInput when an input or output lies outside the memory the stage asks for, or has no sane shape."""
    memory = [(stage.ctx_addr, stage.ctx_addr + stage.ctx_size), (stage.io_addr, stage.io_addr + stage.io_size)]
    for info in (*stage.inputs, *stage.outputs):
        end = info.device_addr + info.size
        if not any(start <= info.device_addr and end <= stop for start, stop in memory):
            raise BadInput(f"{source}: tensor {info.name!r} lies outside the model's memory; build or copy it again")
        if len(info.shape) > MAX_RANK:
            raise BadInput(f"{source}: tensor {info.name!r} has {len(info.shape)} dimensions; build or copy it again")


class Session:
    """One stage of a bmodel on a simulator or chip model, for any number of runs.

    `inputs` and `outputs` describe the tensors as the file does: name, dtype, shape, scale, zero point.
    """

    def __init__(self, stage: Stage, machine: Simulator | ChipModel, source: str) -> None:
        """`machine` executes the stage on raw arrays; `source` is what messages call the bmodel."""
        self.inputs = stage.inputs
        self.outputs = stage.outputs
        self._machine = machine
        self._source = source

    def run(self, feeds: Mapping[str, npt.ArrayLike], dequantize: bool = True) -> dict[str, Array]:
        """Each output by name, in its shape: float32, or with `dequantize=False` quantized outputs as stored integers.

        `feeds` maps each input to an array of its shape. Floats for a quantized input are quantized by its scale and
        zero point, integers of its own type are taken as stored; nothing is reinterpreted. Raises BadInput naming the
        input that is unknown, missing, of another shape or type, or not finite.
        """
        self._check_names(feeds)
        raw = {info.name: self._stored(info, np.asarray(feeds[info.name])) for info in self.inputs}
        results = self._machine.run(raw)
        return {info.name: real(info, results[info.name], dequantize) for info in self.outputs}

    def _check_names(self, feeds: Mapping[str, npt.ArrayLike]) -> None:
        names = [info.name for info in self.inputs]
        for name in feeds:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1, 0.0)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names) or 'none'}"
                raise BadInput(f"{self._source}: has no input {name!r}; {hint}")
        for name in names:
            if name not in feeds:
                raise BadInput(f"{self._source}: input {name!r} is not given")

    def _stored(self, info: TensorInfo, array: Array) -> Array:
        if array.shape != info.shape:
            found, wanted = ("x".join(map(str, shape)) or "scalar" for shape in (array.shape, info.shape))
            raise BadInput(f"{self._source}: input {info.name!r} has shape {found}, the bmodel takes {wanted}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            held = "NaN" if np.isnan(array).any() else "infinity"
            raise BadInput(f"{self._source}: input {info.name!r} holds {held}; clean the data first")
        stored = _stored(info, array)
        if stored is None:
            raise BadInput(
                f"{self._source}: input {info.name!r} is {array.dtype}, the bmodel stores {info.dtype}; "
                f"give float32 values or {info.dtype} integers"
            )
        return stored

    def close(self) -> None:
        """Ends what runs in the background (the chip model's process)."""
        close = getattr(self._machine, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _stored(info: TensorInfo, array: Array) -> Array | None:
    """`array` as the bmodel stores it; None where only a reinterpretation would do."""
    if array.dtype.name == info.dtype:
        return array
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if info.dtype in QUANTIZED:
        if not is_float:
            return None
        return numbers.quantize(array.astype(np.float32), 1.0 / info.scale, info.zero_point, info.dtype)
    if info.dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16) if is_float else None
    target = np.dtype(info.dtype)
    if target.kind == "f" and (is_float or np.can_cast(array.dtype, target)):
        return array.astype(target)
    return array.astype(target) if np.can_cast(array.dtype, target) else None


def real(info: TensorInfo, array: Array, wanted: bool = True) -> Array:
    """A raw output as float32 by its scale and zero point; as it is stored unless `wanted`, and bfloat16 as float32."""
    if info.dtype == "bfloat16":
        import ml_dtypes

        widened: Array = array.view(ml_dtypes.bfloat16).astype(np.float32)
        return widened
    if wanted and info.dtype in QUANTIZED:
        return numbers.dequantize(array, info.scale, info.zero_point)
    return array
