from functools import reduce

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tpu_deploy.calibration import CalibrationTable, Samples, Statistics, collect_statistics, merge
from tpu_deploy.calibration.activations import in_plain_order, observe
from tpu_deploy.calibration.histogram import BINS
from tpu_deploy.calibration.network import Network
from tpu_deploy.calibration.recorder import CHANNEL_STRIDE
from tpu_deploy.calibration.shards import Shard
from tpu_deploy.calibration.thresholds import METHODS, Magnitudes, SquaredError, thresholds
from tpu_deploy.errors import BadInput, CheckFailed

TENSORS = ["x", "relu0", "conv1", "sum", "mean", "flat", "logits"]


def every_value(model: onnx.ModelProto, feeds: list[np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """All values of the tensors over all feeds, by plain onnxruntime without optimization."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "x")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = {"x": np.concatenate([feed.ravel() for feed in feeds])} if "x" in names else {}
    results = [session.run(None, {"x": feed}) for feed in feeds]
    for position, output in enumerate(session.get_outputs()):
        values[output.name] = np.concatenate([result[position].ravel() for result in results])
    return values


def same(a: Statistics, b: Statistics) -> bool:
    """Whether all is equal bit for bit."""
    ours, theirs = a.to_arrays(), b.to_arrays()
    return all(np.array_equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())


@pytest.mark.parametrize("channels", [16, 24, 32])
def test_ranges_are_those_of_all_values_whatever_the_layout(small_network, pictures, channels):
    model = small_network(channels)
    statistics = collect_statistics(model, pictures)
    assert list(statistics.names) == TENSORS
    assert statistics.samples == 12
    values = every_value(model, [picture[None] for picture in pictures], TENSORS)
    for name, low, high in zip(TENSORS, statistics.minimum, statistics.maximum, strict=True):
        assert low == pytest.approx(values[name].min(), rel=1e-5, abs=1e-5)
        assert high == pytest.approx(values[name].max(), rel=1e-5, abs=1e-5)


def test_reordering_is_cut_out_without_changing_a_single_bit(small_network, pictures):
    network = Network.load(small_network(32))
    activations = observe(network, ["relu0", "conv1", "logits"], {"x": pictures[:1]})
    assert activations.is_optimized
    values = activations.session.run(None, {"x": pictures[:1]})
    assert activations.blocks.keys() == {"relu0", "conv1"}
    for name, found, expected in zip(activations.tensors, values, activations.example, strict=True):
        block = activations.blocks.get(name)
        assert np.array_equal(in_plain_order(found, block) if block else found, expected)


def test_channels_that_are_padded_stay_in_plain_order(small_network, pictures):
    network = Network.load(small_network(24))
    activations = observe(network, ["relu0", "conv1"], {"x": pictures[:1]})
    assert not activations.is_optimized


def test_without_sampling_every_value_is_counted(small_network, pictures):
    model = small_network()
    statistics = collect_statistics(model, pictures, values_per_tensor=0)
    values = every_value(model, [picture[None] for picture in pictures], TENSORS)
    for name, counts, zeros in zip(TENSORS, statistics.counts, statistics.zeros, strict=True):
        assert counts.sum() == values[name].size
        assert zeros == pytest.approx(np.count_nonzero(values[name] == 0), rel=1e-3)


def test_sampled_thresholds_are_near_those_of_all_values(small_network):
    model = small_network(size=64)
    rng = np.random.default_rng(5)
    pictures = (rng.normal(size=(16, 3, 64, 64)) * rng.lognormal(size=(16, 1, 1, 1))).astype(np.float32)
    full = collect_statistics(model, pictures, values_per_tensor=0)
    sampled = collect_statistics(model, pictures, values_per_tensor=2048)
    assert np.array_equal(full.minimum, sampled.minimum)
    assert np.array_equal(full.maximum, sampled.maximum)
    assert sampled.counts.sum() == pytest.approx(full.counts.sum(), rel=0.02)
    expected, found = thresholds(full, "percentile"), thresholds(sampled, "percentile")
    for name in TENSORS:
        assert found[name].threshold == pytest.approx(expected[name].threshold, rel=0.03), name
    width = np.ldexp(1.0 / BINS, full.exponent)
    error = SquaredError.of(Magnitudes.of(full, width))
    best, ours = (
        np.array([entry.threshold for entry in thresholds(statistics, "mse").values()]) / width
        for statistics in (full, sampled)
    )
    assert (error.at(ours[:, None]) <= 1.02 * error.at(best[:, None])).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_result_does_not_depend_on_the_number_of_threads(small_network, pictures, threads):
    model = small_network(size="H")
    data = [picture[None, :, : 24 - index] for index, picture in enumerate(pictures)]
    once = collect_statistics(model, data, threads=1, values_per_tensor=100)
    assert same(collect_statistics(model, data, threads=threads, values_per_tensor=100), once)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_batches_change_neither_ranges_nor_counts(small_network, pictures, batch_size):
    model = small_network()
    once = collect_statistics(model, pictures, values_per_tensor=0)
    batched = collect_statistics(model, pictures, batch_size=batch_size, values_per_tensor=0)
    assert batched.samples == 12
    np.testing.assert_allclose(batched.minimum, once.minimum, rtol=1e-5)
    np.testing.assert_allclose(batched.maximum, once.maximum, rtol=1e-5)
    assert np.array_equal(batched.counts.sum(axis=1), once.counts.sum(axis=1))


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_fixed_batch_is_filled_and_the_filling_is_not_counted(small_network, pictures, count):
    fixed = collect_statistics(small_network(batch=4), pictures[:count], values_per_tensor=0)
    loose = collect_statistics(small_network(), pictures[:count], values_per_tensor=0)
    assert fixed.samples == count
    np.testing.assert_allclose(fixed.maximum, loose.maximum, rtol=1e-5)
    assert np.array_equal(fixed.counts.sum(axis=1), loose.counts.sum(axis=1))


@pytest.mark.parametrize(("batch_size", "shards"), [(1, 3), (5, 2), (1, 20)])
def test_shards_merged_in_any_order_are_one_run(small_network, pictures, batch_size, shards):
    model = small_network()
    whole = collect_statistics(model, pictures, batch_size=batch_size, values_per_tensor=100)
    parts = [
        collect_statistics(model, pictures, batch_size=batch_size, values_per_tensor=100, shard=Shard(number, shards))
        for number in range(1, shards + 1)
    ]
    assert sum(part.samples for part in parts) == whole.samples == 12
    assert same(reduce(merge, parts), whole) and same(reduce(merge, parts[::-1]), whole)


def test_a_shard_decodes_none_but_its_own_samples_and_the_first(small_network, pictures):
    loaded = []

    def loaders():
        for number, picture in enumerate(pictures):
            yield lambda number=number, picture=picture: loaded.append(number) or {"x": picture[None]}

    collect_statistics(small_network(), Samples("pictures", 12, loaders), shard=Shard(2, 4), threads=1)
    assert loaded == [0, 1, 5, 9]


@pytest.mark.parametrize("channels", [24, 32])
def test_each_channel_is_known_by_one_batch_out_of_a_few(small_network, pictures, channels):
    statistics = collect_statistics(small_network(channels), pictures)
    seen = [picture[None] for picture in pictures[::CHANNEL_STRIDE]]
    for name in ("relu0", "conv1"):
        found = statistics.channels[name]
        values = every_value(small_network(channels), seen, [name])[name].reshape(len(seen), channels, -1)
        np.testing.assert_allclose(found.minimum, values.min(axis=(0, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.maximum, values.max(axis=(0, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.mean, values.mean(axis=(0, 2)), rtol=1e-4, atol=1e-5)


def test_tensors_asked_for_are_observed_in_graph_order_and_no_others(small_network, pictures):
    statistics = collect_statistics(small_network(), pictures, tensors=["logits", "conv0", "x"])
    assert statistics.names == ("x", "conv0", "logits")
    assert statistics.minimum[1] < 0


def test_progress_counts_all_samples(small_network, pictures):
    calls: list[tuple[int, int | None, float]] = []
    collect_statistics(small_network(), pictures, progress=lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == list(range(1, 13))
    assert all(total == 12 and rate > 0 for _, total, rate in calls)
    calls.clear()
    collect_statistics(small_network(), iter(pictures), progress=lambda *call: calls.append(call))
    assert calls[-1][:2] == (12, None)


def test_a_model_may_be_bytes_a_path_or_a_proto(small_network, pictures, tmp_path):
    model = small_network()
    onnx.save(model, tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()
    by_path = collect_statistics(tmp_path / "m.onnx", pictures)
    by_bytes = collect_statistics(data, pictures)
    assert same(by_path, by_bytes)
    assert same(by_path, collect_statistics(model, pictures))
    assert by_path.model_hash == by_bytes.model_hash
    assert collect_statistics(data, pictures, model_hash="mine").model_hash == "mine"
    assert not onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["logits"]


def test_a_model_with_external_weights_is_read(small_network, pictures, tmp_path):
    onnx.save(small_network(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert collect_statistics(tmp_path / "m.onnx", pictures[:1]).samples == 1
    (tmp_path / "w.bin").unlink()
    with pytest.raises(BadInput, match=r"m\.onnx"):
        collect_statistics(tmp_path / "m.onnx", pictures[:1])


def one_node(op: str, inputs: list[tuple[str, int, list[int | str]]], output: int, **attributes) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, [name for name, _, _ in inputs], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info("y", output, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("op", "value", "what"), [("Sqrt", -1.0, "NaN"), ("Reciprocal", 0.0, "infinity")])
def test_nan_and_infinity_arising_in_the_network_name_tensor_and_sample(op, value, what):
    model = one_node(op, [("x", TensorProto.FLOAT, ["N", 40])], TensorProto.FLOAT)
    data = np.ones((9, 40), np.float32)
    data[7, 3] = value
    for values_per_tensor in (0, 4):
        with pytest.raises(CheckFailed, match=f"tensor 'y' holds {what} on sample 7"):
            collect_statistics(model, data, values_per_tensor=values_per_tensor)
    with pytest.raises(CheckFailed, match="samples 6 to 8"):
        collect_statistics(model, data, batch_size=3)


def test_the_earliest_bad_sample_is_reported_by_any_number_of_threads(small_network, pictures):
    data = list(pictures)
    data[5] = data[8] = np.zeros((1, 3, 24), np.float32)
    for threads in (1, 2, 4):
        with pytest.raises(BadInput, match="sample 5: 'x' has shape"):
            collect_statistics(small_network(), data, threads=threads)


def test_a_broken_iterator_ends_the_collection(small_network, pictures):
    def broken():
        yield from pictures[:3]
        raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        collect_statistics(small_network(), broken())


def test_tensors_without_reals_are_skipped_or_refused_when_asked_for():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ArgMax", ["x"], ["index"], axis=1),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, [None]),
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in (("y", 1), ("index", 7), ("shape", 7))],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feeds = [{"x": np.ones((1, 4), np.float32), "ids": np.array([index])} for index in range(4)]
    assert collect_statistics(model, feeds).names == ("x", "rows", "y")
    for name in ("ids", "index"):
        with pytest.raises(BadInput, match=f"'{name}' does not hold real numbers"):
            collect_statistics(model, feeds, tensors=["x", "y", name])
    with pytest.raises(BadInput, match="none of the tensors"):
        collect_statistics(model, feeds, tensors=["index"])


def test_outputs_whose_shape_depends_on_the_data_are_collected():
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "nonzero",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data = [np.eye(6, dtype=np.float32)[index : index + 1] for index in range(6)] + [np.ones((1, 6), np.float32)]
    statistics = collect_statistics(model, [np.zeros((1, 6), np.float32), *data], tensors=["y"], values_per_tensor=0)
    assert (statistics.minimum[0], statistics.maximum[0]) == (0, 5)
    assert statistics.counts[0].sum() == 2 * (6 + 6)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (b"", "not a usable ONNX model"),
        (b"\x00garbage", "not a usable ONNX model"),
        ("nowhere.onnx", "nowhere.onnx: cannot be read"),
    ],
)
def test_what_is_no_model_is_bad_input(model, fault, pictures):
    with pytest.raises(BadInput, match=fault):
        collect_statistics(model, pictures)


def test_an_operator_onnxruntime_does_not_know_is_bad_input(pictures):
    model = one_node("Frobnicate", [("x", TensorProto.FLOAT, ["N", 3, 24, 24])], TensorProto.FLOAT)
    with pytest.raises(BadInput, match=r"onnxruntime refuses the model: .*Frobnicate"):
        collect_statistics(model, pictures)


def test_an_unknown_tensor_is_named_with_the_nearest(small_network, pictures):
    with pytest.raises(BadInput, match=r"'logit' is not computed by the model.*'logits'"):
        collect_statistics(small_network(), pictures, tensors=["logit"])


def test_a_sample_the_network_cannot_run_is_named():
    model = one_node("Add", [("x", 1, ["N", "A"]), ("z", 1, ["N", "B"])], TensorProto.FLOAT)
    good = {"x": np.ones((1, 3), np.float32), "z": np.ones((1, 3), np.float32)}
    with pytest.raises(BadInput, match="onnxruntime cannot run sample 2"):
        collect_statistics(model, [good, good, {**good, "z": np.ones((1, 4), np.float32)}], threads=1)


def test_all_methods_come_from_one_pass(small_network, pictures, tmp_path):
    statistics = collect_statistics(small_network(), pictures)
    statistics.save(tmp_path / "s.npz")
    again = Statistics.load(tmp_path / "s.npz")
    for method in METHODS:
        table = CalibrationTable.of(again, method)
        assert list(table) == TENSORS
        assert (table.method, table.samples, table.model_hash) == (method, 12, statistics.model_hash)
        table.write(tmp_path / method)
        assert CalibrationTable.read(tmp_path / method) == table
