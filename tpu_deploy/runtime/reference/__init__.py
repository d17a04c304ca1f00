"""The integer-exact meaning of every TPU operation, in numpy and onnxruntime."""
