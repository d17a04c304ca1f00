import json
from dataclasses import replace

import numpy as np
import pytest

from tpu_deploy.calibration import ChannelRange, Statistics, merge
from tpu_deploy.calibration.recorder import Recorder
from tpu_deploy.errors import BadInput


def recorded(seed: int, tensors: int = 3, per_channel: bool = True, samples: int = 2) -> Statistics:
    rng = np.random.default_rng(seed)
    recorder = Recorder([f"t{index}" for index in range(tensors)], 0, per_channel=per_channel)
    for sample in range(samples):
        for index in range(tensors):
            recorder.record(index, rng.normal(0, 3.0**seed, (1, 4, 5, 5)).astype(np.float32), sample)
    return replace(recorder.statistics("sha256:1"), samples=samples)


def same(a: Statistics, b: Statistics) -> bool:
    channels = a.channels.keys() == b.channels.keys() and all(
        x.axis == y.axis and np.array_equal(x.minimum, y.minimum) and np.array_equal(x.maximum, y.maximum)
        for x, y in zip(a.channels.values(), b.channels.values(), strict=True)
    )
    vectors = ("minimum", "maximum", "exponent", "counts", "zeros")
    scalars = ("names", "samples", "model_hash", "values_per_tensor")
    return (
        channels
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vectors)
        and all(getattr(a, name) == getattr(b, name) for name in scalars)
    )


def test_what_is_loaded_is_what_was_saved_and_the_bytes_are_reproducible(tmp_path):
    statistics = recorded(1)
    for name in ("a", "b"):
        statistics.save(tmp_path / name)
    assert same(Statistics.load(tmp_path / "a"), statistics)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_merging_is_associative_and_order_free():
    a, b, c = recorded(0), recorded(1), recorded(2)
    assert same(merge(merge(a, b), c), merge(a, merge(b, c)))
    assert same(merge(a, b), merge(b, a))
    assert merge(a, b).samples == 4
    assert merge(a, b).counts.sum() == a.counts.sum() + b.counts.sum()


def test_an_empty_record_changes_nothing_when_merged():
    empty = Recorder(["t0", "t1", "t2"], 0).statistics("sha256:1")
    statistics = recorded(1, per_channel=False)
    assert same(merge(empty, statistics), statistics)


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (replace(recorded(1), model_hash="sha256:2"), "two models"),
        (recorded(1, tensors=2), "differ in t2"),
        (replace(recorded(1), values_per_tensor=5), "different number of values"),
        (recorded(1, per_channel=False), "different tensors"),
        (
            replace(recorded(1), channels={n: ChannelRange(1, np.zeros(2), np.zeros(2)) for n in ("t0", "t1", "t2")}),
            "t0",
        ),
    ],
)
def test_what_does_not_belong_together_is_not_merged(other, fault):
    with pytest.raises(BadInput, match=fault):
        merge(recorded(0), other)


def test_files_that_are_no_statistics_are_bad_input(tmp_path):
    recorded(1).save(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(content[: len(content) // 2])
    (tmp_path / "text").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "header.npz", header=np.frombuffer(b"{}", np.uint8))
    for name in ("none", "empty", "short", "text", "other.npz", "header.npz"):
        with pytest.raises(BadInput, match=name):
            Statistics.load(tmp_path / name)


def test_a_newer_schema_is_refused(tmp_path):
    recorded(1).save(tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    header = json.loads(bytes(arrays["header"])) | {"schema": 99}
    np.savez(tmp_path / "b.npz", **(arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))
    with pytest.raises(BadInput, match="newer version"):
        Statistics.load(tmp_path / "b.npz")


def test_channel_ranges_are_exact():
    values = np.random.default_rng(3).normal(size=(2, 4, 5, 5)).astype(np.float32)
    recorder = Recorder(["t"], 0, per_channel=True)
    recorder.record(0, values[:1], 0)
    recorder.record(0, values[1:], 1)
    channels = recorder.statistics("").channels["t"]
    assert channels.axis == 1
    assert np.array_equal(channels.minimum, values.min(axis=(0, 2, 3)))
    assert np.array_equal(channels.maximum, values.max(axis=(0, 2, 3)))
