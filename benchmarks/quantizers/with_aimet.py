"""Quantizes with AIMET (8-bit activations, 8-bit weights by channel), SETTING being one of `SETTINGS`.

The outputs are those of its simulation of quantization in float arithmetic.
"""

from importlib.metadata import version
from pathlib import Path

import onnx
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.cross_layer_equalization import equalize_model
from aimet_onnx.quantsim import QuantizationSimModel
from job import Feed, Quantized, serve

SETTINGS = {
    "min_max": ("min_max", False),
    "tf_enhanced": ("tf_enhanced", False),
    "CLE, tf_enhanced": ("tf_enhanced", True),
}
"""The scheme of ranges, and whether layers are equalized before."""


def quantize(model: Path, feeds: list[Feed], setting: str, folder: Path) -> Quantized:
    scheme, equalize = SETTINGS[setting]
    network = onnx.load(model)
    fold_all_batch_norms_to_weight(network)
    if equalize:
        equalize_model(network)
    simulation = QuantizationSimModel(
        network,
        quant_scheme=scheme,
        dummy_input=feeds[0],
        providers=["CPUExecutionProvider"],
    )
    simulation.compute_encodings(feeds)
    return Quantized(lambda feed: simulation.session.run(None, feed), version("aimet-onnx"))


if __name__ == "__main__":
    serve(quantize)
