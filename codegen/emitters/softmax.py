"""Softmax in float32."""
