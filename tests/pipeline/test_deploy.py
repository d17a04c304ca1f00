from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from small_model import feeds, samples, saved, small_model

import tpu_deploy
from tpu_deploy.calibration import Threshold
from tpu_deploy.codegen.bmodel import serialize
from tpu_deploy.pipeline import stages, verification
from tpu_deploy.pipeline.deployment import AccuracyError
from tpu_deploy.pipeline.stages import STAGES, ExactnessError
from tpu_deploy.runtime import chip_model_install
from tpu_deploy.runtime.simulator.simulator import Simulator


def test_the_pipeline_reads_aloud() -> None:
    names = [stage.__name__ for stage in STAGES]
    assert names == [
        "import_model",
        "make_canonical",
        "choose_precisions",
        "find_ranges",
        "plan_types",
        "lower",
        "generate_commands",
        "estimate_time",
        "verify",
        "write_bmodel",
        "write_report",
    ]
    assert all((stage.__doc__ or "").strip().endswith(".") for stage in STAGES)


def test_a_deployment_holds_what_was_learned(calibrated: Any, tmp_path: Path) -> None:
    built = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel")
    assert built.path.read_bytes() == serialize(built.bmodel)
    assert [check.verdict for check in built.checks] == ["ok"] * 5 + ["absent"]
    assert built.timing.cycles > 0 and built.memory.coefficients > 0
    assert list(built.similarity["name"])[:2] == ["image", "relu1"]
    assert built.similarity["cosine"].min() > 0.99


def test_reference_and_simulator_agree_on_fresh_inputs_and_extremes(calibrated: Any, tmp_path: Path) -> None:
    built = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel")
    session = tpu_deploy.load(tmp_path / "m.bmodel", on="simulator")
    shape = (1, 3, 16, 16)
    one_hot = np.zeros(shape, np.float32)
    one_hot[0, 1, 7, 7] = 1e6
    extremes = [np.zeros(shape, np.float32), np.full(shape, 1e9, np.float32), np.full(shape, -1e9, np.float32), one_hot]
    for image in [*extremes, *(each["image"] for each in feeds(2, seed=9))]:
        expected, actual = built.reference.run({"image": image}), session.run({"image": image})
        assert np.array_equal(expected["scores"], actual["scores"])


def test_path_and_table_and_data_give_the_same_bytes(calibrated: Any, tmp_path: Path) -> None:
    ranges: list[dict[str, Any]] = [{"calibration": calibrated.table}, {"data": iter(feeds(8))}, {"data": feeds(8)}]
    calibrated.table.write(tmp_path / "t.table")
    ranges.append({"calibration": tmp_path / "t.table"})
    for number, each in enumerate(ranges):
        tpu_deploy.deploy(calibrated.model, output=tmp_path / f"{number}.bmodel", verify=number == 1, **each)
    assert len({(tmp_path / f"{number}.bmodel").read_bytes() for number in range(4)}) == 1


@pytest.mark.parametrize("batch", [1, 4, 5])
@pytest.mark.parametrize("model_batch", [1, 4, "N"])
def test_a_batch_is_fixed_at_deployment(tmp_path: Path, calibrated: Any, model_batch: int | str, batch: int) -> None:
    model = small_model(model_batch)
    shapes = {"image": (batch, 3, 16, 16)}
    output = tmp_path / "m.bmodel"
    built = tpu_deploy.deploy(model, data=feeds(8), input_shapes=shapes, output=output)
    assert all(check.verdict in ("ok", "absent") for check in built.checks)
    rows = samples(batch, seed=3)
    scores = tpu_deploy.load(output).run({"image": rows})["scores"]
    table = replace(built.table, model_hash="")
    alone = tpu_deploy.deploy(calibrated.model, calibration=table, output=tmp_path / "one.bmodel", verify=False)
    expected = [alone.reference.run({"image": row[np.newaxis]})["scores"] for row in rows]
    assert np.array_equal(scores, np.concatenate(expected))


def test_inputs_for_verification_may_be_fewer_than_the_batch(calibrated: Any, tmp_path: Path) -> None:
    built = tpu_deploy.deploy(
        calibrated.model,
        calibration=calibrated.table,
        inputs=feeds(3),
        input_shapes={"image": (2, 3, 16, 16)},
        output=tmp_path / "m.bmodel",
    )
    assert built.verification is not None and built.verification.inputs == "2 batches of the samples"


def test_quantized_io_is_eight_bits_in_and_out_with_scales_in_the_file(calibrated: Any, tmp_path: Path) -> None:
    plain = tpu_deploy.deploy(
        calibrated.model, calibration=calibrated.table, output=tmp_path / "float.bmodel", verify=False
    )
    output = tmp_path / "m.bmodel"
    built = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=output, quantized_io=True)
    assert all(check.verdict in ("ok", "absent") for check in built.checks)
    session = tpu_deploy.load(output)
    (image,), (scores,) = session.inputs, session.outputs
    assert (image.dtype, scores.dtype) == ("int8", "int8")
    assert image.scale == pytest.approx(127 / calibrated.table["image"].threshold, rel=1e-5)
    feed = feeds(1, seed=4)[0]
    expected = plain.reference.run(feed)["scores"]
    assert np.array_equal(session.run(feed)["scores"], expected)
    integers = np.clip(np.trunc(feed["image"] * np.float32(image.scale) + np.copysign(0.5, feed["image"])), -128, 127)
    raw = session.run({"image": integers.astype(np.int8)}, dequantize=False)["scores"]
    assert raw.dtype == np.int8
    assert np.array_equal(raw.astype(np.float32) * np.float32(scores.scale), expected)


def test_a_wrong_fold_is_caught_and_the_first_tensor_named(
    calibrated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canonicalize = stages.canonicalize

    def wrongly(network: Any) -> None:
        canonicalize(network)
        name = next(name for name in network.weights if name.startswith("w2"))
        network.weights[name] = network.weights[name] * np.linspace(0, 1, 8, dtype=np.float32).reshape(-1, 1, 1, 1)

    monkeypatch.setattr(stages, "canonicalize", wrongly)
    with pytest.raises(AccuracyError, match="the first to break is tensor conv2") as caught:
        tpu_deploy.deploy(calibrated.model, data=feeds(4), output=tmp_path / "m.bmodel")
    assert caught.value.deployment.path.exists()
    assert caught.value.deployment.checks[0].verdict == "failed"


def test_an_illegal_command_writes_no_bmodel(calibrated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpu_deploy.codegen.findings import Finding

    found = Finding("rule", ("TIU 3 (CONV)",), "TIU 3 (CONV): is against the rules")
    monkeypatch.setattr(verification, "check_legality", lambda commands, memory: [found])
    with pytest.raises(ExactnessError, match=r"TIU 3 \(CONV\): is against the rules and 1 more"):
        tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel")
    assert not any(tmp_path.iterdir())


def test_a_race_writes_no_bmodel(calibrated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpu_deploy.codegen.assemble.dependencies", _no_dependencies)
    with pytest.raises(ExactnessError, match="order of commands"):
        tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel")
    assert not any(tmp_path.iterdir())


def _no_dependencies(commands: Any, chip: Any) -> list[tuple[int, int]]:
    count = {"TIU": 0, "GDMA": 0}
    numbered = []
    for command in commands:
        count[command.engine] += 1
        numbered.append((count[command.engine], 0))
    return numbered


def test_a_simulator_that_cannot_run_is_a_failed_check(
    calibrated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Simulator, inputs: Any) -> Any:
        raise tpu_deploy.CheckFailed("GDMA 4 reads beyond memory")

    monkeypatch.setattr(Simulator, "run", fails)
    with pytest.raises(ExactnessError, match="GDMA 4 reads beyond memory"):
        tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel")


def test_saturation_is_a_finding(calibrated: Any, tmp_path: Path) -> None:
    inputs = [{"image": 3 * each["image"]} for each in feeds(2)]
    built = tpu_deploy.deploy(
        calibrated.model, calibration=calibrated.table, inputs=inputs, output=tmp_path / "m.bmodel", gate=0.0
    )
    assert built.verification is not None
    assert ("relu1", "saturation") in [(each.tensor, each.kind) for each in built.verification.findings]


def test_constant_outputs_are_a_finding(tmp_path: Path) -> None:
    model = small_model()
    for name, factor in (("w3", 1e-4), ("b3", 0.0)):
        weight = next(each for each in model.graph.initializer if each.name == name)
        weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(factor)).tobytes()
    big = helper.make_node("Clip", ["scores_plain", "low", "high"], ["scores"], "clip")
    model.graph.node[-1].output[0] = "scores_plain"
    model.graph.node.append(big)
    for name, value in (("low", -1.0), ("high", 1.0)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    table = tpu_deploy.calibrate(model, feeds(4))
    entries = dict(table.entries) | {"scores": Threshold(1.0, -1.0, 1.0)}
    with pytest.raises(AccuracyError) as caught:
        tpu_deploy.deploy(model, calibration=replace(table, entries=entries), output=tmp_path / "m.bmodel")
    found = caught.value.deployment.verification
    assert found is not None
    assert ("error", "constant_output", "scores") in [(e.severity, e.kind, e.tensor) for e in found.findings]


def test_outputs_may_be_several_repeated_and_inputs(tmp_path: Path) -> None:
    model = small_model()
    for name, shape in (("relu1", [1, 8, 16, 16]), ("image", [1, 3, 16, 16])):
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    model.graph.node.append(helper.make_node("Identity", ["scores"], ["again"], "again"))
    model.graph.output.append(helper.make_tensor_value_info("again", onnx.TensorProto.FLOAT, [1, 5]))
    output = tmp_path / "m.bmodel"
    built = tpu_deploy.deploy(model, data=feeds(4), output=output)
    assert all(check.verdict in ("ok", "absent") for check in built.checks)
    found = tpu_deploy.load(output).run(feeds(1)[0])
    assert list(found) == ["scores", "relu1", "image", "again"]
    assert np.array_equal(found["scores"], found["again"])
    expected = built.reference.run(feeds(1)[0])
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_large_networks_are_walked_in_parts(calibrated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "a.bmodel")
    monkeypatch.setattr("tpu_deploy.pipeline.float_model.HELD_BYTES", 1000)
    parts = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "b.bmodel")
    assert whole.similarity.equals(parts.similarity)


@pytest.mark.referee
@pytest.mark.skipif(not chip_model_install.available(), reason="the vendor's chip model is not installed")
def test_the_chip_model_gives_the_same_bits(calibrated: Any, tmp_path: Path) -> None:
    output = tmp_path / "m.bmodel"
    built = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=output)
    assert built.checks[-1].verdict == "ok" and "identical bits" in built.checks[-1].figure
    feed = feeds(1, seed=11)[0]
    with tpu_deploy.load(output, on="chip-model") as session:
        assert np.array_equal(session.run(feed)["scores"], built.reference.run(feed)["scores"])


@pytest.mark.referee
@pytest.mark.skipif(not chip_model_install.available(), reason="the vendor's chip model is not installed")
def test_a_chip_model_that_takes_too_long_leaves_the_simulator_to_judge(
    calibrated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "CHIP_MODEL_SECONDS", 0.0)
    built = tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel")
    assert built.checks[-1].verdict == "absent" and "rests on the simulator" in built.checks[-1].figure


def test_a_model_file_is_not_touched(tmp_path: Path) -> None:
    path = saved(small_model(), tmp_path / "model.onnx")
    before = path.read_bytes()
    tpu_deploy.deploy(path, data=feeds(4), output=tmp_path / "m.bmodel")
    assert path.read_bytes() == before


SHAPES_ONLY: dict[str, tuple[list[onnx.NodeProto], list[str]]] = {
    "the output is the input": ([helper.make_node("Identity", ["x"], ["y"])], ["y"]),
    "a transposition": ([helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])], ["y"]),
    "a new shape": ([helper.make_node("Flatten", ["x"], ["y"])], ["y"]),
    "both": (
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Transpose", ["x"], ["z"], perm=[0, 2, 3, 1])],
        ["y", "z"],
    ),
}


@pytest.mark.parametrize("quantized_io", [False, True])
@pytest.mark.parametrize("case", SHAPES_ONLY)
def test_a_model_that_computes_nothing_can_be_calibrated_and_deployed(
    case: str, quantized_io: bool, tmp_path: Path
) -> None:
    nodes, outputs = SHAPES_ONLY[case]
    x = helper.make_tensor_value_info("x", 1, (1, 3, 4, 4))
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info(name, 1, None) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data = [{"x": each[np.newaxis, :, :4, :4]} for each in samples(4)]
    table = tpu_deploy.calibrate(model, data)
    assert table["x"].max == max(each["x"].max() for each in data)
    built = tpu_deploy.deploy(
        model, calibration=table, output=tmp_path / "m.bmodel", quantized_io=quantized_io, inputs=data
    )
    assert [check.verdict for check in built.checks[:-1]] == ["ok"] * 5


def test_a_level_of_optimization_that_is_none_is_refused(calibrated: Any, tmp_path: Path) -> None:
    with pytest.raises(tpu_deploy.BadInput, match="--optimize 4: is no level; give one of 0, 1, 2, 3"):
        tpu_deploy.deploy(calibrated.model, calibration=calibrated.table, output=tmp_path / "m.bmodel", optimize=4)
