"""The two dialects, quantized types, the weight store and their text."""
