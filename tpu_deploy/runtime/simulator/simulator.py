"""Whole bmodels executed from their encoded commands."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tpu_deploy.codegen.bmodel import DECODED_CHIP, Bmodel, Stage, TensorInfo, decode_group, read_bmodel
from tpu_deploy.codegen.findings import Finding
from tpu_deploy.codegen.hazards import check_hazards, check_initialized, execution_order
from tpu_deploy.codegen.isa import Command
from tpu_deploy.codegen.legality import GlobalRanges, check_legality
from tpu_deploy.errors import BadInput
from tpu_deploy.runtime.feeds import RawTensor, matched
from tpu_deploy.runtime.simulator.machine import Prepared, SimulationError, execute, prepare
from tpu_deploy.runtime.simulator.memory import Memories

Array = npt.NDArray[Any]
Queues = tuple[list[Command], list[Command]]
Severity = Literal["ignore", "report", "fail"]


class Simulator:
    """One stage of a bmodel, its commands decoded and checked once, for any number of runs."""

    def __init__(
        self,
        bmodel: Bmodel | str | os.PathLike[str],
        net: str | None = None,
        stage: int = 0,
        check: bool = True,
        uninitialized: Severity = "report",
    ) -> None:
        """Decodes and checks the commands of one stage; `net` defaults to the only one.

        `check` judges legality, addresses, deadlocks and races of all commands before anything runs; reads of local
        memory that nothing has written fail, or are kept in `findings`, or are not looked for. Raises BadInput for a
        file that is no such bmodel or for another chip, SimulationError for what the checks find and for commands that
        cannot be simulated.
        """
        model = bmodel if isinstance(bmodel, Bmodel) else read_bmodel(bmodel)
        self._source = model.source
        self._stage = _stage(model, net, stage)
        self.inputs = [_raw(tensor, self._source) for tensor in self._stage.inputs]
        self.outputs = [_raw(tensor, self._source) for tensor in self._stage.outputs]
        groups = [decode_group(group, self._source) for _, group in self._stage.command_groups()]
        self.findings: list[Finding] = []
        if check:
            self._refuse(_breaches(groups, _ranges(self._stage)))
            if uninitialized != "ignore":
                self.findings = check_initialized(groups)
                self._refuse(self.findings if uninitialized == "fail" else [])
        self._commands = [command for queues in groups for command in self._ordered(queues)]

    def _refuse(self, findings: Sequence[Finding]) -> None:
        if findings:
            more = f" ({len(findings) - 1} more such findings)" if len(findings) > 1 else ""
            raise SimulationError(f"{self._source}: {findings[0]}{more}")

    def _ordered(self, queues: Queues) -> list[Prepared]:
        order = list(execution_order(*queues))
        if len(order) < sum(map(len, queues)):
            self._refuse(check_hazards(*queues))
        return [prepare(command) for command in order]

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """Each output by name, raw: the dtypes and shapes of `outputs`, bfloat16 as uint16.

        `inputs` holds raw arrays with exactly the dtypes and shapes of `self.inputs`. All memories begin as zeros.
        Raises BadInput when the inputs differ, SimulationError when a command cannot be executed.
        """
        feeds = matched(self.inputs, inputs, self._source)
        memory = self._memory()
        for info, array in zip(self._stage.inputs, feeds, strict=True):
            memory.segment(info.device_addr, array.nbytes)[:] = array.reshape(-1).view(np.uint8)
        for prepared in self._commands:
            execute(prepared, memory)
        return {raw.name: value for raw, value in zip(self.outputs, self._results(memory), strict=True)}

    def _results(self, memory: Memories) -> Iterator[Array]:
        for info, raw in zip(self._stage.outputs, self.outputs, strict=True):
            size = int(np.prod(raw.shape, dtype=np.int64)) * raw.dtype.itemsize
            yield memory.segment(info.device_addr, size).copy().view(raw.dtype).reshape(raw.shape)

    def _memory(self) -> Memories:
        memory = Memories()
        coefficients = self._stage.coefficients
        if coefficients is not None:
            memory.segments.append((coefficients.address, np.frombuffer(coefficients.data, np.uint8)))
        memory.segments.append((self._stage.ctx_addr, np.zeros(self._stage.ctx_size, np.uint8)))
        return memory


def _breaches(groups: Sequence[Queues], ranges: GlobalRanges) -> list[Finding]:
    """What the judges find in the command groups, the first group with findings only."""
    for tiu, gdma in groups:
        found = [*check_legality(tiu, ranges), *check_legality(gdma, ranges), *check_hazards(tiu, gdma)]
        if found:
            return found
    return []


def _ranges(stage: Stage) -> GlobalRanges:
    coefficients = stage.coefficients
    constant = coefficients and (coefficients.address, coefficients.address + len(coefficients.data))
    return GlobalRanges(constant or None, (stage.ctx_addr, stage.ctx_addr + stage.ctx_size))


def _raw(info: TensorInfo, source: str) -> RawTensor:
    try:
        return RawTensor(info.name, np.dtype("uint16" if info.dtype == "bfloat16" else info.dtype), info.shape)
    except TypeError as error:
        raise BadInput(f"{source}: tensor {info.name} has element type {info.dtype}, which is not simulated") from error


def _stage(model: Bmodel, net: str | None, stage: int) -> Stage:
    """The stage to simulate; raises BadInput when there is none such or it is not for this machine."""
    source, names = model.source, [each.name for each in model.nets]
    if model.chip != DECODED_CHIP:
        raise BadInput(f"{source}: is for chip {model.chip}; only {DECODED_CHIP} is simulated")
    if net is None and len(names) > 1:
        raise BadInput(f"{source}: has several nets; choose one of {', '.join(names)}")
    if not names or (net is not None and net not in names):
        raise BadInput(f"{source}: has no net {net or ''}; there is {', '.join(names) or 'none'}")
    chosen = model.nets[names.index(net) if net is not None else 0]
    if not 0 <= stage < len(chosen.stages):
        raise BadInput(f"{source}: net {chosen.name} has {len(chosen.stages)} stages; there is no stage {stage}")
    found = chosen.stages[stage]
    kinds = {part.kind for part in found.sub_nets} - {"tpu"}
    reasons = {
        "addresses that are placed when it is loaded": chosen.addr_mode,
        "shapes known only when it runs": found.is_dynamic,
        f"parts on the {', '.join(sorted(kinds))}": kinds,
        "several cores": found.core_count > 1,
    }
    for what, applies in reasons.items():
        if applies:
            raise BadInput(f"{source}: net {chosen.name} has {what}, which is not simulated")
    return found
