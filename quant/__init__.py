"""From a calibration table to a quantization plan."""

from tpu_deploy.quant.plan import FLOAT32, QuantizationPlan, TensorQuantization
from tpu_deploy.quant.scheme import Scheme, make_plan

__all__ = ["FLOAT32", "QuantizationPlan", "Scheme", "TensorQuantization", "make_plan"]
