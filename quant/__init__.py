"""From a calibration table to a quantization plan."""
