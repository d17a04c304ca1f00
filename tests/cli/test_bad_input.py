"""Every way to hand a command something unusable: one line that names the culprit, exit code 2, nothing left behind."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from PIL import Image
from small_model import SHAPE, samples, saved, small_model

from tpu_deploy import files

Refused = Callable[..., str]

DEPLOY = ("--calibration", "model.table", "-o", "out.bmodel")
CALIBRATE = ("--data", "samples.npz", "-o", "out.table")
COMMANDS: dict[str, tuple[str, ...]] = {"deploy": DEPLOY, "calibrate": CALIBRATE, "inspect": ()}


# ---- the model


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("spoil", [missing, empty, truncated, random, folder_in_its_place])
def test_a_file_that_is_no_model_is_named(
    folder: Path, refused: Refused, spoil: Callable[[Path], None], verb: str
) -> None:
    spoil(folder / "model.onnx")
    assert refused(verb, "model.onnx", *COMMANDS[verb]).startswith("model.onnx: ")


@pytest.mark.parametrize("verb", COMMANDS)
def test_external_data_that_is_missing_is_named(folder: Path, refused: Refused, verb: str) -> None:
    model = small_model()
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, folder / "model.onnx")
    (folder / "weights.bin").unlink()
    assert re.search(
        r"model\.onnx: weight w1 needs the file .*weights\.bin", refused(verb, "model.onnx", *COMMANDS[verb])
    )


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_with_nan_or_infinity_is_named(folder: Path, refused: Refused, value: float, verb: str) -> None:
    model = small_model()
    weight = next(each for each in model.graph.initializer if each.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[1, 2, 0, 1] = value
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    saved(model, folder / "model.onnx")
    assert "weight w2" in refused(verb, "model.onnx", *COMMANDS[verb])


@pytest.mark.parametrize("verb", ["deploy", "calibrate"])
@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ("image=1,3,16", "3 dimensions"),
        ("image=1,4,16,16", "axis 1"),
        ("picture=1,3,16,16", "image"),
        ("image=1,3,a,16", "whole numbers"),
        ("1,3,16,16", "NAME=SIZES"),
        ("image=0,3,16,16", "at least 1"),
    ],
)
def test_an_input_shape_that_does_not_fit_is_refused(refused: Refused, shape: str, told: str, verb: str) -> None:
    line = refused(verb, "model.onnx", *COMMANDS[verb], "--input-shape", shape)
    assert told in line and "--input-shape" in line


@pytest.mark.parametrize("verb", ["deploy", "calibrate"])
def test_a_dynamic_shape_must_be_given(folder: Path, refused: Refused, verb: str) -> None:
    model = small_model()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].ClearField("dim_value")
    saved(model, folder / "dynamic.onnx")
    line = refused(verb, "dynamic.onnx", *COMMANDS[verb])
    assert "input image" in line and "--input-shape image=" in line


def test_unsupported_operators_are_all_named_before_anything_is_done(folder: Path, refused: Refused) -> None:
    model = small_model()
    for name in ("conv2", "pool"):
        node = next(each for each in model.graph.node if each.output[0] == name)
        strange = helper.make_node("Sin", [f"{name}_plain"], [name], f"sine_of_{name}")
        node.output[0] = f"{name}_plain"
        model.graph.node.insert(list(model.graph.node).index(node) + 1, strange)
    saved(model, folder / "model.onnx")
    for verb in ("deploy", "calibrate"):
        line = refused(verb, "model.onnx", *COMMANDS[verb])
        assert "2 unsupported operators: Sin at sine_of_conv2, sine_of_pool" in line


@pytest.mark.parametrize(
    ("operator", "size", "told"),
    [("LogSoftmax", 5, "LogSoftmax at only"), ("Softmax", 2_000_000, "one row of 2000000 elements")],
)
def test_what_stages_after_the_frontend_refuse_is_told_before_data_are_read(
    folder: Path, refused: Refused, operator: str, size: int, told: str
) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size)) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], "only", axis=1)], "g", [x], [y])
    saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "model.onnx")
    for verb in ("deploy", "calibrate"):  # nothing.npz does not exist: nobody looked for it
        assert told in refused(verb, "model.onnx", "--data", "nothing.npz", "-o", "out")


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_weight_that_folding_takes_beyond_float32_is_named(folder: Path, refused: Refused, verb: str) -> None:
    model = small_model()
    bias = next(each for each in model.graph.initializer if each.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, 3e38, np.float32), "b1"))
    variance = next(each for each in model.graph.initializer if each.name == "variance")
    variance.CopyFrom(numpy_helper.from_array(np.full(8, 0.01, np.float32), "variance"))
    saved(model, folder / "model.onnx")
    assert "weight bn1_bias" in refused(verb, "model.onnx", *COMMANDS[verb])


def test_an_opset_newer_than_onnxruntime_is_refused(folder: Path, refused: Refused) -> None:
    model = small_model()
    model.opset_import[0].version = 200
    saved(model, folder / "model.onnx")
    assert "opset 200" in refused("deploy", "model.onnx", *DEPLOY)


def test_inputs_that_are_not_float32_are_refused(folder: Path, refused: Refused) -> None:
    model = small_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    saved(model, folder / "model.onnx")
    assert "model.onnx: " in refused("deploy", "model.onnx", *DEPLOY)


# ---- calibration data


def spoilt_data(folder: Path, name: str) -> str:
    """Calibration data with the named fault; returns what to give as --data."""
    path = folder / "data.npz"
    arrays = {"image": samples(4)}
    if name == "missing":
        return str(path)
    if name == "empty folder":
        (folder / "data").mkdir()
        return "data"
    if name == "empty file":
        path.write_bytes(b"")
        return "data.npz"
    if name == "truncated file":
        np.savez(path, **arrays)
        path.write_bytes(path.read_bytes()[:3000])
        return "data.npz"
    if name == "no samples":
        arrays = {"image": samples(0)}
    elif name == "wrong shape":
        arrays = {"image": samples(4)[..., :15]}
    elif name == "wrong dtype":
        arrays = {"image": np.full((4, *SHAPE[1:]), "pixel")}
    elif name == "nan":
        arrays["image"][2, 0, 3, 3] = np.nan
    elif name == "unknown key":
        arrays = {"imagge": samples(4)}
    elif name == "missing key":
        arrays = {}
    np.savez(path, **arrays)
    return "data.npz"


@pytest.mark.parametrize("verb", ["calibrate", "deploy"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("missing", r"no such file"),
        ("empty folder", r"holds no images"),
        ("empty file", r"data\.npz: is not a readable"),
        ("truncated file", r"data\.npz: is not a readable"),
        ("no samples", r"data\.npz: holds no samples"),
        ("wrong shape", r"data\.npz, sample 0: 'image' has shape 1x3x16x15, but the model takes 1x3x16x16"),
        ("wrong dtype", r"data\.npz, sample 0: 'image' is <U5"),
        ("nan", r"data\.npz, sample 2: 'image' holds NaN"),
        ("unknown key", r"data\.npz: the model has no input 'imagge'; rename it to 'image'"),
        ("missing key", r"data\.npz: lacks the model's input 'image'"),
    ],
)
def test_unusable_calibration_data_are_named(folder: Path, refused: Refused, fault: str, told: str, verb: str) -> None:
    data = spoilt_data(folder, fault)
    output = "out.table" if verb == "calibrate" else "out.bmodel"
    assert re.search(told, refused(verb, "model.onnx", "--data", data, "-o", output))


@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_an_unreadable_image_is_named(folder: Path, refused: Refused, content: bytes | None) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    image.save(pictures / "a.png")
    image.save(pictures / "b.png")
    whole = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    line = refused("calibrate", "model.onnx", "--data", "pictures", "-o", "out.table")
    assert "pictures/b.png: is not a readable image" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--mean", "1,2"), "1 or 3 numbers"),
        (("--mean", "a"), "--mean a: is not a list of numbers"),
        (("--resize", "20"), "--resize 20: is not H,W"),
        (("--resize", "8,8"), "smaller than the input"),
        (("--pixel-format", "rgba"), "--pixel-format rgba: is unknown; did you mean rgb?"),
        (("--channel-order", "nchv"), "did you mean nchw?"),
        (("--pixel-format", "gray"), "1 channels"),
        (("--samples", "0"), "at least 1"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(
    folder: Path, refused: Refused, options: tuple[str, str], told: str
) -> None:
    (folder / "pictures").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "pictures" / "a.png")
    assert told in refused("calibrate", "model.onnx", "--data", "pictures", "-o", "out.table", *options)


def test_preprocessing_is_for_images(refused: Refused) -> None:
    assert "is for images" in refused("calibrate", "model.onnx", *CALIBRATE, "--mean", "1")


@pytest.mark.parametrize("options", [(), ("--data", "samples.npz", "--statistics", "model.table.statistics.npz")])
def test_either_data_or_statistics_must_be_given(refused: Refused, options: tuple[str, ...]) -> None:
    assert "--data" in refused("calibrate", "model.onnx", "-o", "out.table", *options)


@pytest.mark.parametrize("options", [(), ("--data", "samples.npz", "--calibration", "model.table")])
def test_either_data_or_a_table_must_be_given(refused: Refused, options: tuple[str, ...]) -> None:
    assert "--calibration" in refused("deploy", "model.onnx", "-o", "out.bmodel", *options)


def test_statistics_of_another_model_are_refused(folder: Path, refused: Refused) -> None:
    saved(small_model(seed=5), folder / "other.onnx")
    options = ("--statistics", "model.table.statistics.npz", "-o", "out.table")
    assert "are of another model" in refused("calibrate", "other.onnx", *options)


# ---- inputs of the verification


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"imag": samples(1)}, "has no input 'imag'; rename it to 'image'"),
        ({"image": samples(1)[:, :2]}, "has shape 1x2x16x16"),
        ({"image": np.full(SHAPE, np.inf, np.float32)}, "holds infinity"),
    ],
)
def test_unusable_verification_inputs_are_named(
    folder: Path, refused: Refused, arrays: dict[str, Any], told: str
) -> None:
    np.savez(folder / "in.npz", **arrays)
    line = refused("deploy", "model.onnx", *DEPLOY, "--inputs", "in.npz")
    assert "in.npz" in line and told in line


# ---- the table


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no thresholds"),
        ("# only a comment\n", "holds no thresholds"),
        ("image 1.0 -1.0\n", "line 1: .* is not `name threshold min max`"),
        ("\x00\x01garbage\n", "line 1"),
        ("image nan -1 1\n", "line 1: the threshold of 'image' is nan"),
        ("image 1.0 -inf 1\n", "line 1: the min of 'image' is -inf"),
        ("image -3 -1 1\n", "line 1: the threshold of 'image' is -3"),
        ("image x -1 1\n", "not a number"),
        ("image 1 1 -1\n", "above its max"),
        ("data 1 -1 1\nlogits 1 -1 1\n", "belongs to another model"),
    ],
)
def test_an_unusable_table_is_named(folder: Path, refused: Refused, content: str, told: str) -> None:
    (folder / "bad.table").write_text(content)
    line = refused("deploy", "model.onnx", "--calibration", "bad.table", "-o", "out.bmodel")
    assert line.startswith("bad.table") and re.search(told, line)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00 1 2 3", None])
def test_a_table_that_is_no_text_is_named(folder: Path, refused: Refused, content: bytes | None) -> None:
    if content is not None:
        (folder / "bad.table").write_bytes(content)
    assert "bad.table: " in refused("deploy", "model.onnx", "--calibration", "bad.table", "-o", "out.bmodel")


def test_a_table_that_lacks_a_tensor_names_it_and_the_nearest(folder: Path, refused: Refused) -> None:
    table = (folder / "model.table").read_text()
    (folder / "model.table").write_text(re.sub(r"^relu2 ", "relu22 ", table, flags=re.M))
    line = refused("deploy", "model.onnx", *DEPLOY)
    assert "model.table: has no line for tensor 'relu2'; the nearest is 'relu22'" in line


def test_a_table_of_the_same_network_trained_otherwise_is_refused(folder: Path, refused: Refused) -> None:
    saved(small_model(seed=5), folder / "other.onnx")
    assert "model.table: belongs to another model than other.onnx" in refused("deploy", "other.onnx", *DEPLOY)


# ---- outputs


WRITERS = {
    "calibrate": ("model.onnx", "--data", "samples.npz", "-o"),
    "deploy": ("model.onnx", "--calibration", "model.table", "-o"),
    "run": ("model.bmodel", "--inputs", "one.npz", "-o"),
}


@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize(
    ("target", "told"),
    [("nowhere/out", "nowhere is no folder"), ("a_folder", "is a folder"), ("model.onnx/out", "is no folder")],
)
def test_an_output_that_cannot_be_written_is_named(
    folder: Path, refused: Refused, verb: str, target: str, told: str
) -> None:
    (folder / "a_folder").mkdir()
    line = refused(verb, *WRITERS[verb], target)
    assert target in line and told in line


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
@pytest.mark.parametrize("verb", WRITERS)
def test_a_read_only_folder_is_named(folder: Path, refused: Refused, verb: str) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert "read-only" in refused(verb, *WRITERS[verb], "locked/out")


@pytest.mark.parametrize("option", ["--report", "--dump-ir"])
def test_a_file_in_place_of_a_folder_is_named(refused: Refused, option: str) -> None:
    assert f"{option} model.table: is a file" in refused("deploy", "model.onnx", *DEPLOY, option, "model.table")


class FullDisk:
    """A stream whose disk is full after some bytes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, content: bytes) -> int:
        self._stream.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> FullDisk:
        self._stream.__enter__()
        return self

    def __exit__(self, *about: Any) -> None:
        self._stream.__exit__(*about)


@pytest.mark.parametrize("verb", WRITERS)
def test_a_full_disk_leaves_the_old_file_or_none(
    folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def full(*arguments: Any, **options: Any) -> FullDisk:
        return FullDisk(open(*arguments, **options))

    monkeypatch.setattr(files, "open", full, raising=False)
    options = ("--no-verify",) if verb == "deploy" else ()
    line = refused(verb, *WRITERS[verb], "out", *options)
    assert line.startswith("out") and "No space left on device" in line
    (folder / "out").write_bytes(b"old")
    refused(verb, *WRITERS[verb], "out", *options)
    assert (folder / "out").read_bytes() == b"old"


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 64 KiB; skips where it cannot be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_too_small_for_the_statistics_gets_nothing(refused: Refused, small_disk: Path) -> None:
    (small_disk / "filling").write_bytes(bytes(60_000))
    line = refused("calibrate", "model.onnx", "--data", "samples.npz", "-o", small_disk / "out.table")
    assert "No space left on device" in line
    assert [path.name for path in small_disk.iterdir()] == ["filling"]


# ---- names


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("deploy", "model.onnx", *DEPLOY, "--chip", "bm1684y"), "did you mean bm1684x?"),
        (("inspect", "model.onnx", "--chip", "1684x"), "did you mean bm1684x?"),
        (("deploy", "model.onnx", *DEPLOY, "--precision", "int4"), "did you mean int8?"),
        (("deploy", "model.onnx", "--data", "samples.npz", "-o", "o", "--method", "kld"), "did you mean kl?"),
        (("calibrate", "model.onnx", *CALIBRATE, "--method", "maximum"), "did you mean max?"),
        (
            ("run", "model.bmodel", "--inputs", "one.npz", "-o", "out.npz", "--on", "simulater"),
            "did you mean simulator?",
        ),
        (("deploy", "model.onnx", *DEPLOY, "--gate", "2"), "--gate 2"),
        (("deploy", "model.onnx", *DEPLOY, "--gate", "high"), "--gate"),
        (("deploy", "model.onnx", *DEPLOY, "--kernel-module", "model.table"), "is no shared library"),
        (("deploy", "model.onnx", *DEPLOY, "--kernel-module", "nothing.so"), "nothing.so: cannot be read"),
        (("deploy", "model.onnx"), "--output"),
        (("deploy", "model.onnx", *DEPLOY, "--chips", "x"), "--chips"),
        (("deply", "model.onnx"), "deply"),
        (("chip-model",), "Missing command"),
        (
            ("run", "model.bmodel", "--inputs", "one.npz", "-o", "o", "--on", "chip-model"),
            "tpu-deploy chip-model install",
        ),
        (("chip-model", "install", "--wheel", "nothing.whl"), "nothing.whl: no such wheel"),
    ],
)
def test_wrong_words_are_named(refused: Refused, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused(*arguments)


@pytest.mark.parametrize("verb", ["deploy", "calibrate"])
def test_a_batch_of_none_is_refused_by_its_option(refused: Refused, verb: str) -> None:
    options = ("--data", "samples.npz", "--batch-size", "0", "-o", "out")
    assert refused(verb, "model.onnx", *options) == "--batch-size 0: must be at least 1"


def test_a_text_is_no_archive(folder: Path, refused: Refused) -> None:
    for arguments in (
        ("calibrate", "model.onnx", "--statistics", "model.table", "-o", "out"),
        ("calibrate", "--merge", "model.table", "-o", "out"),
        ("run", "model.bmodel", "--inputs", "model.table", "-o", "out.npz"),
    ):
        assert "(it holds no arrays)" in refused(*arguments)


# ---- shards


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("model.onnx", "other.onnx", "--data", "samples.npz"), "other.onnx: is one file too many"),
        (("model.onnx", "--data", "samples.npz", "--shard", "4"), "--shard 4: is not NUMBER/COUNT"),
        (("model.onnx", "--statistics", "model.table.statistics.npz", "--shard", "1/2"), "--shard: splits samples"),
        (("model.onnx", "--data", "samples.npz", "--shard", "1/2", "--tpu-mlir-names"), "--shard: writes a part"),
        (("--merge", "part", "--data", "samples.npz"), "--merge: takes the parts alone"),
        (("--merge", "part", "--tpu-mlir-names"), "--merge: writes ONNX names"),
        (("--merge", "part"), "part: no such file"),
        (("--merge", "model.table"), "model.table: is no part of a calibration"),
    ],
)
def test_shards_that_cannot_be_are_refused(refused: Refused, arguments: tuple[str, ...], told: str) -> None:
    assert refused("calibrate", *arguments, "-o", "out").startswith(told)
