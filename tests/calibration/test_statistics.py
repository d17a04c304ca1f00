import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.calibration import Statistics, merge
from tpu_deploy.calibration.recorder import CHANNEL_STRIDE, Recorder
from tpu_deploy.errors import BadInput


def recorded(seed: int, tensors: int = 3, samples: int = 2, shape: tuple[int, ...] = (1, 4, 5, 5)) -> Statistics:
    rng = np.random.default_rng(seed)
    recorder = Recorder([f"t{index}" for index in range(tensors)], 0)
    for sample in range(seed * samples, (seed + 1) * samples):
        for index in range(tensors):
            recorder.record(index, rng.normal(0, 3.0**seed, shape).astype(np.float32), sample)
    return replace(recorder.statistics("sha256:1"), samples=samples)


def same(a: Statistics, b: Statistics) -> bool:
    """Whether all is equal bit for bit."""
    ours, theirs = a.to_arrays(), b.to_arrays()
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and np.array_equal(ours[key], theirs[key]) for key in ours
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


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 4), st.data())
def test_statistics_of_samples_merged_in_any_order_and_grouping_are_those_of_one_run(order, rows, data):
    rng = np.random.default_rng(7)
    scales = 10.0 ** rng.integers(-9, 9, 5)
    runs = [[(rng.normal(size=(rows, 6, 9)) * s).astype(np.float32) for _ in "ab"] for s in scales]

    def of(batches: list[int]) -> Statistics:
        recorder = Recorder(["a", "b"], 0)
        for batch in batches:
            for index, values in enumerate(runs[batch]):
                recorder.record(index, values, batch * rows, rows, batch * CHANNEL_STRIDE)
        return replace(recorder.statistics("m"), samples=len(batches) * rows)

    parts = [of([batch]) for batch in order]
    while len(parts) > 1:
        at = data.draw(st.integers(0, len(parts) - 2))
        parts[at : at + 2] = [merge(parts[at], parts[at + 1])]
    assert same(parts[0], of(list(range(5))))


def test_an_empty_record_changes_nothing_when_merged():
    empty = Recorder(["t0", "t1", "t2"], 0).statistics("sha256:1")
    statistics = recorded(1)
    assert same(merge(empty, statistics), statistics)


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (replace(recorded(1), model_hash="sha256:2"), "two models"),
        (recorded(1, tensors=2), "differ in t2"),
        (replace(recorded(1), values_per_tensor=5), "different number of values"),
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


@pytest.mark.parametrize(("schema", "age"), [(99, "a newer"), (1, "an older")])
def test_another_schema_is_refused(tmp_path, schema, age):
    recorded(1).save(tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    header = json.loads(bytes(arrays["header"])) | {"schema": schema}
    np.savez(tmp_path / "b.npz", **(arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))
    with pytest.raises(BadInput, match=f"b.npz: written by {age} version"):
        Statistics.load(tmp_path / "b.npz")


LAYOUTS = {"plain": (3, 16, 6, 5), "positions": (3, 7, 16), "vectors": (3, 16), "volumes": (3, 16, 2, 3, 4)}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("name", LAYOUTS)
def test_range_and_mean_of_each_channel_are_exact(name, dtype):
    values = np.random.default_rng(3).normal(0.1, size=LAYOUTS[name]).astype(dtype)
    values[:, 3] -= dtype(20)
    recorder = Recorder(["t"], 0)
    recorder.record(0, values[:1], 0)
    recorder.record(0, values[1:], 1, 2, CHANNEL_STRIDE)
    channels = recorder.statistics("").channels["t"]
    axis = 2 if name == "positions" else 1
    others = tuple(other for other in range(values.ndim) if other != axis)
    assert channels.axis == axis
    assert np.array_equal(channels.minimum, values.min(axis=others))
    assert np.array_equal(channels.maximum, values.max(axis=others))
    np.testing.assert_allclose(channels.mean, values.mean(axis=others, dtype=np.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [8, 16])
def test_channels_in_blocks_are_told_apart(block):
    values = np.random.default_rng(3).normal(size=(2, 32, 7, 3)).astype(np.float32)
    blocked = values.reshape(2, 32 // block, block, 21).transpose(0, 1, 3, 2).reshape(values.shape)
    plain, in_blocks = Recorder(["t"], 0), Recorder(["t"], 0, blocks={"t": block})
    plain.record(0, values, 0, 2)
    in_blocks.record(0, np.ascontiguousarray(blocked), 0, 2)
    ours, theirs = (recorder.statistics("").channels["t"] for recorder in (in_blocks, plain))
    assert np.array_equal(ours.minimum, theirs.minimum) and np.array_equal(ours.maximum, theirs.maximum)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5, atol=1e-6)


def test_a_tensor_whose_channels_vary_in_number_has_none_in_whatever_order_they_come():
    parts = [recorded(seed, 1, CHANNEL_STRIDE, (1, channels, 2, 2)) for seed, channels in enumerate((4, 5, 4))]
    for order in itertools.permutations(parts):
        merged = merge(merge(order[0], order[1]), order[2])
        assert merged.channels["t0"].minimum.shape == (0,)
        assert merged.maximum[0] == max(part.maximum[0] for part in parts)


def test_the_range_on_each_sample_is_kept_also_of_batches():
    values = np.random.default_rng(3).normal(size=(5, 4, 3)).astype(np.float32)
    recorder = Recorder(["t"], 0)
    recorder.record(0, values[:3], 0, 3, 0)
    recorder.record(0, values[3:], 3, 2, 1)
    extremes = recorder.statistics("").extremes
    assert extremes.numbers.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(extremes.minimum[:, 0], values.min(axis=(1, 2)))
    assert np.array_equal(extremes.maximum[:, 0], values.max(axis=(1, 2)))


def test_even_batches_are_also_counted_alone():
    values = np.random.default_rng(3).normal(size=(2, 400)).astype(np.float32)
    recorder = Recorder(["t"], 0)
    recorder.record(0, values[:1], 0)
    recorder.record(0, 1000 * values[1:], 1)
    statistics = recorder.statistics("")
    assert statistics.even_counts.sum() == 400 and statistics.counts.sum() == 800
    assert np.ptp(np.flatnonzero(statistics.even_counts[0])) < 0.01 * np.ptp(np.flatnonzero(statistics.counts[0]))
