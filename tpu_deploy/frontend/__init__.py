"""ONNX in, TOP out, and TOP back out to ONNX."""
