"""The instruction set as bit tables."""
