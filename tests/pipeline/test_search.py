"""`tpu_deploy.search` on a network one of whose convolutions loses everything in INT8."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx_cases import model as onnx_model
from planted_model import PLANTED, images, planted_model
from small_model import feeds, samples, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import CalibrationTable
from tpu_deploy.errors import BadInput
from tpu_deploy.pipeline.plans import plan_path
from tpu_deploy.pipeline.search import Search, TargetMissed
from tpu_deploy.pipeline.search_engine import Engine
from tpu_deploy.pipeline.search_noise import Probe
from tpu_deploy.quant import QuantizationPlan

TARGET = "similarity>=0.999"


class Heard:
    """Progress that remembers what it was told, and is interrupted at the stage of number `until`."""

    def __init__(self, until: int = -1) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self._until = until

    def stage(self, name: str) -> None:
        if len(self.stages) == self._until:
            raise KeyboardInterrupt
        self.stages.append(name)

    def samples(self, done: int, total: int | None, per_second: float) -> None:
        pass

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(planted_model(), tmp_path_factory.mktemp("planted") / "planted.onnx")


@pytest.fixture(scope="module")
def found(planted: Path) -> Search:
    """A search that was not interrupted; its files lie beside the model."""
    return tpu_deploy.search(planted, {"image": images(16)}, TARGET, output=planted.with_suffix(".qtable"))


def results(search: Search) -> dict[str, bytes]:
    """What a search wrote for its user, by suffix."""
    return {s: search.path.with_name(search.path.name + s).read_bytes() for s in ("", ".front.json", ".front.csv")}


def test_the_one_operation_that_loses_everything_is_found_and_only_it_goes_float(found: Search) -> None:
    assert found.is_reached and found.chosen.similarity >= 0.999
    assert found.chosen.operations == {PLANTED: "F16"}
    assert found.integer.similarity < 0.8
    assert found.integer.cycles < found.chosen.cycles < found.front[-1].cycles


def test_the_front_rises_and_holds_the_choice_once(found: Search) -> None:
    cycles, figures = zip(*((each.cycles, each.similarity) for each in found.front), strict=True)
    assert list(cycles) == sorted(set(cycles)) and list(figures) == sorted(set(figures))
    assert [each.chosen for each in found.front].count(True) == 1
    assert found.front[-1].label == "F16"


def test_the_table_leads_deploy_to_the_very_plan_and_cycles(found: Search, planted: Path, tmp_path: Path) -> None:
    built = tpu_deploy.deploy(
        planted,
        calibration=found.calibration,
        qtable=found.path,
        output=tmp_path / "m.bmodel",
        report=tmp_path / "report",
        verify=False,
    )
    assert (built.plan, built.timing.cycles) == (found.plan, found.chosen.cycles)
    shown = json.loads((tmp_path / "report" / "report.json").read_text())["search"]
    assert shown == json.loads(results(found)[".front.json"])
    assert [point["cycles"] for point in shown["points"]] == [each.cycles for each in found.front]


def test_the_csv_says_what_the_json_says(found: Search) -> None:
    rows = list(csv.DictReader(results(found)[".front.csv"].decode().splitlines()))
    points = json.loads(results(found)[".front.json"])["points"]
    assert [(int(row["cycles"]), float(row["similarity"])) for row in rows] == [
        (point["cycles"], point["similarity"]) for point in points
    ]


@pytest.mark.parametrize("stage", [7, 10])
def test_an_interrupted_search_goes_on_and_ends_as_one_that_was_not(
    found: Search, planted: Path, tmp_path: Path, stage: int
) -> None:
    output, data = tmp_path / "m.qtable", {"image": images(16)}
    with pytest.raises(KeyboardInterrupt):
        tpu_deploy.search(planted, data, TARGET, output=output, progress=Heard(stage))
    assert not output.exists()
    heard = Heard()
    again = tpu_deploy.search(planted, data, TARGET, output=output, progress=heard)
    assert any("earlier measurements are used" in line for line in heard.notes)
    assert results(again) == results(found)


def test_a_repeated_search_measures_nothing(found: Search, planted: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for file in found.path.parent.glob(f"{found.path.name}*"):
        shutil.copy(file, tmp_path)
    for measuring in (Engine._judged, Engine._compiled, Probe.measured):
        owner = Probe if measuring is Probe.measured else Engine
        monkeypatch.setattr(owner, measuring.__name__, lambda *_: pytest.fail("was measured before"))
    again = tpu_deploy.search(planted, {"image": images(16)}, TARGET, output=tmp_path / found.path.name)
    assert results(again) == results(found)


def test_other_samples_make_earlier_measurements_worthless_which_is_told(planted: Path, tmp_path: Path) -> None:
    output, heard = tmp_path / "m.qtable", Heard()
    model = small_model()
    tpu_deploy.search(model, feeds(8), "similarity>=0.99", output=output)
    tpu_deploy.search(model, feeds(8, seed=2), "similarity>=0.99", output=output, progress=heard)
    assert heard.notes == [f"{output}.search.json: another calibration table and samples; searching anew"]


def test_the_plan_is_as_near_as_was_measured(found: Search, planted: Path, tmp_path: Path) -> None:
    judged = [{"image": image[None]} for image in images(16)[3::4]]
    options = {"calibration": found.calibration, "qtable": found.path, "output": tmp_path / "m.bmodel"}
    built = tpu_deploy.deploy(planted, inputs=judged, gate=0.999, **options)
    figure = next(each.figure for each in built.checks if each.stage == "TPU INT8, mixed (reference)")
    assert float(figure.split()[1]) == pytest.approx(found.chosen.similarity, abs=2e-6)


def test_what_is_no_record_is_replaced_which_is_told(tmp_path: Path) -> None:
    output, heard = tmp_path / "m.qtable", Heard()
    Path(f"{output}.search.json").write_text("{")
    tpu_deploy.search(small_model(), feeds(4), "similarity>=0.9", output=output, progress=heard)
    assert f"{output}.search.json: is no record of a search; searching anew" in heard.notes
    assert json.loads(Path(f"{output}.search.json").read_text())["schema"] == 1


def test_an_unreachable_target_writes_the_best_and_says_how_good_it_is(tmp_path: Path) -> None:
    with pytest.raises(TargetMissed, match=r"reaches sqnr >= 500 dB; the best found has \d+\.\d dB \(F32, ") as caught:
        tpu_deploy.search(small_model(), feeds(8), "sqnr>=500dB", output=tmp_path / "m.qtable")
    best = caught.value.search
    assert not best.is_reached and best.chosen == best.front[-1]
    assert "scores F32" in best.path.read_text()
    assert all(each.sqnr_db <= best.chosen.sqnr_db for each in best.front)


def test_a_target_beyond_f16_is_reached_in_f32_unless_f16_was_asked_for(tmp_path: Path) -> None:
    search = tpu_deploy.search(small_model(), feeds(8), "sqnr>=100", output=tmp_path / "m.qtable")
    assert "F32" in search.chosen.label and search.chosen.sqnr_db >= 100
    with pytest.raises(TargetMissed, match="F16"):
        tpu_deploy.search(small_model(), feeds(8), "sqnr>=100", output=tmp_path / "n.qtable", precision="f16")


def test_what_leaves_the_range_of_f16_is_computed_in_bf16(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = onnx_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["large"]),
            helper.make_node("Tanh", ["large"], ["bounded"]),
            helper.make_node("MatMul", ["bounded", "v"], ["y"]),
        ],
        {"x": (1, 8)},
    )
    for name, scale in (("w", 3e4), ("v", 1.0)):
        array = (scale * rng.standard_normal((8, 8))).astype(np.float32)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    data = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(8)]
    search = tpu_deploy.search(made, data, "sqnr>=30", output=tmp_path / "m.qtable")
    assert {"large", "bounded"} & search.front[-1].operations.keys()
    for name in {"large", "bounded"} & search.front[-1].operations.keys():
        assert search.front[-1].operations[name] == "BF16"
    assert search.front[-1].operations["y"] == "F16"


def test_an_int8_network_that_is_good_enough_and_cheapest_stays_as_it_is(planted: Path, tmp_path: Path) -> None:
    model = saved(planted_model(outlier=0.1), tmp_path / "sound.onnx")
    search = tpu_deploy.search(model, {"image": images(16)}, "similarity>=0.9", output=tmp_path / "m.qtable")
    assert search.chosen.label == "INT8" and search.is_reached
    built = tpu_deploy.deploy(
        model, calibration=search.calibration, qtable=search.path, output=tmp_path / "m.bmodel", verify=False
    )
    assert set(built.plan.operations.values()) == {"INT8"}


def test_a_network_without_a_choice_is_left_as_it_is(tmp_path: Path) -> None:
    softmax = onnx_model([helper.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": (1, 7)})
    data = {"x": np.random.default_rng(0).standard_normal((8, 7)).astype(np.float32)}
    search = tpu_deploy.search(softmax, data, "similarity>=0.9999", output=tmp_path / "m.qtable")
    assert [(each.operations, each.chosen) for each in search.front] == [({"y": "F32"}, True)]


def test_a_network_of_several_samples_a_batch_is_ranked_and_judged_in_batches(tmp_path: Path) -> None:
    search = tpu_deploy.search(small_model(batch=4), feeds(20), "similarity>=0.99", output=tmp_path / "m.qtable")
    assert search.is_reached and search.samples == 5


def test_a_given_calibration_table_is_used_and_none_is_written(calibrated: Any, tmp_path: Path) -> None:
    search = tpu_deploy.search(
        calibrated.model, feeds(8), "similarity>=0.9", calibration=calibrated.table, output=tmp_path / "m.qtable"
    )
    assert search.calibration is None
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "m.qtable", "m.qtable.front.csv", "m.qtable.front.json", "m.qtable.search.json"
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    """A model, and a search from a plan that was tuned to it."""
    folder = tmp_path_factory.mktemp("tuned")
    model = saved(small_model(), folder / "m.onnx")
    data = {"image": samples(24)}
    return model, tpu_deploy.search(model, data, "sqnr>=40", method="auto", output=folder / "m.qtable")


def test_a_search_may_begin_with_a_tuned_plan_and_leaves_the_rest_of_it_as_it_was(tuned: tuple[Path, Search]) -> None:
    model, search = tuned
    assert search.is_reached and search.calibration is not None
    table, output = CalibrationTable.read(search.calibration), search.path.with_name("m.bmodel")
    assert table.method == "auto" and plan_path(search.calibration).exists()
    base = QuantizationPlan.load(plan_path(search.calibration))
    assert search.plan.trials == base.trials
    for name, each in search.plan.weights.items():
        assert np.array_equal(each.weights, base.weights[name].weights)
    assert {n: p for n, p in base.operations.items() if p != "INT8"}.items() <= search.plan.operations.items()
    built = tpu_deploy.deploy(model, calibration=search.calibration, qtable=search.path, output=output, verify=False)
    assert built.plan == search.plan and built.timing.cycles == search.chosen.cycles


def test_another_target_takes_the_plan_that_was_tuned_for_the_first(tuned: tuple[Path, Search]) -> None:
    model, search = tuned
    before, heard = plan_path(search.calibration).stat().st_mtime_ns, Heard()
    options = {"method": "auto", "output": search.path, "progress": heard}
    again = tpu_deploy.search(model, {"image": samples(24)}, "sqnr>=60", **options)
    assert heard.notes[0] == f"{search.calibration}: was made of the same samples, and is used again"
    assert (
        plan_path(search.calibration).stat().st_mtime_ns == before and again.integer.figures == search.integer.figures
    )
    heard.notes.clear()
    tpu_deploy.search(model, {"image": samples(23)}, "sqnr>=60", **options)
    assert "is used again" not in heard.notes[0]


def test_a_metric_may_drop_so_far_and_no_further(tmp_path: Path) -> None:
    classes = np.array([n % 5 for n in range(16)])
    data = {"image": np.concatenate([feed["image"] for feed in feeds(16)]), "labels": classes}
    search = tpu_deploy.search(small_model(), data, metric="topk", drop="0%", output=tmp_path / "m.qtable")
    assert search.target.words.startswith("topk >= ") and search.target.words.endswith(", 0% from the float model's")
    assert search.chosen.metric is not None and search.samples == 4


def test_a_metric_of_the_users_own_where_less_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_error.py").write_text("def far(outputs, label):\n    return abs(outputs['scores']).sum()\n")
    options = {"metric": "own_error:far", "less_is_better": True, "output": "m.qtable"}
    search = tpu_deploy.search(small_model(), feeds(8), drop="1%", **options)
    assert search.target.words.startswith("own_error:far <= ")
    assert all(each.metric is not None for each in search.front)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give either --target 'similarity>=0.99' or --metric NAME with --drop 0.5%"),
        ({"target": "similarity>=0.9", "metric": "topk", "drop": "1%"}, "give either --target"),
        ({"target": "similarity>=0.9", "drop": "1%"}, "--drop 1%: is for a --metric"),
        ({"metric": "topk"}, "--metric topk: how much worse may it be? give --drop 0.5%"),
        ({"metric": "topk", "drop": "some"}, "--drop some: 'some' is no number"),
        ({"metric": "topk", "drop": "-1%"}, "--drop -1%: is how much worse the metric may be; give 0 or more"),
        ({"metric": "topk", "drop": "1%"}, "--metric topk: needs labels"),
        ({"metric": "sqnr", "drop": "1%"}, "--metric sqnr: has no float figure to drop from"),
        ({"metric": "nowhere:score", "drop": "1%"}, "--metric nowhere:score: nowhere cannot be imported"),
        ({"metric": "math:nothing", "drop": "1%"}, "--metric math:nothing: the module math has no nothing"),
        ({"metric": "math:sqrt", "drop": "1%"}, "--metric math:sqrt: raised TypeError"),
        ({"target": "cycles<100"}, "--target cycles<100: is no target; write similarity>=0.99 or sqnr>=20"),
        ({"target": "similarity>=1.5"}, "--target similarity>=1.5: a cosine lies between -1 and 1"),
        ({"target": "similarity>=20dB"}, "--target similarity>=20dB: similarity is not in dB"),
        ({"target": "sqnr>=1.2.3"}, "--target sqnr>=1.2.3: '1.2.3' is no number"),
        ({"target": "sqnr>=20", "precision": "int4"}, "--precision int4: is unknown"),
        ({"target": "sqnr>=20", "output": "/nowhere/m.qtable"}, "-o /nowhere/m.qtable: cannot be written"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        tpu_deploy.search(small_model(), feeds(4), **{"output": "m.qtable", **options})
    assert str(caught.value).startswith(message), caught.value
    assert not Path("m.qtable").exists()
