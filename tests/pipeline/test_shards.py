from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import feeds, samples, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import shards
from tpu_deploy.calibration.shards import PartialStatistics, Shard
from tpu_deploy.pipeline.samples import samples_path
from tpu_deploy.pipeline.tables import statistics_path


def parts(folder: Path, count: int, data: Any = None, **options: Any) -> list[Path]:
    """All shards of the samples, written."""
    model = saved(small_model("N"), folder / "m.onnx")
    given = samples(11) if data is None else data
    for number in range(1, count + 1):
        path = folder / f"{number}.part"
        tpu_deploy.calibrate_shard(model, given, f"{number}/{count}", output=path, **options)
    return [folder / f"{number}.part" for number in range(1, count + 1)]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (3, 1), (2, 4), (14, 1)])
def test_joined_shards_write_the_very_files_of_one_run(tmp_path: Path, count: int, batch_size: int) -> None:
    made = parts(tmp_path, count, batch_size=batch_size)
    tpu_deploy.calibrate(tmp_path / "m.onnx", samples(11), batch_size=batch_size, output=tmp_path / "whole")
    table = tpu_deploy.merge_shards(made[::-1], output=tmp_path / "joined")
    for beside in (Path, statistics_path, samples_path):
        assert beside(tmp_path / "joined").read_bytes() == beside(tmp_path / "whole").read_bytes()
    assert table.samples == 11 and len(table.first_samples) > 0


def test_the_order_of_the_parts_changes_nothing(tmp_path: Path) -> None:
    made = [PartialStatistics.load(path) for path in parts(tmp_path, 3)]
    tables = [tpu_deploy.merge_shards(order, method="percentile") for order in itertools.permutations(made)]
    assert all(table == tables[0] for table in tables)


def test_samples_of_an_iterator_are_dealt_out_too(tmp_path: Path) -> None:
    made = [tpu_deploy.calibrate_shard(small_model(), iter(feeds(7)), Shard(number, 2)) for number in (1, 2)]
    assert [part.statistics.samples for part in made] == [4, 3]
    assert tpu_deploy.merge_shards(made).entries == tpu_deploy.calibrate(small_model(), feeds(7)).entries


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model": small_model(seed=1)}, "another model"),
        ({"data": samples(11, seed=9)}, "another first sample"),
        ({"data": samples(10)}, r"another number of samples than .* \(10, not 11\)"),
        ({"batch_size": 2}, "another batch size"),
        ({"input_shapes": {"image": (2, 3, 16, 16)}}, "another shape of inputs"),
        ({"shard": "2/3"}, "is shard 2/3, but .* is 1/2"),
        ({"shard": "1/2"}, r"is shard 1/2, and so is .*1\.part"),
    ],
)
def test_what_is_of_another_run_is_named(tmp_path: Path, other: dict[str, Any], told: str) -> None:
    made = parts(tmp_path, 2)
    given = {"model": tmp_path / "m.onnx", "data": samples(11), "shard": "2/2", **other}
    tpu_deploy.calibrate_shard(**given, output=tmp_path / "odd.part")
    with pytest.raises(tpu_deploy.BadInput, match=told):
        tpu_deploy.merge_shards([made[0], tmp_path / "odd.part"], output=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    with pytest.raises(tpu_deploy.BadInput, match=r"one of 4 shards; missing: 1, 3$"):
        tpu_deploy.merge_shards([parts(tmp_path, 4)[number] for number in (1, 3)])


def test_a_part_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parts(tmp_path, 1)
    monkeypatch.setattr(shards, "tool_version", lambda: "9.9")
    with pytest.raises(tpu_deploy.BadInput, match=r"1\.part: written by version .*, this is 9\.9"):
        tpu_deploy.merge_shards(made)


def test_a_file_that_is_no_part_is_named(tmp_path: Path) -> None:
    tpu_deploy.calibrate(small_model(), feeds(2), output=tmp_path / "t")
    (tmp_path / "cut").write_bytes(parts(tmp_path, 1)[0].read_bytes()[:-500])
    np.savez(tmp_path / "arrays.npz", part=np.zeros(3))
    for name in ("none", "t", "t.statistics.npz", "cut", "arrays.npz"):
        with pytest.raises(tpu_deploy.BadInput, match=name):
            tpu_deploy.merge_shards([tmp_path / name])


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/0", "1.5/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(tpu_deploy.BadInput, match=r"--shard .*2/4"):
        Shard.parse(text)
