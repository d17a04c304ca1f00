import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tpu_deploy import demo

FOLDER = Path(demo.__file__).parent
MODEL = FOLDER / "fashion_mnist.onnx"
IMAGES = FOLDER / "fashion_mnist.npz"


@pytest.fixture(scope="module")
def session():
    return onnxruntime.InferenceSession(demo.demo_model_path(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def graph():
    return onnx.load(demo.demo_model_path()).graph


def logits(session, images):
    return session.run([demo.OUTPUT_NAME], {demo.INPUT_NAME: images})[0]


def test_the_notice_records_the_hash_of_each_packaged_file():
    recorded = dict(re.findall(r"`(fashion_mnist\.\w+)` \| `([0-9a-f]{64})`", (FOLDER / "NOTICE.md").read_text()))
    assert recorded == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (MODEL, IMAGES)}


def test_the_notice_carries_the_licence_of_the_images():
    text = " ".join((FOLDER / "NOTICE.md").read_text().replace(">", " ").split())
    assert "Copyright (c) 2017 Zalando SE" in text
    assert "The above copyright notice and this permission notice shall be included in all copies" in text


def test_every_packaged_file_and_its_notice_reach_the_wheel():
    configuration = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = configuration["tool"]["setuptools"]["package-data"]["tpu_deploy.demo"]
    assert all(any(path.match(pattern) for pattern in patterns) for path in (MODEL, IMAGES, FOLDER / "NOTICE.md"))


def test_network_and_images_are_small():
    assert MODEL.stat().st_size < 600_000
    assert MODEL.stat().st_size + IMAGES.stat().st_size < 1_200_000


def test_the_network_passes_the_onnx_checker():
    onnx.checker.check_model(demo.demo_model_path(), full_check=True)


def test_the_network_takes_any_batch_of_28_by_28_images(graph):
    (image,), (output,) = graph.input, graph.output
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (image, output)]
    assert (image.name, output.name) == (demo.INPUT_NAME, demo.OUTPUT_NAME)
    assert shapes == [["N", 1, 28, 28], ["N", len(demo.CLASS_NAMES)]]


def test_the_network_shows_what_the_compiler_folds_and_fuses(graph):
    reader = {name: node for node in graph.node for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    groups = {attribute.i for node in convolutions for attribute in node.attribute if attribute.name == "group"}
    assert all(reader[node.output[0]].op_type == "BatchNormalization" for node in convolutions)
    assert 1 in groups and max(groups) > 1
    assert {"Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm"} <= {node.op_type for node in graph.node}


def test_every_node_is_named_as_its_output(graph):
    assert [node.name for node in graph.node] == [node.output[0] for node in graph.node]


def test_batch_normalization_has_sound_statistics(graph):
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert all(np.isfinite(values).all() for values in weights.values())
    assert all((weights[name] > 0).all() for name in weights if name.endswith("running_var"))


def test_float_accuracy_on_the_packaged_images_is_the_stated_one(session):
    images, labels = demo.test_images()
    measured = (logits(session, images).argmax(1) == labels).mean()
    # Another machine's float arithmetic may tip one image that lies on the border of two classes.
    assert abs(measured - demo.FLOAT_ACCURACY) <= 1.01 / len(labels)


def test_an_image_gets_the_same_logits_alone_and_in_a_batch(session):
    images = demo.test_images()[0][:4]
    alone = np.concatenate([logits(session, image[np.newaxis]) for image in images])
    np.testing.assert_allclose(logits(session, images), alone, rtol=0, atol=1e-4)  # sums in another order


def test_test_images_are_fifty_of_each_class_in_the_network_s_type():
    images, labels = demo.test_images()
    assert images.shape == (500, 1, 28, 28) and images.dtype == np.float32
    assert labels.dtype == np.int64
    assert Counter(labels.tolist()) == dict.fromkeys(range(len(demo.CLASS_NAMES)), 50)


def test_calibration_samples_are_128_feeds_of_one_image():
    samples = list(demo.calibration_samples())
    assert len(samples) == 128
    assert all(list(sample) == ["image"] for sample in samples)
    assert {(sample["image"].shape, sample["image"].dtype.name) for sample in samples} == {((1, 1, 28, 28), "float32")}


def test_no_calibration_image_is_a_test_image():
    calibration = {sample["image"].tobytes() for sample in demo.calibration_samples()}
    assert calibration.isdisjoint(image.tobytes() for image in demo.test_images()[0])


def test_calibration_images_hold_every_brightness_of_the_test_images():
    samples = np.concatenate([sample["image"] for sample in demo.calibration_samples()])
    images = demo.test_images()[0]
    assert (samples.min(), samples.max()) == (images.min(), images.max())


def test_normalise_maps_pixels_by_mean_and_standard_deviation():
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[1] = 255
    normalised = demo.normalise(pixels)
    assert normalised.shape == (2, 1, 28, 28) and normalised.dtype == np.float32
    np.testing.assert_allclose(normalised[0], -0.286 / 0.353, rtol=1e-6)
    np.testing.assert_allclose(normalised[1], (1 - 0.286) / 0.353, rtol=1e-6)


def test_class_names_are_those_stored_with_the_images():
    with np.load(IMAGES) as archive:
        assert tuple(archive["class_names"].tolist()) == demo.CLASS_NAMES


def test_the_archive_names_no_date():
    with zipfile.ZipFile(IMAGES) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_importing_the_demo_loads_no_heavy_module():
    heavy = "{'onnx', 'onnxruntime', 'xdsl', 'pandas', 'scipy'}"
    command = f"import sys, tpu_deploy.demo; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    finished = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr.strip()) == (0, "")
