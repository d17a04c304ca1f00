from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_model import SHAPE, samples, saved, small_model

import tpu_deploy
from tpu_deploy.pipeline.labels import labelled

IMAGES = samples(9, seed=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its table and bmodels of batch 1 and 4."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = saved(small_model("N"), folder / "m.onnx")
    table = tpu_deploy.calibrate(model, samples(8), output=folder / "m.table")
    for batch in (1, 4):
        output = folder / f"{batch}.bmodel"
        tpu_deploy.deploy(
            model, calibration=table, output=output, input_shapes={"image": (batch, *SHAPE[1:])}, verify=False
        )
    return folder


def answers(made: Path) -> np.ndarray[Any, Any]:
    """The class the float network gives each image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(made / "m.onnx")
    return np.asarray(session.run(None, {"image": IMAGES})[0]).argmax(1)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_reference_and_bmodel_give_the_same_figures_with_any_number_of_workers(
    made: Path, batch: int, workers: int
) -> None:
    data = {"image": IMAGES, "labels": np.arange(9) % 5}
    shapes = {"image": (batch, *SHAPE[1:])}
    by_reference = tpu_deploy.evaluate(
        made / "m.onnx", data, calibration=made / "m.table", input_shapes=shapes, workers=workers
    )
    by_bmodel = tpu_deploy.evaluate(made / f"{batch}.bmodel", data, against=made / "m.onnx", workers=workers)
    assert by_reference.results == by_bmodel.results
    assert [each.score.metric for each in by_reference.results] == ["topk", "agreement", "sqnr"]
    assert (by_reference.samples, by_bmodel.samples) == (9, 9)
    assert (by_reference.arithmetic, by_bmodel.arithmetic) == ("INT8 (reference)", "bmodel (simulator)")
    assert 20 < by_reference["sqnr"].value < 60


def test_the_float_model_stands_beside_and_changes_are_paired(made: Path) -> None:
    data = {"image": IMAGES, "labels": answers(made)}
    quantized = tpu_deploy.evaluate(made / "m.onnx", data, calibration=made / "m.table").results[0]
    assert quantized.float_score is not None and quantized.change is not None
    assert quantized.float_score.value == 1
    assert quantized.change.value == quantized.score.value - 1
    alone = tpu_deploy.evaluate(made / "m.onnx", data)
    assert alone.arithmetic == "float32 (onnxruntime)"
    assert [each.score for each in alone.results] == [quantized.float_score]


def test_a_float_precision_needs_no_table(made: Path) -> None:
    found = tpu_deploy.evaluate(made / "m.onnx", {"image": IMAGES}, "sqnr", precision="f32")
    assert found.arithmetic == "F32 (reference)" and found["sqnr"].value > 100


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"metrics": "topk", "calibration": True}, "needs labels"),
        ({"metrics": "agreement"}, "compares with the float model"),
        ({}, "nothing to tell"),
        ({"metrics": "nothing_of_that_name:score"}, r"cannot be imported \(ModuleNotFoundError"),
        ({"metrics": "math:score"}, "has no score"),
        ({"precision": "int8"}, "INT8 operations need ranges"),
        ({"precision": "f16", "workers": 0}, "--workers 0: must be at least 1"),
        ({"metrics": "topk", "labels": [1, 2]}, "2 labels for 9 samples"),
        ({"metrics": "topk", "labels": list(range(10))}, "10 labels for 9 samples"),
    ],
)
def test_what_cannot_be_told_is_refused(made: Path, arguments: dict[str, Any], told: str) -> None:
    if arguments.get("calibration"):
        arguments = arguments | {"calibration": made / "m.table"}
    with pytest.raises(tpu_deploy.BadInput, match=told):
        tpu_deploy.evaluate(made / "m.onnx", {"image": IMAGES}, **arguments)


def test_options_of_onnx_models_are_refused_for_a_bmodel(made: Path) -> None:
    with pytest.raises(tpu_deploy.BadInput, match="--calibration: is for ONNX models"):
        tpu_deploy.evaluate(made / "1.bmodel", {"image": IMAGES}, "sqnr", calibration=made / "m.table")


def test_another_model_to_compare_with_is_refused(made: Path) -> None:
    other = small_model()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "logits"
    told = r"has outputs logits, but .*1.bmodel has scores; give the model it was made of \(--against\)"
    with pytest.raises(tpu_deploy.BadInput, match=told):
        tpu_deploy.evaluate(made / "1.bmodel", {"image": IMAGES}, "sqnr", against=other)


def test_a_metric_of_ones_own_is_found_in_the_current_folder(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metric_of_test.py").write_text(
        "def score(outputs, label):\n    return float(outputs['scores'].shape == (1, 5)) + label\n"
        "def broken(outputs, label):\n    return outputs['nothing']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    data = {"image": IMAGES, "labels": np.arange(9.0)}
    found = tpu_deploy.evaluate(made / "m.onnx", data, "own_metric_of_test:score", calibration=made / "m.table")
    assert found.results[0].score.value == 5.0 and found.results[0].change is not None
    with pytest.raises(tpu_deploy.BadInput, match=r"raised KeyError: 'nothing' \(.*own_metric_of_test.py, line 4\)"):
        tpu_deploy.evaluate(made / "m.onnx", data, "own_metric_of_test:broken")


# ---- labels


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures in three folders."""
    for number in range(6):
        path = tmp_path / "pictures" / ("cat", "ape", "dog")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(path)
    return tmp_path / "pictures"


def labels_of(made: Path, data: Any, labels: Any = None) -> list[Any]:
    """The label of each sample in order."""
    from tpu_deploy.pipeline.source import Source, canonical_network, input_specs

    source = Source.of(made / "m.onnx")
    found = labelled(data, input_specs(canonical_network(source, source.shapes_for_batch(None, 1))), labels=labels)
    given = [found.label(number, feed, 0) for number, feed in enumerate(found.samples)]
    return [None if each is None else each.tolist() for each in given]


def test_a_folder_for_each_class_numbers_classes_by_name(made: Path, pictures: Path) -> None:
    assert labels_of(made, pictures) == [0, 0, 1, 1, 2, 2]
    for name, number in (("ape", "10"), ("cat", "2"), ("dog", "0")):
        (pictures / name).rename(pictures / number)
    assert labels_of(made, pictures) == [0, 0, 10, 10, 2, 2]
    Image.new("RGB", (16, 16)).save(pictures / "loose.png")
    assert labels_of(made, pictures) == [None] * 7


@pytest.mark.parametrize("spelling", ["path", "name", "stem"])
def test_a_csv_names_files_in_any_order_and_may_accept_several_classes(
    made: Path, pictures: Path, spelling: str
) -> None:
    files = sorted(pictures.rglob("*.png"))
    names = {"path": [str(f.relative_to(pictures)) for f in files], "name": [f.name for f in files]}
    lines = [f"{name},{int(files[k].stem)},7" for k, name in enumerate(names.get(spelling, [f.stem for f in files]))]
    csv = pictures.parent / "labels.csv"
    csv.write_text("\n".join(["file,class", *lines[::-1]] if spelling != "stem" else lines))
    if spelling == "stem":
        csv.write_text("\n".join(f"a{line}" for line in lines))
        for file in files:
            file.rename(file.with_stem(f"a{file.stem}"))
    assert labels_of(made, pictures, csv) == [[int(f.stem), 7] for f in files]


def test_labels_lie_in_files_of_arrays_or_among_the_samples(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=IMAGES, labels=np.arange(9))
    assert labels_of(made, tmp_path / "data.npz") == list(range(9))
    plain = tpu_deploy.calibrate(made / "m.onnx", {"image": IMAGES})
    assert tpu_deploy.calibrate(made / "m.onnx", tmp_path / "data.npz").entries == plain.entries
    np.save(tmp_path / "l.npy", np.arange(9) + 1)
    np.savez(tmp_path / "l.npz", labels=np.arange(9) + 1)
    (tmp_path / "l.csv").write_text("class\n" + "\n".join(str(number + 1) for number in range(9)))
    assert labels_of(made, {"image": IMAGES}, tmp_path / "l.npy") == list(range(1, 10))
    assert labels_of(made, {"image": IMAGES}, tmp_path / "l.npz") == list(range(1, 10))
    assert labels_of(made, {"image": IMAGES}, tmp_path / "l.csv") == [[number] for number in range(1, 10)]
    (tmp_path / "each").mkdir()
    for number in range(3):
        np.savez(tmp_path / "each" / f"{number}.npz", image=IMAGES[number], labels=np.array([number, 9]))
    assert labels_of(made, tmp_path / "each") == [[0, 9], [1, 9], [2, 9]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file,class\n0.png,cat", "line 2: '0.png,cat' is not"),
        ("9.png,1", "has no line for"),
        ("", "0 labels for 6 samples"),
        ("1\n2", "2 labels for 6 samples"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(made: Path, pictures: Path, content: str, told: str) -> None:
    (pictures.parent / "l.csv").write_text(content)
    with pytest.raises(tpu_deploy.BadInput, match=told):
        labels_of(made, pictures, pictures.parent / "l.csv")


def test_a_file_of_labels_that_is_none_is_refused(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(9))
    np.savez(tmp_path / "words.npz", image=IMAGES, labels=np.array(["cat"] * 9))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for name, told in (("none.csv", "cannot be read"), ("other.npz", "no array 'labels'"), ("broken.npy", "cannot")):
        with pytest.raises(tpu_deploy.BadInput, match=told):
            labels_of(made, {"image": IMAGES}, tmp_path / name)
    with pytest.raises(tpu_deploy.BadInput, match=r"words.npz: its labels are"):
        labels_of(made, tmp_path / "words.npz")
