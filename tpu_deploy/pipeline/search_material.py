"""What a search works with: samples to learn from and to judge on, ranges found on the former, files of its own."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from tpu_deploy.calibration.feeds import Feed
from tpu_deploy.calibration.samples import Samples
from tpu_deploy.calibration.table import CalibrationTable, tool_version
from tpu_deploy.errors import BadInput
from tpu_deploy.ir.network import Network
from tpu_deploy.pipeline import search_front
from tpu_deploy.pipeline.float_model import OriginalModel
from tpu_deploy.pipeline.labels import LabelledSamples
from tpu_deploy.pipeline.options import Progress, writable_file
from tpu_deploy.pipeline.plans import AUTO
from tpu_deploy.pipeline.samples import batches, held_back
from tpu_deploy.pipeline.search_noise import SAMPLES as RANKED
from tpu_deploy.pipeline.search_record import SearchRecord
from tpu_deploy.pipeline.search_samples import JUDGED, digest, divided, labelled_part, loaded, part, spread, unlabelled
from tpu_deploy.pipeline.search_target import MetricJudge
from tpu_deploy.pipeline.source import Source, input_specs
from tpu_deploy.pipeline.tables import check_table, collect, read_table, write_table
from tpu_deploy.pipeline.tuned_tables import tuned
from tpu_deploy.reports.metrics import Metric


@dataclass(frozen=True)
class Files:
    """The quantize table, and what is written beside it."""

    qtable: Path

    def _beside(self, suffix: str) -> Path:
        return self.qtable.with_name(f"{self.qtable.name}{suffix}")

    @property
    def record(self) -> Path:
        """What was measured."""
        return self._beside(".search.json")

    @property
    def front_json(self) -> Path:
        """The front."""
        return search_front.front_path(self.qtable)

    @property
    def front_csv(self) -> Path:
        """The front for spreadsheets."""
        return self._beside(".front.csv")

    @property
    def calibration(self) -> Path:
        """The calibration table, where the search made it."""
        return self._beside(".table")

    def check(self, *given: object) -> None:
        """Raises BadInput where one cannot be written, or is one of the files that are `given` to be read."""
        writable_file(self.qtable, "-o", *given)
        for beside in (self.record, self.front_json, self.front_csv):
            writable_file(beside, "-o", *given)


class Material:
    """The samples of a search: some to learn from, others to judge on."""

    def __init__(self, source: Source, top: Network, opened: LabelledSamples, calibrates: bool) -> None:
        """`calibrates`: whether thresholds come from them too."""
        self.source, self.top = source, top
        self.specs = input_specs(top)
        self.opened = unlabelled(opened, self.specs)
        self._whole = opened
        self.learned, self.held_out = divided(len(self.opened), calibrates)
        self.labelled = labelled_part(opened, self.held_out)
        self.ranking: list[Feed] = []
        self.judging: list[Feed] = []

    @property
    def learning(self) -> Samples:
        """The samples to learn from."""
        return part(self.opened, self.learned)

    @property
    def judged(self) -> list[int]:
        """The numbers of the samples that similarity is measured on."""
        return spread(self.held_out, JUDGED)

    def judge(self, metric: Metric, limit: int | None = None) -> MetricJudge:
        """The judge of a metric over the first `limit` (default: all) of the samples held out."""
        samples = labelled_part(self._whole, self.held_out[:limit])
        return MetricJudge(metric, samples, OriginalModel(self.source), self.specs)

    def load(self, progress: Progress) -> None:
        """Loads the batches to rank and to judge on. Raises BadInput for a sample that cannot be used."""
        progress.stage("Load samples")
        if self.learned == self.held_out:
            progress.note(
                f"{self.opened.source}: too few samples to hold any out; plans are judged on what they rest on"
            )
        ranked, judged = spread(self.learned, RANKED), self.judged
        feeds = loaded(self.opened, [*ranked, *judged])
        self.ranking = batches([feeds[number] for number in ranked], self.specs)
        self.judging = batches([feeds[number] for number in judged], self.specs)


@dataclass(frozen=True)
class Ranges:
    """A calibration table, where it lies (None: in memory), and what tells the samples it was made of from others."""

    table: CalibrationTable
    path: Path | None
    origin: str = ""


def given_ranges(material: Material, calibration: CalibrationTable | str | os.PathLike[str]) -> Ranges:
    """A given table. Raises BadInput when it is none of this network's."""
    if isinstance(calibration, CalibrationTable):
        check_table(calibration, material.source, material.top)
        return Ranges(calibration, None)
    return Ranges(read_table(calibration, material.source, material.top), Path(calibration))


def own_ranges(
    material: Material, method: str, samples: str, chip: str, files: Files, tpu_mlir_names: bool, progress: Progress
) -> Ranges:
    """A table of the samples to learn from, by `method`, written beside the result.

    One that an earlier search made of the same is taken as it is; `samples` tells these from others, "" cannot.
    """
    source, top = material.source, material.top
    asked = [samples, method, chip, str(tpu_mlir_names)]
    told = [*asked, str(material.learned), str(material.specs), source.hash, tool_version()]
    origin = hashlib.sha256("\n".join(told).encode()).hexdigest() if samples else ""
    if origin and SearchRecord.origin_in(files.record) == origin:
        try:
            found = Ranges(read_table(files.calibration, source, top), files.calibration, origin)
        except BadInput:
            pass
        else:
            progress.note(f"{files.calibration}: was made of the same samples, and is used again")
            return found
    progress.stage("Calibrate")
    opened, first = held_back(material.learning, material.specs)
    if method == AUTO:
        table = tuned(top, source, opened, chip, None, 1, progress)
    else:
        table = CalibrationTable.of(collect(top, source, opened, 1, progress), method)
    graph = source.file.proto.graph if tpu_mlir_names else None
    write_table(replace(table, first_samples=tuple(first)), files.calibration, graph)
    return Ranges(read_table(files.calibration, source, top), files.calibration, origin)


def identity(material: Material, ranges: Ranges, chip: str) -> dict[str, str]:
    """What measurements depend on, each by what tells it from others."""
    table = f"{sorted(ranges.table.items())} {ranges.table.plan_hash}"
    return {
        "model": material.source.hash,
        "calibration table": hashlib.sha256(table.encode()).hexdigest(),
        "samples": digest([*material.ranking, *material.judging]),
        "chip": chip,
        "version": tool_version(),
    }
