"""A compiler from ONNX networks to verified .bmodel files for Sophgo TPUs."""
