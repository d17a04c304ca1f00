"""`tpu_deploy.report`: everything about a network on a chip but the bmodel itself, and two such reports compared."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpu_deploy.calibration.table import CalibrationTable
from tpu_deploy.chips import chip as chip_named
from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.pipeline import stages
from tpu_deploy.pipeline.checks import Verification
from tpu_deploy.pipeline.options import METHOD, PRECISIONS, SILENT, Progress, choice, made_folder, writable_folder
from tpu_deploy.pipeline.reasons import Reasons
from tpu_deploy.pipeline.samples import Data
from tpu_deploy.pipeline.source import InputShapes, Model, Source
from tpu_deploy.pipeline.stages import Request
from tpu_deploy.pipeline.tuned_tables import CHOICES
from tpu_deploy.quant import QuantizationPlan
from tpu_deploy.quant.qtable import QuantizeTable
from tpu_deploy.reports import difference_page, difference_text
from tpu_deploy.reports.difference import Difference, compared
from tpu_deploy.reports.record import read

if TYPE_CHECKING:
    from tpu_deploy.calibration import Preprocessing

BATCHES = 8
"""How many batches a report rests on unless another number is asked for."""


@dataclass(frozen=True)
class Report:
    """A report on disk: the folder of its files, and what they tell.

    `table` has the advice on the calibration samples, `plan` the trials of tuning.
    """

    folder: Path
    verification: Verification
    reasons: Reasons
    table: CalibrationTable
    plan: QuantizationPlan
    cycles: int


def report(
    model: Model,
    output: str | os.PathLike[str],
    calibration: CalibrationTable | str | os.PathLike[str] | None = None,
    data: Data | None = None,
    inputs: Data | None = None,
    *,
    chip: str = "bm1684x",
    precision: str = "int8",
    qtable: QuantizeTable | str | os.PathLike[str] | None = None,
    method: str = METHOD,
    samples: int | None = None,
    batch_size: int = 1,
    batches: int = BATCHES,
    preprocessing: Preprocessing | None = None,
    input_shapes: InputShapes | None = None,
    gate: float | None = None,
    progress: Progress = SILENT,
) -> Report:
    """The report of `model` compiled for `chip`, written into the folder `output`; no bmodel is written.

    Ranges come from `calibration`, else from a pass over `data`. It rests on the first `batches` of `inputs`, else of
    `data`, else of the samples kept with the table. The other options are those of `deploy`. A failed accuracy gate is
    told, not raised. Raises BadInput for anything unusable, ExactnessError when two executions differ.
    """
    precision = choice("--precision", precision, PRECISIONS)
    if calibration is None and data is None and precision == "int8":
        raise BadInput("give a calibration table, or data to calibrate on (--calibration or --data)")
    if inputs is not None and calibration is not None and data is not None:
        raise BadInput("--inputs and --data both give samples to report on; leave one out")
    if batches < 1:
        raise BadInput(f"--batches {batches}: is no number of batches; give at least 1")
    raw = calibration is not None and data is not None
    build = stages.run(
        Request(
            source=Source.of(model),
            chip=chip_named(chip).name,
            precision=precision,
            output=None,
            qtable=QuantizeTable.read(qtable) if isinstance(qtable, str | os.PathLike) else qtable,
            calibration=Path(calibration) if isinstance(calibration, str | os.PathLike) else calibration,
            data=None if raw else data,
            method=choice("--method", method, CHOICES),
            samples=samples,
            batch_size=batch_size,
            preprocessing=preprocessing,
            inputs=data if raw else inputs,
            preprocess_inputs=raw,
            batches=batches,
            input_shapes=input_shapes,
            report=writable_folder(output, "-o"),
            gate=gate,
            progress=progress,
        )
    )
    assert build.verification is not None and build.reasons is not None and build.request.report is not None
    return Report(build.request.report, build.verification, build.reasons, build.table, build.plan, build.timing.cycles)


def diff(
    before: str | os.PathLike[str], after: str | os.PathLike[str], output: str | os.PathLike[str] | None = None
) -> Difference:
    """What differs between two reports (report.json or its folder), layer by layer.

    Layers are matched by name, renamed ones by what they are and lie between. With `output` difference.json and
    difference.html are written into that folder. Raises BadInput for what is no report.
    """
    for given in (before, after):
        if Path(given).suffix.lower() == ".bmodel":
            raise BadInput(
                f"{given}: is a bmodel, which tells of no layer's accuracy; give what --report wrote with it"
            )
    folder = None if output is None else writable_folder(output, "-o")
    found = compared(_sound(Path(before)), _sound(Path(after)), (os.fspath(before), os.fspath(after)))
    if folder is not None:
        made_folder(folder, "-o")
        contents = {"difference.json": found.to_json(), "difference.html": difference_page.render(found)}
        for name, content in contents.items():
            with replacing(folder / name) as stream:
                stream.write(content.encode())
    return found


def _sound(path: Path) -> dict[str, Any]:
    """The record of a report that can be compared: with itself it can. Raises BadInput naming what cannot."""
    record = read(path)
    try:
        found = compared(record, record)
        found.to_json()
        difference_page.render(found)
        difference_text.terminal(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInput(f"{path}: lacks what a report holds; write it anew with `deploy --report`") from error
    return record
