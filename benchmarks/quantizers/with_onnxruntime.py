"""Quantizes with onnxruntime.quantization (QDQ, weights by channel), SETTING being types, scheme and method of ranges.

"S8" are symmetric int8 activations, "U8" asymmetric uint8 ones. The entropy method is left out: with the number of bins
that `quantize_static` fixes it finds the ranges of MinMax.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
from job import Feed, Quantized, serve
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SCHEMES = {"S8": (QuantType.QInt8, True), "U8": (QuantType.QUInt8, False)}
METHODS = {"MinMax": CalibrationMethod.MinMax, "Percentile": CalibrationMethod.Percentile}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The samples, one after another."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def quantize(model: Path, feeds: list[Feed], setting: str, folder: Path) -> Quantized:
    scheme, method = setting.split()
    kind, symmetric = SCHEMES[scheme]
    prepared, target = folder / "prepared.onnx", folder / "quantized.onnx"
    quant_pre_process(model, prepared)
    quantize_static(
        prepared,
        target,
        Reader(feeds),
        per_channel=True,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    return Quantized(functools.partial(session.run, None), onnxruntime.__version__)


if __name__ == "__main__":
    serve(quantize)
