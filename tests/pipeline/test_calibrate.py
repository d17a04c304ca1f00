from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import feeds, samples, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import CalibrationTable, Statistics
from tpu_deploy.pipeline.tables import statistics_path


def test_any_iterable_of_feeds_or_arrays_gives_the_same_table(calibrated: Any) -> None:
    for data in (iter(feeds(8)), [each["image"] for each in feeds(8)], {"image": samples(8)}):
        assert tpu_deploy.calibrate(calibrated.model, data).entries == calibrated.table.entries


def test_only_the_first_samples_count_when_asked(calibrated: Any) -> None:
    first = tpu_deploy.calibrate(calibrated.model, feeds(3))
    assert tpu_deploy.calibrate(calibrated.model, feeds(8), samples=3).entries == first.entries


def test_a_message_calibrates_like_its_file(calibrated: Any) -> None:
    assert tpu_deploy.calibrate(small_model(), feeds(8)).entries == calibrated.table.entries


@pytest.mark.parametrize("batch", [4, "N"])
def test_the_batch_of_the_model_does_not_change_exact_ranges(calibrated: Any, batch: int | str) -> None:
    table = tpu_deploy.calibrate(small_model(batch), feeds(7), batch_size=3, method="max")
    alone = tpu_deploy.calibrate(calibrated.model, feeds(7), method="max")
    assert list(table) == list(alone)
    for name in alone:
        assert table[name].max == pytest.approx(alone[name].max, rel=1e-5), name
        assert table[name].min == pytest.approx(alone[name].min, rel=1e-5), name


def test_a_table_and_its_statistics_lie_beside_each_other(calibrated: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.table"
    table = tpu_deploy.calibrate(calibrated.model, feeds(8), output=path)
    assert {each.name for each in tmp_path.iterdir()} == {
        "model.table",
        "model.table.samples.npz",
        "model.table.statistics.npz",
    }
    read = CalibrationTable.read(path)
    assert list(read) == list(table) and read.model_hash == table.model_hash
    assert CalibrationTable.of(Statistics.load(statistics_path(path)), "mse").entries == table.entries


def test_statistics_make_another_method_without_samples(calibrated: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.table"
    tpu_deploy.calibrate(calibrated.model, feeds(8), output=path)
    again = tpu_deploy.calibrate(calibrated.model, statistics=statistics_path(path), method="percentile")
    assert again.entries == tpu_deploy.calibrate(calibrated.model, feeds(8), method="percentile").entries


def test_every_sample_is_reported(calibrated: Any) -> None:
    class Listener:
        def __init__(self) -> None:
            self.done: list[tuple[int, int | None]] = []

        def stage(self, name: str) -> None:
            pass

        def samples(self, done: int, total: int | None, per_second: float) -> None:
            self.done.append((done, total))

        def note(self, line: str) -> None:
            pass

    heard = Listener()
    tpu_deploy.calibrate(calibrated.model, feeds(8), progress=heard)
    assert sorted(heard.done) == [(number, 8) for number in range(1, 9)]


def test_a_network_that_overflows_is_a_failed_check_naming_the_tensor(tmp_path: Path) -> None:
    model = small_model()
    weight = next(each for each in model.graph.initializer if each.name == "w2")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1e20)).tobytes()
    saved(model, tmp_path / "m.onnx")
    with pytest.raises(tpu_deploy.CheckFailed, match="conv2"):
        tpu_deploy.calibrate(tmp_path / "m.onnx", [{"image": np.full((1, 3, 16, 16), 1e25, np.float32)}])


def test_the_first_samples_are_kept_with_the_table_and_deploy_verifies_on_them(calibrated: Any, tmp_path: Path) -> None:
    tpu_deploy.calibrate(calibrated.model, feeds(9), output=tmp_path / "t.table")
    kept = np.load(tmp_path / "t.table.samples.npz")["image"]
    assert np.array_equal(kept, np.concatenate([feed["image"] for feed in feeds(9)[: len(kept)]]))
    built = tpu_deploy.deploy(calibrated.model, calibration=tmp_path / "t.table", output=tmp_path / "o.bmodel")
    assert built.verification is not None
    assert "t.table.samples.npz" in built.verification.inputs


def test_another_method_from_statistics_keeps_the_same_samples(calibrated: Any, tmp_path: Path) -> None:
    tpu_deploy.calibrate(calibrated.model, feeds(9), output=tmp_path / "a")
    tpu_deploy.calibrate(
        calibrated.model, statistics=statistics_path(tmp_path / "a"), method="kl", output=tmp_path / "b"
    )
    assert (tmp_path / "a.samples.npz").read_bytes() == (tmp_path / "b.samples.npz").read_bytes()


def test_a_table_comes_with_advice_on_its_samples(calibrated: Any, tmp_path: Path) -> None:
    data = [*feeds(9), feeds(9)[2], {"image": 200 * feeds(1, seed=5)[0]["image"]}]
    table = tpu_deploy.calibrate(calibrated.model, data, output=tmp_path / "t")
    assert table.advice is not None and table.advice.confidence is not None
    assert table.advice.duplicates == ((9, 2),)
    assert [each.sample for each in table.advice.outliers] == [10]
    again = tpu_deploy.calibrate(calibrated.model, statistics=statistics_path(tmp_path / "t"))
    assert again.advice == table.advice


def test_wrongly_scaled_pictures_are_suspected_aloud(calibrated: Any) -> None:
    wrong = [{"image": 100 * feed["image"]} for feed in feeds(8)]
    advice = tpu_deploy.calibrate(calibrated.model, wrong).advice
    assert advice is not None and [each.kind for each in advice.suspicions] == ["scale"]
    right = tpu_deploy.calibrate(calibrated.model, feeds(8)).advice
    assert right is not None and right.suspicions == ()
