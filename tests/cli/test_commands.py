"""What each command does when all is well, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_model import samples, saved, small_model

import tpu_deploy
from tpu_deploy import cli
from tpu_deploy.calibration import CalibrationTable
from tpu_deploy.codegen.bmodel import Net, read_bmodel, write_bmodel

Command = Callable[..., Any]


def test_calibrate_writes_a_table_and_its_statistics(folder: Path, command: Command) -> None:
    finished = command("calibrate", "model.onnx", "--data", "samples.npz", "-o", "new.table", "--method", "kl")
    assert finished.code == 0 and "new.table: 7 tensors, method kl, 8 samples" in finished.out
    table = CalibrationTable.read(folder / "new.table")
    assert list(table) == ["image", "relu1", "conv2", "relu2", "pool", "flat", "scores"]
    assert finished.out.splitlines()[-1].startswith("samples: 8, ")
    assert (folder / "new.table.statistics.npz").exists()


def test_another_method_needs_no_samples(folder: Path, command: Command) -> None:
    statistics = ("--statistics", "model.table.statistics.npz")
    assert command("calibrate", "model.onnx", *statistics, "-o", "again.table").code == 0
    assert (folder / "again.table").read_bytes() == (folder / "model.table").read_bytes()
    assert command("calibrate", "model.onnx", *statistics, "-o", "kl.table", "--method", "KL").code == 0
    assert CalibrationTable.read(folder / "kl.table").method == "kl"


def test_a_batch_left_open_is_one_and_said_to_be(folder: Path, command: Command) -> None:
    saved(small_model("N"), folder / "open.onnx")
    data, told = ("--data", "samples.npz"), "image: the model leaves the batch open, 1 is taken"
    calibrated = command("calibrate", "open.onnx", *data, "-o", "open.table")
    assert calibrated.code == 0 and told in calibrated.err
    assert CalibrationTable.read(folder / "open.table").entries == CalibrationTable.read(folder / "model.table").entries
    deployed = command("deploy", "open.onnx", *data, "-o", "open.bmodel", "--no-verify")
    assert deployed.code == 0 and told in deployed.err
    assert read_bmodel(folder / "open.bmodel").nets[0].stages[0].inputs[0].shape == (1, 3, 16, 16)
    assert not command("deploy", "model.onnx", *data, "-o", "closed.bmodel", "--no-verify").told


def test_shards_are_joined_to_the_table_of_one_run(folder: Path, command: Command) -> None:
    for number in (1, 2):
        options = ("--data", "samples.npz", "--shard", f"{number}/2", "-o", f"part{number}")
        finished = command("calibrate", "model.onnx", *options)
        assert finished.code == 0 and f"part{number}: shard {number}/2, 4 samples" in finished.out
    finished = command("calibrate", "--merge", "part2", "part1", "-o", "joined.table")
    assert finished.code == 0 and "joined.table: 7 tensors, method mse, 8 samples" in finished.out
    assert (folder / "joined.table").read_bytes() == (folder / "model.table").read_bytes()


def test_evaluate_prints_figures_with_their_errors(folder: Path, command: Command) -> None:
    np.savez("labelled.npz", image=samples(8), labels=np.arange(8) % 5)
    options = ("--data", "labelled.npz", "--calibration", "model.table")
    finished = command("evaluate", "model.onnx", *options)
    assert finished.code == 0 and "model.onnx: 8 samples of labelled.npz, " in finished.out
    headings, *rows = (line.split() for line in finished.out.splitlines()[1:])
    assert headings == ["metric", "INT8", "(reference)", "float", "model", "change"]
    assert [row[0] for row in rows] == ["topk", "agreement", "sqnr"] and rows[0][-1] == "points"
    found = json.loads(command("evaluate", "model.onnx", *options, "--json", "--metric", "top2").out)
    assert found["samples"] == 8 and found["results"][0]["score"]["metric"] == "top2"


def test_a_table_in_tpu_mlir_names_is_read_back_as_our_own(folder: Path, command: Command) -> None:
    options = ("--data", "samples.npz", "-o", "theirs.table", "--tpu-mlir-names")
    assert command("calibrate", "model.onnx", *options).code == 0
    text = (folder / "theirs.table").read_text()
    assert all(f"\n{name} " in text for name in ("image", "relu1_Relu", "conv2_Conv", "scores_Gemm"))
    for table, output in (("theirs.table", "a.bmodel"), ("model.table", "b.bmodel")):
        assert command("deploy", "model.onnx", "--calibration", table, "-o", output, "--no-verify").code == 0
    assert (folder / "a.bmodel").read_bytes() == (folder / "b.bmodel").read_bytes()


def test_images_are_preprocessed_as_asked(folder: Path, command: Command) -> None:
    (folder / "pictures").mkdir()
    Image.fromarray(np.full((40, 20, 3), (255, 100, 0), np.uint8)).save(folder / "pictures" / "a.png")
    options = ("--mean", "0,100,0", "--scale", "0.5,1,1", "--resize", "20,20", "--pixel-format", "bgr", "--keep-aspect")
    options += ("--method", "max", "-o", "new.table", "--channel-order", "nchw")
    assert command("calibrate", "model.onnx", "--data", "pictures", *options).code == 0
    entry = CalibrationTable.read(folder / "new.table")["image"]
    assert (entry.min, entry.max) == (-100.0, 255.0)


def test_deploy_ends_with_the_table_of_checks(folder: Path, command: Command) -> None:
    finished = command("deploy", "model.onnx", "--calibration", "model.table", "-o", "out.bmodel")
    assert finished.code == 0
    lines = finished.out.splitlines()
    heading = next(k for k, line in enumerate(lines) if line.startswith("stage "))
    rows = lines[heading + 1 :]
    assert [row.split("  ")[0] for row in rows] == [
        "TOP, canonical (onnxruntime)",
        "TPU INT8 (reference)",
        "bmodel, each command",
        "bmodel, order of commands",
        "bmodel (simulator)",
        "bmodel (chip model)",
    ]
    assert all("  ok " in row for row in rows[:5])
    assert "model.table.samples.npz" in finished.out


def test_without_samples_noise_stands_in(folder: Path, command: Command) -> None:
    (folder / "model.table.samples.npz").unlink()
    finished = command("deploy", "model.onnx", "--calibration", "model.table", "-o", "out.bmodel")
    assert finished.code == 0 and "seeded noise" in finished.out


def test_noise_is_no_judge_of_accuracy(folder: Path, command: Command) -> None:
    (folder / "model.table.samples.npz").unlink()
    finished = command("deploy", "model.onnx", "--calibration", "model.table", "-o", "out.bmodel", "--gate", "1")
    assert finished.code == 0 and "unjudged" in finished.out


def test_the_table_says_when_the_chip_model_is_not_installed(folder: Path, command: Command) -> None:
    finished = command("deploy", "model.onnx", "--calibration", "model.table", "-o", "out.bmodel")
    last = finished.out.splitlines()[-1]
    assert finished.code == 0
    assert "absent" in last and "tpu-deploy chip-model install" in last and "rests on the simulator" in last


def test_data_in_place_of_a_table_does_both(folder: Path, command: Command) -> None:
    finished = command("deploy", "model.onnx", "--data", "samples.npz", "-o", "out.bmodel", "--no-verify")
    assert finished.code == 0 and "not verified" in finished.out
    assert (folder / "out.bmodel").read_bytes() == (folder / "model.bmodel").read_bytes()


def test_a_failed_accuracy_gate_writes_the_bmodel_and_names_the_first_tensor(folder: Path, command: Command) -> None:
    options = ("--calibration", "model.table", "-o", "out.bmodel", "--gate", "0.9999999", "--report", "report")
    finished = command("deploy", "model.onnx", *options)
    assert finished.code == 1
    assert "  failed  " in finished.out
    assert len(finished.told) == 1 and "the first to break is tensor relu1" in finished.told[0]
    assert (folder / "out.bmodel").read_bytes() == (folder / "model.bmodel").read_bytes()
    assert (folder / "report" / "index.html").exists()


def test_a_failed_exactness_gate_writes_no_bmodel(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpu_deploy.runtime.simulator.simulator import Simulator

    run = Simulator.run
    monkeypatch.setattr(Simulator, "run", lambda self, feeds: {n: a + 1 for n, a in run(self, feeds).items()})
    finished = command("deploy", "model.onnx", "--calibration", "model.table", "-o", "out.bmodel", "--report", "report")
    assert finished.code == 1
    assert "bmodel (simulator)" in finished.told[0] and "output scores: 5 of 5 values differ" in finished.told[0]
    assert "  failed  " in finished.out
    assert not (folder / "out.bmodel").exists() and not (folder / "report").exists()


def test_every_stage_can_be_dumped(folder: Path, command: Command) -> None:
    options = ("--calibration", "model.table", "-o", "out.bmodel", "--no-verify", "--dump-ir", "ir")
    assert command("deploy", "model.onnx", *options).code == 0
    names = sorted(path.name for path in (folder / "ir").iterdir() if not path.name.endswith(".npz"))
    stages = ["1_top.mlir", "2_top_canonical.mlir", "3_quantization.json", "3_quantization.qtable", "4_tpu.mlir"]
    assert names == [*stages, "5_commands.txt"]
    assert "top.BatchNorm" in (folder / "ir" / "1_top.mlir").read_text()
    assert "top.BatchNorm" not in (folder / "ir" / "2_top_canonical.mlir").read_text()


def test_dumping_does_not_change_the_bmodel(folder: Path, command: Command) -> None:
    options = ("--calibration", "model.table", "-o", "out.bmodel", "--no-verify", "--dump-ir", "ir")
    command("deploy", "model.onnx", *options)
    assert (folder / "out.bmodel").read_bytes() == (folder / "model.bmodel").read_bytes()


def test_a_kernel_module_is_embedded(folder: Path, command: Command) -> None:
    (folder / "firmware.so").write_bytes(b"\x7fELF" + bytes(100))
    options = ("--calibration", "model.table", "-o", "out.bmodel", "--no-verify", "--kernel-module", "firmware.so")
    assert command("deploy", "model.onnx", *options).code == 0
    found = json.loads(command("info", "out.bmodel", "--json").out)
    assert found["kernel_module"] == "firmware.so" and found["memory"]["kernel_module"] == 104


def test_run_takes_and_gives_onnx_names(folder: Path, command: Command) -> None:
    finished = command("run", "model.bmodel", "--inputs", "one.npz", "-o", "out.npz")
    assert (finished.code, finished.out) == (0, "scores: float32 1x5\n")
    with np.load(folder / "out.npz") as arrays:
        scores = {name: arrays[name] for name in arrays.files}
    expected = tpu_deploy.load(folder / "model.bmodel").run({"image": samples(1, seed=7)})
    assert list(scores) == ["scores"] and np.array_equal(scores["scores"], expected["scores"])


def test_info_tells_everything_of_a_bmodel(folder: Path, command: Command) -> None:
    found = json.loads(command("info", "model.bmodel", "--json").out)
    stage = found["nets"][0]["stages"][0]
    assert found["chip"] == "BM1684X" and stage["checksum"] == "ok"
    assert stage["cycles"] > 0 and stage["commands"]["TIU"]["total"] > 0
    text = command("info", "model.bmodel").out
    for part in (
        "BM1684X",
        "image",
        "scores",
        "1x3x16x16",
        "checksum ok",
        f"{stage['cycles']:,} cycles",
        "TIU",
        "GDMA",
    ):
        assert part in text, part


def test_disassemble_prints_a_line_for_each_command(folder: Path, command: Command) -> None:
    lines = command("disassemble", "model.bmodel").out.splitlines()
    counts = json.loads(command("info", "model.bmodel", "--json").out)["nets"][0]["stages"][0]["commands"]
    assert len([line for line in lines if not line.startswith("#")]) == sum(each["total"] for each in counts.values())


def test_inspect_says_that_all_is_well_without_shapes(folder: Path, command: Command) -> None:
    saved(small_model("N"), folder / "dynamic.onnx")
    finished = command("inspect", "dynamic.onnx")
    assert finished.code == 0 and "every node can be compiled" in finished.out
    assert "input image: N,3,16,16" in finished.out


def test_inspect_lists_every_node_that_cannot_be_compiled_and_exits_1(folder: Path, command: Command) -> None:
    model = small_model()
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Sin"
    saved(model, folder / "model.onnx")
    finished = command("inspect", "model.onnx")
    assert finished.code == 1 and "2 nodes cannot be compiled for bm1684x" in finished.told[0]
    assert "relu1" in finished.out and "relu2" in finished.out
    assert [each["node"] for each in json.loads(command("inspect", "model.onnx", "--json").out)["findings"]] == [
        "relu1",
        "relu2",
    ]


def test_interrupting_exits_130_with_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tpu_deploy.pipeline.inspection.inspect", interrupted)
    finished = command("inspect", "model.onnx")
    assert (finished.code, finished.told) == (130, ["tpu-deploy: interrupted"])


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tpu_deploy.pipeline.inspection.inspect", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["inspect", "model.onnx"])


def test_no_arguments_show_the_help(command: Command) -> None:
    finished = command()
    assert finished.code == 0
    verbs = ("calibrate", "deploy", "run", "info", "disassemble", "inspect", "chip-model", "demo")
    assert all(verb in finished.out for verb in verbs)


def test_the_version_is_shown(command: Command) -> None:
    assert command("--version").out == f"tpu-deploy {tpu_deploy.__version__}\n"


def test_a_reader_that_goes_away_is_no_fault(folder: Path) -> None:
    program = [sys.executable, "-m", "tpu_deploy.cli", "disassemble", "model.bmodel"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_the_program_itself_maps_bad_input_to_2(folder: Path) -> None:
    program = [sys.executable, "-m", "tpu_deploy.cli", "info", "nothing.bmodel"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "tpu-deploy: nothing.bmodel: is not there; give the path of a .bmodel file\n"


@pytest.mark.slow
def test_the_demonstration_runs_from_start_to_end(folder: Path, command: Command) -> None:
    finished = command("demo")
    assert finished.code == 0
    assert "accuracy on 500 images: float 95.0%" in finished.out
    assert "identical to the reference" in finished.out
    assert (folder / "tpu-deploy-demo" / "report" / "index.html").exists()
    assert command("demo").code == 0
    assert (folder / "tpu-deploy-demo-2" / "fashion_mnist.bmodel").exists()


def test_the_demonstration_loses_no_files(folder: Path, refused: Callable[..., str]) -> None:
    assert "holds files already" in refused("demo", "--output", folder)


@pytest.fixture
def several(folder: Path) -> str:
    """A bmodel of two nets, the second with two stages."""
    one = read_bmodel(folder / "model.bmodel")
    stage = one.nets[0].stages[0]
    nets = (one.nets[0], Net("other", (stage, stage)))
    write_bmodel(replace(one, nets=nets), folder / "several.bmodel")
    return "several.bmodel"


def test_info_and_disassemble_show_every_stage_of_every_net(several: str, command: Command) -> None:
    places = [("model", 0), ("other", 0), ("other", 1)]
    text = command("info", several).out
    assert [f"net {net}, stage {stage}" in text for net, stage in places] == [True] * 3
    found = json.loads(command("info", several, "--json").out)
    assert all(stage["cycles"] > 0 for net in found["nets"] for stage in net["stages"])
    lines = command("disassemble", several).out.splitlines()
    assert [line for line in lines if line.startswith("#")] == [f"# net '{n}' stage {s} group 0" for n, s in places]


def test_one_of_several_nets_must_be_chosen_to_run(several: str, command: Command, refused: Command) -> None:
    arguments = ("run", several, "--inputs", "one.npz", "-o", "out.npz")
    assert "choose one with --net: model, other" in refused(*arguments)
    assert "has no net 'others'" in refused(*arguments, "--net", "others")
    assert "there is no stage 2" in refused(*arguments, "--net", "other", "--stage", 2)
    assert command(*arguments, "--net", "other", "--stage", 1).code == 0
