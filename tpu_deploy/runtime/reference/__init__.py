"""The integer-exact meaning of every TPU operation, in numpy and onnxruntime."""

from tpu_deploy.runtime.reference.interpreter import Reference
from tpu_deploy.runtime.reference.softmax import softmax_chip

__all__ = ["Reference", "softmax_chip"]
