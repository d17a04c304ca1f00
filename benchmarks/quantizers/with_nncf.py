"""Quantizes with NNCF for its NPU target (8-bit activations and weights), SETTING being one of `SETTINGS`."""

import functools
from pathlib import Path
from typing import Any

import nncf
import onnx
import onnxruntime
from job import Feed, Quantized, serve

without_correction = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)

SETTINGS: dict[str, dict[str, Any]] = {
    "mixed": {"preset": nncf.QuantizationPreset.MIXED},
    "mixed, full bias correction": {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False},
    "mixed, no bias correction": {
        "preset": nncf.QuantizationPreset.MIXED,
        "advanced_parameters": without_correction,
    },
    "performance": {"preset": nncf.QuantizationPreset.PERFORMANCE},
}


def quantize(model: Path, feeds: list[Feed], setting: str, folder: Path) -> Quantized:
    quantized = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(feeds),
        target_device=nncf.TargetDevice.NPU,
        subset_size=len(feeds),
        **SETTINGS[setting],
    )
    session = onnxruntime.InferenceSession(quantized.SerializeToString(), providers=["CPUExecutionProvider"])
    return Quantized(functools.partial(session.run, None), nncf.__version__)


if __name__ == "__main__":
    serve(quantize)
